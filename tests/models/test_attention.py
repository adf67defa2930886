import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.models.wav2vec2.wavlm_attention import WavLMSelfAttention

from speechssl.models.attention import (
    PLAIN_FRAMES,
    RelativeBias,
    SelfAttention,
    attention,
    biased_attention,
)
from speechssl.models.dropout import drop_signs

HEADS, SIZE = 2, 8


def _projected(frames: int, dtype: torch.dtype) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(3, frames, 3 * HEADS * SIZE, dtype=dtype, requires_grad=True)


def _parts(projected: Tensor) -> list[Tensor]:
    """[B, T, 3 D] -> queries, keys, values [B, H, T, d]."""
    return [
        part.unflatten(-1, (HEADS, SIZE)).transpose(1, 2) for part in projected.chunk(3, dim=-1)
    ]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("frames", [1, 37, PLAIN_FRAMES + 3])
def test_equals_scaled_dot_product_attention(frames: int, padded: bool) -> None:
    projected = _projected(frames, torch.float64)
    lengths = torch.tensor([frames, max(1, frames // 2), 1])
    padding = torch.arange(frames) >= lengths[:, None] if padded else None
    keep = None if padding is None else ~padding[:, None, None, :]
    expected = F.scaled_dot_product_attention(*_parts(projected), attn_mask=keep)
    expected = expected.transpose(1, 2).flatten(2)
    upstream = torch.randn_like(expected)
    (expected_gradient,) = torch.autograd.grad(expected, projected, upstream)

    actual = attention(projected, HEADS, padding, 0.0)
    torch.testing.assert_close(actual, expected)
    (gradient,) = torch.autograd.grad(actual, projected, upstream)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("frames", [1, 37, PLAIN_FRAMES + 3])
def test_causal_attention_is_that_with_a_triangular_mask(frames: int, padded: bool) -> None:
    projected = _projected(frames, torch.float64)
    lengths = torch.tensor([frames, max(1, frames // 2), 1])
    padding = torch.arange(frames) >= lengths[:, None]
    earlier = torch.ones(frames, frames, dtype=torch.bool).tril()
    expected = F.scaled_dot_product_attention(*_parts(projected), attn_mask=earlier)
    expected = expected.transpose(1, 2).flatten(2)
    upstream = torch.randn_like(expected)
    if padded:  # what stands behind ends is undefined
        upstream[padding] = 0
    (expected_gradient,) = torch.autograd.grad(expected, projected, upstream)

    actual = attention(projected, HEADS, padding if padded else None, 0.0, causal=True)
    real = ~padding if padded else torch.ones_like(padding)
    torch.testing.assert_close(actual[real], expected[real])
    (gradient,) = torch.autograd.grad(actual, projected, upstream)
    torch.testing.assert_close(gradient, expected_gradient)


def test_causal_attention_drops_weights_of_earlier_frames_only() -> None:
    projected = _projected(11, torch.float64)
    torch.manual_seed(1)
    actual = attention(projected, HEADS, None, 0.25, causal=True)
    later = projected[:, 6:].detach() + 1.0
    torch.manual_seed(1)
    changed = attention(torch.cat([projected[:, :6], later], dim=1), HEADS, None, 0.25, causal=True)
    torch.testing.assert_close(actual[:, :6], changed[:, :6], rtol=0, atol=0)
    without = attention(projected, HEADS, None, 0.0, causal=True)
    assert not torch.equal(actual[:, :6], without[:, :6])


def test_dropout_has_the_gradient_of_its_mask() -> None:
    projected = _projected(11, torch.float64)
    torch.manual_seed(1)
    actual = attention(projected, HEADS, None, 0.25)

    query, key, value = _parts(projected)
    weights = (query @ key.transpose(-1, -2) / SIZE**0.5).softmax(-1)
    torch.manual_seed(1)
    kept = drop_signs(weights.detach(), 64) > 0
    assert 0 < kept.sum() < kept.numel()
    expected = (torch.where(kept, weights / 0.75, 0.0) @ value).transpose(1, 2).flatten(2)

    torch.testing.assert_close(actual, expected)
    upstream = torch.randn_like(expected)
    (expected_gradient,) = torch.autograd.grad(expected, projected, upstream)
    (gradient,) = torch.autograd.grad(actual, projected, upstream)
    torch.testing.assert_close(gradient, expected_gradient)


def test_recording_without_frames_gives_numbers() -> None:
    padding = torch.tensor([[False] * 5, [True] * 5, [False] * 5])
    assert attention(_projected(5, torch.float32), HEADS, padding, 0.0).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_weights_and_keeps_the_mean(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    projected = torch.cat([torch.zeros(1, 400, 2), torch.ones(1, 400, 1)], dim=-1)
    context = attention(projected.to(dtype), 1, None, 0.25).float()
    assert context.mean().item() == pytest.approx(1.0, abs=0.01)
    # 400 equal weights, each kept with probability 3/4: variance (1/3) / 400
    assert context.var().item() == pytest.approx(1 / 1200, rel=0.3)


@pytest.mark.parametrize("frames", [9, PLAIN_FRAMES + 3])
def test_outputs_at_positions_are_those_of_all(frames: int) -> None:
    torch.manual_seed(0)
    module = SelfAttention(HEADS * SIZE, HEADS, 0.0)
    inputs = torch.randn(2, frames, HEADS * SIZE)
    positions = torch.tensor([0, 3, frames - 1, frames, frames + 5])
    chosen = module(inputs, None, positions)
    torch.testing.assert_close(chosen, module(inputs, None).flatten(0, 1)[positions])


def _relative() -> tuple[RelativeBias, torch.nn.Embedding]:
    torch.manual_seed(0)
    bias = RelativeBias(buckets=320, furthest=800, heads=HEADS)
    torch.nn.init.normal_(bias.embedding)
    return bias, torch.nn.Embedding.from_pretrained(bias.embedding.detach())


@pytest.mark.parametrize("frames", [1, 2, 81, 300, 1000])
def test_relative_bias_is_that_of_wavlm(frames: int) -> None:
    """Beside torchaudio's own computation."""
    bias, embedding = _relative()
    theirs = WavLMSelfAttention(
        HEADS * SIZE, HEADS, has_relative_attention_bias=True, num_buckets=320, max_distance=800
    )
    theirs.rel_attn_embed = embedding
    torch.testing.assert_close(bias(frames), theirs.compute_bias(frames, frames), rtol=0, atol=0)


def test_near_distances_have_buckets_of_their_own() -> None:
    bias, _ = _relative()
    distances = torch.arange(-1000, 1001)
    buckets = bias.bucket(distances)
    assert set(buckets.tolist()) <= set(range(320))
    near = buckets[distances.abs() < 80]
    assert len(near.unique()) == len(near)
    assert (buckets[distances > 0] >= 160).all()
    assert (buckets[distances <= 0] < 160).all()
    assert len(buckets[distances >= 800].unique()) == 1


@pytest.mark.parametrize("causal", [False, True])
def test_biased_attention_is_a_softmax_of_sums(causal: bool) -> None:
    projected = _projected(11, torch.float64)
    bias = torch.randn(3, HEADS, 11, 11, dtype=torch.float64, requires_grad=True)
    padding = torch.arange(11) >= torch.tensor([11, 6, 1])[:, None]
    query, key, value = _parts(projected)
    scores = query @ key.transpose(-1, -2) / SIZE**0.5 + bias
    hidden = torch.ones(11, 11).triu(1).bool() if causal else padding[:, None, None, :]
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    expected = (weights @ value).transpose(1, 2).flatten(2)
    actual = biased_attention(projected, bias, padding, 0.0, causal)
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, [projected, bias], upstream),
        torch.autograd.grad(expected, [projected, bias], upstream),
    )


def test_biased_attention_of_a_recording_without_frames_gives_numbers() -> None:
    padding = torch.tensor([[False] * 5, [True] * 5, [False] * 5])
    bias = torch.zeros(3, HEADS, 5, 5)
    assert biased_attention(_projected(5, torch.float32), bias, padding, 0.0).isfinite().all()
