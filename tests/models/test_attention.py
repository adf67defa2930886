import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.models.attention import PLAIN_FRAMES, attention


def _inputs(frames: int, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    shape = (3, 2, frames, 8)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("frames", [1, 37, PLAIN_FRAMES + 3])
def test_equals_scaled_dot_product_attention(frames: int, padded: bool) -> None:
    inputs = _inputs(frames, torch.float64)
    lengths = torch.tensor([frames, max(1, frames // 2), 1])
    padding = torch.arange(frames) >= lengths[:, None] if padded else None
    keep = None if padding is None else ~padding[:, None, None, :]
    expected = F.scaled_dot_product_attention(*inputs, attn_mask=keep)
    upstream = torch.randn_like(expected)
    expected_gradients = torch.autograd.grad(expected, inputs, upstream)

    actual = attention(*inputs, padding, 0.0)
    torch.testing.assert_close(actual, expected)
    gradients = torch.autograd.grad(actual, inputs, upstream)
    torch.testing.assert_close(gradients, expected_gradients)


def test_recording_without_frames_gives_numbers() -> None:
    query, key, value = _inputs(5, torch.float32)
    padding = torch.tensor([[False] * 5, [True] * 5, [False] * 5])
    assert attention(query, key, value, padding, 0.0).isfinite().all()


def test_dropout_drops_weights_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    query, key = torch.zeros(1, 1, 4000, 1), torch.zeros(1, 1, 4000, 1)
    query, key = query[:, :, :400], key[:, :, :400]
    value = torch.ones(1, 1, 400, 1)
    context = attention(query, key, value, None, 0.25)
    assert context.mean().item() == pytest.approx(1.0, abs=0.01)
    # 400 equal weights, each kept with probability 3/4: variance (1/3) / 400
    assert context.var().item() == pytest.approx(1 / 1200, rel=0.3)
