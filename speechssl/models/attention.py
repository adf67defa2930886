"""Self-attention over the frames of one recording (Vaswani et al., 2017, equation 1).

B recordings, T frames, D model size, H heads, d = D / H, N buckets of distances.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from speechssl.devices import to_device
from speechssl.models.dropout import LEVELS, drop_signs, dropped_levels
from speechssl.models.strided import joined_linear

PLAIN_FRAMES = 512
"""Up to so many frames, plain matrix products beat the CPU's fused attention."""


class SelfAttention(nn.Module):
    """Multi-head self-attention; with ``causal`` no frame sees a later one. [B, T, D] -> same.

    With ``gated`` it looks at how far frames are apart: see ``RelativeBias``.
    """

    def __init__(
        self, dim: int, heads: int, dropout: float, causal: bool = False, gated: bool = False
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.causal = causal
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.gate = BiasGate(dim, heads) if gated else None

    def forward(
        self,
        inputs: Tensor,
        padding: Tensor | None,
        positions: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """inputs [B, T, D], padding [B, T] bool (True behind ends) or None -> [B, T, D].

        With ``positions`` [M] int64, frames of the flattened [B * T], only their outputs are
        computed: [M, D]. ``bias`` [H, T, T] is that of ``RelativeBias``, which ``gated`` needs.
        """
        dropout = self.dropout if self.training else 0.0
        projected = self.project(inputs)
        if self.gate is None or bias is None:
            context = attention(projected, self.heads, padding, dropout, self.causal)
        else:
            scores = self.gate(inputs) * bias  # [B, H, T, T]
            context = biased_attention(projected, scores, padding, dropout, self.causal)
        return self.out(take_frames(context, positions))  # type: ignore[no-any-return]

    def project(self, inputs: Tensor) -> Tensor:
        """Queries, keys and values side by side, as one product. [B, T, D] -> [B, T, 3 D]."""
        maps = (self.query, self.key, self.value)
        return joined_linear(inputs, [m.weight for m in maps], [m.bias for m in maps])


def take_frames(values: Tensor, positions: Tensor | None) -> Tensor:
    """The frames at ``positions`` [M] of the flattened [B * T]; all where it is None.

    values [B, T, D] -> [M, D] or [B, T, D].
    """
    return values if positions is None else values.flatten(0, 1).index_select(0, positions)


def attention(
    projected: Tensor,
    heads: int,
    padding: Tensor | None,
    dropout_probability: float,
    causal: bool = False,
) -> Tensor:
    """Weighted mean of the values, weights being the softmax of scaled products.

    projected [B, T, 3 D]: queries, keys and values side by side; padding [B, T] bool, True at
    frames that nobody may look at, or None; ``dropout_probability`` applies to the weights;
    ``causal`` hides from each frame those after it. Returns [B, T, D].
    """
    batch, frames, width = projected.shape
    if causal:
        padding = None  # it stands behind all frames, which see none of it
    if projected.device.type == "cpu" and frames <= PLAIN_FRAMES:
        dropped = dropped_levels(dropout_probability)
        context: Tensor = _PlainAttention.apply(projected, heads, padding, dropped, causal)  # type: ignore[no-untyped-call]
        return context
    # [B, T, 3, H, d] -> three of [B, H, T, d]
    query, key, value = projected.view(batch, frames, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind()
    mask = None if padding is None else ~padding[:, None, None, :]
    context = F.scaled_dot_product_attention(
        query, key, value, mask, dropout_probability, is_causal=causal
    )
    return context.transpose(1, 2).reshape(batch, frames, width // 3)


def biased_attention(
    projected: Tensor,
    bias: Tensor,
    padding: Tensor | None,
    dropout_probability: float,
    causal: bool = False,
) -> Tensor:
    """``attention`` with something added to the scaled products before the softmax.

    bias [B, H, T, T], the others as for ``attention``. Returns [B, T, D].
    """
    batch, frames, width = projected.shape
    heads = bias.size(1)
    query, key, value = projected.view(batch, frames, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind()
    bias = bias.to(query.dtype)
    lowest = torch.finfo(bias.dtype).min / 2  # finite: a recording without frames gives no NaN
    if causal:
        bias = bias.masked_fill(bias.new_ones(frames, frames, dtype=torch.bool).triu(1), lowest)
    elif padding is not None:
        bias = bias.masked_fill(padding[:, None, None, :], lowest)
    context = F.scaled_dot_product_attention(query, key, value, bias, dropout_probability)
    return context.transpose(1, 2).reshape(batch, frames, width // 3)


class RelativeBias(nn.Module):
    """A learned number for each head and each distance between frames, shared by all layers.

    Source: WavLM (Chen et al., 2022), section III-B: a bucket for each distance up to N / 4, then
    buckets that grow with the logarithm of the distance up to ``furthest``; one half of the N
    buckets for frames before, the other for frames after.
    """

    def __init__(self, buckets: int, furthest: int, heads: int) -> None:
        super().__init__()
        self.buckets = buckets
        self.furthest = furthest
        self.embedding = nn.Parameter(torch.empty(buckets, heads))
        nn.init.normal_(self.embedding, std=0.02)

    def forward(self, frames: int) -> Tensor:
        """Number of frames T -> bias [H, T, T]: of each frame (first T) on each (second T)."""
        distances = torch.arange(1 - frames, frames)  # [2 T - 1]
        places = to_device(self.bucket(distances), self.embedding.device)
        values = self.embedding.index_select(0, places).t()  # [H, 2 T - 1]
        return values.unfold(1, frames, 1).flip(1)

    def bucket(self, distances: Tensor) -> Tensor:
        """distances int64, positive for frames after -> buckets of the same shape, 0 to N - 1."""
        half = self.buckets // 2
        exact = half // 2
        away = distances.abs()
        share = torch.log(away.float() / exact) / math.log(self.furthest / exact)
        far = (exact + share * (half - exact)).clamp(0, half - 1).long()
        return torch.where(away < exact, away, far) + half * (distances > 0)


class BiasGate(nn.Module):
    """How much a frame heeds ``RelativeBias``, in each head: 1 to 2 where the scale is 1.

    Source: WavLM, equations 3 and 4 (a gated recurrent unit's gates). The eight outputs of the
    linear map are summed by four, as in the published models.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear = nn.Linear(dim // heads, 8)
        self.scale = nn.Parameter(torch.ones(heads))

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs [B, T, D] -> factors [B, H, T, 1]."""
        parts = inputs.view(*inputs.shape[:2], self.heads, -1).transpose(1, 2)  # [B, H, T, d]
        hidden: Tensor = self.linear(parts)  # [B, H, T, 8]
        gates = hidden.view(*hidden.shape[:-1], 2, 4).sum(-1).sigmoid()  # [B, H, T, 2]
        update, reset = gates[..., :1], gates[..., 1:]
        return update * (reset * self.scale[:, None, None] - 1.0) + 2.0


class _PlainAttention(torch.autograd.Function):
    """``attention`` as two matrix products around a softmax, whose weights [B H, T, T] are kept
    for the backward pass: once, with a negative sign where dropout dropped them."""

    @staticmethod
    def forward(
        ctx: Any,
        projected: Tensor,
        heads: int,
        padding: Tensor | None,
        dropped: int,
        causal: bool,
    ) -> Tensor:
        batch, frames, _ = projected.shape
        parts = projected.view(batch, frames, 3, heads, -1).permute(2, 0, 3, 1, 4)
        parts = parts.clone(memory_format=torch.contiguous_format)  # bmm would copy each time
        query, key, value = parts.view(3, batch * heads, frames, -1).unbind()  # [B H, T, d]
        query *= query.size(-1) ** -0.5
        scores = torch.bmm(query, key.transpose(1, 2))  # [B H, T, T]
        if padding is not None:
            # Finite, so that a recording without frames gives no NaN.
            lowest = torch.finfo(scores.dtype).min / 2
            penalty = padding.to(scores.dtype).mul_(lowest).repeat_interleave(heads, 0)
            scores += penalty[:, None, :]
        if causal:
            later = scores.new_full((frames, frames), -torch.inf).triu_(1)  # [T, T]
            scores += later
        weights = torch.softmax(scores, -1, out=scores)
        kept = weights
        if dropped:
            weights.mul_(drop_signs(weights, dropped))
            kept = weights.relu().mul_(LEVELS / (LEVELS - dropped))
        ctx.save_for_backward(query, key, value, weights)
        ctx.dropped = dropped
        return _from_heads(torch.bmm(kept, value), batch)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        query, key, value, weights = ctx.saved_tensors
        batch, frames, width = gradients[0].shape
        heads = len(query) // batch
        gradient = gradients[0].reshape(batch, frames, heads, -1).transpose(1, 2).reshape_as(query)
        to_parts = query.new_empty(3, *query.shape)
        kept, scale = weights, LEVELS / (LEVELS - ctx.dropped)
        if ctx.dropped:
            kept = weights.relu().mul_(scale)
        torch.bmm(kept.transpose(1, 2), gradient, out=to_parts[2])
        to_weights = torch.bmm(gradient, value.transpose(1, 2))
        if ctx.dropped:
            to_weights.mul_(kept.sign_()).mul_(scale)
            weights = torch.abs(weights, out=kept)
        to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
        torch.bmm(to_scores, key, out=to_parts[0]).mul_(query.size(-1) ** -0.5)
        torch.bmm(to_scores.transpose(1, 2), query, out=to_parts[1])
        to_parts = to_parts.view(3, batch, heads, frames, -1).permute(1, 3, 0, 2, 4)
        return to_parts.reshape(batch, frames, 3 * width), None, None, None, None


def _from_heads(values: Tensor, batch: int) -> Tensor:
    """[B H, T, d] -> [B, T, D]."""
    _, frames, size = values.shape
    return values.view(batch, -1, frames, size).transpose(1, 2).reshape(batch, frames, -1)
