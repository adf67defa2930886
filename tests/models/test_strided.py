from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from speechssl.models import strided
from speechssl.models.frontend import CONV_KERNELS, CONV_STRIDES
from speechssl.models.strided import gelu_linear, joined_linear, strided_linear


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("kernel", "stride"), sorted(set(zip(CONV_KERNELS, CONV_STRIDES))))
def test_equals_conv1d_in_values_and_gradients(
    kernel: int, stride: int, bias: bool, gelu: bool
) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(3, 12 * stride, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 5, kernel, dtype=torch.float64, requires_grad=True)
    shift = torch.randn(7, dtype=torch.float64, requires_grad=True) if bias else None
    leaves = [inputs, weight] + ([shift] if shift is not None else [])

    activated = F.gelu(inputs) if gelu else inputs
    expected = F.conv1d(activated.transpose(1, 2), weight, shift, stride).transpose(1, 2)
    valid = expected.size(1)
    assert valid == (12 if kernel == stride else 11)
    upstream = torch.randn_like(expected)
    expected_gradients = torch.autograd.grad(expected, leaves, upstream)

    actual = strided_linear(inputs, weight, shift, stride, gelu=gelu)[:, :valid]
    gradients = torch.autograd.grad(actual, leaves, upstream)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(gradients, expected_gradients)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 2)])
def test_blocks_of_rows_change_nothing(
    kernel: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strided, "BLOCK", 5)
    test_equals_conv1d_in_values_and_gradients(kernel, stride, bias=True, gelu=True)
    monkeypatch.setattr(strided, "BLOCK", 4)  # divides the rows
    test_equals_conv1d_in_values_and_gradients(kernel, stride, bias=False, gelu=True)


@pytest.mark.parametrize("gelu", [False, True])
def test_no_frames_give_none(gelu: bool) -> None:
    inputs, weight = torch.randn(1, 0, 5, requires_grad=True), torch.randn(7, 5, 1)
    output = strided_linear(inputs, weight, torch.randn(7), stride=1, gelu=gelu)
    assert output.shape == (1, 0, 7)
    output.sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.shape == inputs.shape


@pytest.mark.parametrize("frames", [0, 9])
def test_gelu_linear_equals_gelu_and_linear(frames: int) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(2, frames, 5, dtype=torch.float64, requires_grad=True)
    linear = torch.nn.Linear(5, 7).double()
    leaves = [inputs, linear.weight, linear.bias]
    expected = linear(F.gelu(inputs))
    upstream = torch.randn_like(expected)
    expected_gradients = torch.autograd.grad(expected, leaves, upstream)
    actual = gelu_linear(inputs, linear.weight, linear.bias)
    torch.testing.assert_close(actual, expected)
    gradients = torch.autograd.grad(actual, leaves, upstream)
    torch.testing.assert_close(gradients, expected_gradients)


def test_joined_linear_equals_linears_side_by_side() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(2, 9, 5, dtype=torch.float64, requires_grad=True)
    maps = [torch.nn.Linear(5, size).double() for size in (7, 3, 4)]
    weights, biases = [m.weight for m in maps], [m.bias for m in maps]
    leaves = [inputs, *weights, *biases]
    expected = torch.cat([m(inputs) for m in maps], -1)
    upstream = torch.randn_like(expected)
    expected_gradients = torch.autograd.grad(expected, leaves, upstream)
    actual = joined_linear(inputs, weights, biases)
    torch.testing.assert_close(actual, expected)
    gradients = torch.autograd.grad(actual, leaves, upstream)
    torch.testing.assert_close(gradients, expected_gradients)


def saved_tensors(compute: Callable[[], object]) -> list[torch.Tensor]:
    """What autograd keeps of a computation in bf16."""
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16):
        compute()
    return kept


MAPS = {
    "gelu": gelu_linear,
    "joined": lambda inputs, weight, bias: joined_linear(inputs, [weight], [bias]),
}


@pytest.mark.parametrize("kind", MAPS)
def test_keeps_no_copy_of_the_weight(kind: str) -> None:
    inputs, linear = torch.randn(2, 9, 32, requires_grad=True), torch.nn.Linear(32, 16)
    kept = saved_tensors(lambda: MAPS[kind](inputs, linear.weight, linear.bias))
    weight = linear.weight.untyped_storage().data_ptr()
    others = [x for x in kept if x.untyped_storage().data_ptr() != weight]
    assert [x.numel() for x in others] == [inputs.numel()]


@pytest.mark.parametrize("kind", MAPS)
def test_keeps_a_weight_that_was_computed_in_the_autocast_type(kind: str) -> None:
    inputs, linear = torch.randn(2, 9, 32, requires_grad=True), torch.nn.Linear(32, 16)
    adapted = linear.weight + 1.0
    kept = saved_tensors(lambda: MAPS[kind](inputs, adapted, linear.bias))
    assert all(x.dtype == torch.bfloat16 for x in kept)
    assert sum(x.numel() for x in kept) == inputs.numel() + adapted.numel()


def test_computes_in_the_autocast_type() -> None:
    inputs, weight = torch.randn(2, 8, 32, requires_grad=True), torch.randn(16, 32, 3)
    bias = torch.randn(16, requires_grad=True)
    weight.requires_grad_()
    plain = strided_linear(inputs, weight, bias, 2)
    with torch.autocast("cpu", torch.bfloat16):
        fast = strided_linear(inputs, weight, bias, 2)
    assert fast.dtype == torch.bfloat16
    torch.testing.assert_close(fast.float(), plain, rtol=0.05, atol=0.2)
    fast.sum().backward()
    assert inputs.grad is not None
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    assert bias.grad is not None
    assert bias.grad.dtype == torch.float32
