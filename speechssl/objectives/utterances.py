"""Recordings compared as wholes: one vector for each, and the others of the batch as negatives.

B recordings, T frames, D model size, N negatives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from speechssl.devices import to_device
from speechssl.models.padding import padding_mask, zero_padding
from speechssl.objectives.contrastive import singled_out


def mean_over_time(context: Tensor, counts: Tensor) -> Tensor:
    """The mean of each recording's frames, zeros where there are none.

    context [B, T, D], counts [B] frames on the CPU -> [B, D] float32.
    """
    padding = padding_mask(counts, context.shape[1], context.device)
    totals = to_device(counts.clamp(min=1).float(), context.device)
    return zero_padding(context.float(), padding).sum(dim=1) / totals[:, None]


def other_recordings(total: int) -> Tensor:
    """The other recordings of a batch of B, for each: [B, B - 1] int64 on the CPU."""
    return (torch.arange(total)[:, None] + torch.arange(1, total)) % total


def number_right(logits: Tensor) -> Tensor:
    """How many of logits [M, 1 + N] are largest at the true answer (``singled_out``), a scalar
    without gradient; 0 without negatives."""
    negatives = logits.shape[1] - 1
    return singled_out(logits.detach()).sum() if negatives else logits.new_zeros(())
