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
    if like.dtype in _ONE:
        return _half_numbers(like, dropped, kept=_ONE[like.dtype], flip=0)
    return (_random_bytes(like.numel()) >= dropped).to(like.dtype).view(like.shape)


def drop_signs(like: Tensor, dropped: int) -> Tensor:
    """Ones shaped and typed as ``like``; each is negative with probability dropped / 256."""
    if like.dtype in _ONE:
        return _half_numbers(like, dropped, kept=SIGN, flip=SIGN | _ONE[like.dtype])
    return keep_mask(like, dropped).mul_(2).sub_(1)


_ONE = {torch.bfloat16: 0x3F80, torch.float16: 0x3C00}
"""The bits of 1.0 in the 16-bit types."""

SIGN = 0x8000
"""The sign bit of a 16-bit number."""


def _random_words(count: int) -> Tensor:
    """[count] int64 with 64 random bits each."""
    return torch.empty(count, dtype=torch.int64).random_(-(2**63), None)


def _random_bytes(count: int) -> Tensor:
    """[count] uint8, uniform."""
    return _random_words((count + 7) // 8).view(torch.uint8)[:count]


def _half_numbers(like: Tensor, dropped: int, kept: int, flip: int) -> Tensor:
    """16-bit numbers shaped and typed as ``like``, whose bits are those of ``kept``, or none with
    probability dropped / 256; in either case the bits of ``flip`` are flipped afterwards.

    A random word is treated as four lanes of 16 bits with a random byte each; adding
    256 - dropped carries into a lane's ninth bit unless the byte is below ``dropped``. Whole words
    are cheap to compute with, while comparing bytes and converting the outcome takes four times
    as long.
    """
    low_bytes, low_bits = 0x00FF00FF00FF00FF, 0x0001000100010001
    words = _random_words((like.numel() + 7) // 8)
    lanes = torch.empty(2, len(words), dtype=torch.int64)
    torch.bitwise_and(words, low_bytes, out=lanes[0])
    torch.bitwise_and(words.bitwise_right_shift_(8), low_bytes, out=lanes[1])
    lanes.add_((LEVELS - dropped) * low_bits).bitwise_right_shift_(8).bitwise_and_(low_bits)
    lanes.mul_(kept)
    if flip:
        lanes.bitwise_xor_((flip * low_bits) - (1 << 64 if flip & SIGN else 0))  # as signed
    numbers = lanes.view(-1).view(like.dtype)
    return numbers[: like.numel()].view(like.shape)


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
