"""Dropout whose random numbers are cheap.

On a CPU, drawing one random float per element makes ordinary dropout cost as much as a large
matrix product. Here each element gets one byte of a 64-bit random word instead, so probabilities
are multiples of 1/256; what is kept is scaled by the exact kept probability, so the mean is right.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 256
"""The dropout probability is rounded to a multiple of 1/LEVELS."""


def dropout(inputs: Tensor, probability: float, training: bool) -> Tensor:
    """Zeroes elements of ``inputs`` (any shape) at random and scales the others up.

    Off when ``training`` is false. On a CPU the probability is rounded to a multiple of 1/256;
    on other devices this is ``F.dropout``. Draws from torch's global generator of the device.
    """
    if not training or probability == 0.0:
        return inputs
    if inputs.device.type != "cpu":
        return F.dropout(inputs, probability)
    dropped = dropped_levels(probability)
    if dropped == 0:
        return inputs
    result: Tensor = _Dropout.apply(inputs, dropped)  # type: ignore[no-untyped-call]
    return result


def dropped_levels(probability: float) -> int:
    """How many of the 256 byte values mean "drop": ``probability`` to the nearest 1/256."""
    return min(round(probability * LEVELS), LEVELS - 1)


class Dropout(nn.Module):
    """``dropout`` as a module. ``probability`` from 0 (nothing happens) to below 1."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, inputs: Tensor) -> Tensor:
        return dropout(inputs, self.probability, self.training)

    def extra_repr(self) -> str:
        return f"{self.probability}"


def keep_mask(like: Tensor, dropped: int) -> Tensor:
    """Zeros and ones shaped and typed as ``like``; each is 0 with probability dropped / 256."""
    words = torch.empty((like.numel() + 7) // 8, dtype=torch.int64)
    words.random_(-(2**63), None)  # all 64 bits
    keep = words.view(torch.uint8)[: like.numel()] >= dropped
    return keep.view(like.shape).to(like.dtype)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, dropped: int) -> Tensor:
        mask = keep_mask(inputs, dropped)
        ctx.save_for_backward(mask)
        ctx.scale = LEVELS / (LEVELS - dropped)
        return (inputs * mask).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return (gradients[0] * mask).mul_(ctx.scale), None
