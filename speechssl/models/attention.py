"""Self-attention over the frames of one recording (Vaswani et al., 2017, equation 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.models.dropout import dropout

PLAIN_FRAMES = 512
"""Up to so many frames, plain matrix products beat the CPU's fused attention."""


class SelfAttention(nn.Module):
    """Multi-head self-attention. [B, T, D] -> [B, T, D]."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, inputs: Tensor, padding: Tensor | None) -> Tensor:
        """inputs [B, T, D], padding [B, T] bool (True behind ends) or None -> [B, T, D]."""
        batch, frames, dim = inputs.shape
        shape = (batch, frames, self.heads, dim // self.heads)
        query = self.query(inputs).view(shape).transpose(1, 2)  # [B, H, T, D / H]
        key = self.key(inputs).view(shape).transpose(1, 2)
        value = self.value(inputs).view(shape).transpose(1, 2)
        context = attention(query, key, value, padding, self.dropout if self.training else 0.0)
        return self.out(context.transpose(1, 2).reshape(batch, frames, dim))  # type: ignore[no-any-return]


def attention(
    query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, dropout_probability: float
) -> Tensor:
    """Weighted mean of the values, weights being the softmax of scaled products.

    query, key, value [B, H, T, d]; padding [B, T] bool, True at frames that nobody may look at,
    or None; ``dropout_probability`` applies to the weights. Returns [B, H, T, d].
    """
    if query.device.type == "cpu" and query.size(2) <= PLAIN_FRAMES:
        return plain_attention(query, key, value, padding, dropout_probability)
    mask = None if padding is None else ~padding[:, None, None, :]
    return F.scaled_dot_product_attention(query, key, value, mask, dropout_probability)


def plain_attention(
    query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, dropout_probability: float
) -> Tensor:
    """``attention`` as two matrix products around a softmax."""
    batch, heads, frames, width = query.shape
    flat = (batch * heads, frames, width)  # explicit, because matmul would transpose by copying
    query = (query * width**-0.5).reshape(flat)
    scores = torch.bmm(query, key.reshape(flat).transpose(1, 2))  # [B * H, T, T]
    if padding is not None:
        # Finite, so that a recording without frames gives no NaN; added in place, which costs the
        # backward pass nothing.
        lowest = torch.finfo(scores.dtype).min / 2
        penalty = padding.to(scores.dtype).mul_(lowest).repeat_interleave(heads, 0)
        scores += penalty[:, None, :]
    weights = dropout(scores.softmax(-1), dropout_probability, training=True)
    return torch.bmm(weights, value.reshape(flat)).view(batch, heads, frames, width)
