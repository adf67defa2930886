import pytest
import torch
import torch.nn.functional as F

from speechssl.models.grouped import grouped_convolution


@pytest.mark.parametrize("frames", [1, 7, 40])
@pytest.mark.parametrize(("size", "kernel"), [(4, 5), (4, 32), (48, 16), (250, 9)])
@pytest.mark.parametrize("causal", [False, True])
def test_equals_conv1d_in_values_and_gradients(
    frames: int, size: int, kernel: int, causal: bool
) -> None:
    torch.manual_seed(0)
    groups = 2
    inputs = torch.randn(3, frames, groups * size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(groups * size, size, kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(groups * size, dtype=torch.float64, requires_grad=True)
    before = kernel - 1 if causal else kernel // 2
    padded = F.pad(inputs.transpose(1, 2), (before, kernel - 1 - before))
    expected = F.conv1d(padded, weight, bias, groups=groups).transpose(1, 2)
    actual = grouped_convolution(inputs, weight, bias, before)
    torch.testing.assert_close(actual, expected)
    leaves = [inputs, weight, bias]
    upstream = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, leaves, upstream),
        torch.autograd.grad(expected, leaves, upstream),
    )


def test_computes_in_the_autocast_type() -> None:
    torch.manual_seed(0)
    inputs, weight, bias = torch.randn(2, 50, 32), torch.randn(32, 8, 16), torch.randn(32)
    expected = grouped_convolution(inputs, weight, bias, 8)
    with torch.autocast("cpu", torch.bfloat16):
        actual = grouped_convolution(inputs, weight, bias, 8)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.float(), expected, rtol=0.02, atol=0.1)
