import pytest
import torch

from speechssl.models.dropout import Dropout, drop_signs, dropout, dropped_levels, keep_mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.05, 0.1, 0.5, 0.9])
def test_keeps_and_scales_as_promised(probability: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = dropout(torch.ones(1000, 1003, dtype=dtype), probability, training=True)
    kept = values != 0
    expected = 1 - dropped_levels(probability) / 256
    assert abs(expected - (1 - probability)) <= 1 / 512
    assert kept.float().mean().item() == pytest.approx(expected, abs=3e-3)
    assert values[kept].float().unique().tolist() == pytest.approx([1 / expected], rel=4e-3)
    assert values.float().mean().item() == pytest.approx(1.0, abs=0.01)
    variance = (1 - expected) / expected
    assert values.float().var().item() == pytest.approx(variance, rel=0.02)


def test_every_place_is_dropped_alike_and_alone() -> None:
    torch.manual_seed(0)
    kept = keep_mask(torch.empty(20_000, 64), dropped_levels(0.3))
    rates = kept.mean(0)
    assert rates.min() > 0.68
    assert rates.max() < 0.72
    correlation = torch.corrcoef(kept.t()) - torch.eye(64)
    assert correlation.abs().max() < 0.04


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_signs_tell_what_the_mask_drops(dtype: torch.dtype) -> None:
    like = torch.empty(100, 77, dtype=dtype)
    torch.manual_seed(3)
    mask = keep_mask(like, 100)
    torch.manual_seed(3)
    signs = drop_signs(like, 100)
    assert signs.dtype == dtype
    assert torch.equal(signs, mask * 2 - 1)
    assert mask.unique().tolist() == [0, 1]


@pytest.mark.parametrize("size", [1, 7, 8, 9, 1001])
def test_any_number_of_elements(size: int) -> None:
    assert dropout(torch.ones(size), 0.5, training=True).shape == (size,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_seed_decides(dtype: torch.dtype) -> None:
    inputs = torch.randn(50, 60, dtype=dtype)
    torch.manual_seed(1)
    first = dropout(inputs, 0.2, training=True)
    other = dropout(inputs, 0.2, training=True)
    torch.manual_seed(1)
    again = dropout(inputs, 0.2, training=True)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_gradient_is_that_of_a_fixed_mask() -> None:
    inputs = torch.randn(30, 40, dtype=torch.float64, requires_grad=True)
    outputs = dropout(inputs, 0.25, training=True)
    factor = torch.where(outputs == 0, 0.0, 256 / (256 - 64)).double()
    torch.testing.assert_close(outputs, inputs * factor)
    upstream = torch.randn_like(outputs)
    outputs.backward(upstream)
    torch.testing.assert_close(inputs.grad, upstream * factor)


def test_not_contiguous_inputs() -> None:
    inputs = torch.randn(20, 30).t()
    outputs = dropout(inputs, 0.5, training=True)
    kept = outputs != 0
    torch.testing.assert_close(outputs[kept], 2 * inputs[kept])


def test_off_in_evaluation_and_at_zero() -> None:
    inputs = torch.randn(10, 10)
    assert Dropout(0.5).eval()(inputs) is inputs
    assert Dropout(0.0).train()(inputs) is inputs
