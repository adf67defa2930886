"""Fewer, longer frames inside the transformer than outside of it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Squeeze(nn.Module):
    """Joins neighbouring frames in front of the transformer and splits them behind it.

    Source: SEW (Wu et al. 2021, arXiv 2109.06870, section 4.2), with linear maps of the frames
    side by side in place of its pooling.
    """

    def __init__(self, dim: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.join = nn.Linear(factor * dim, dim)
        self.split = nn.Linear(dim, factor * dim)

    def count(self, frames: Tensor) -> Tensor:
        """Joined frames of recordings of so many frames. [B] -> [B]."""
        return (frames + self.factor - 1) // self.factor

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, T, D], zeros behind ends -> [B, T / factor rounded up, D]."""
        missing = -inputs.size(1) % self.factor
        padded = F.pad(inputs, (0, 0, 0, missing))
        return self.join(padded.reshape(len(inputs), -1, self.join.in_features))  # type: ignore[no-any-return]

    def undo(self, hidden: Tensor, frames: int) -> Tensor:
        """[B, joined T, D] -> [B, T, D]."""
        return self.split(hidden).reshape(len(hidden), -1, hidden.size(2))[:, :frames]  # type: ignore[no-any-return]

    def repeat(self, hidden: Tensor, frames: int) -> Tensor:
        """``undo`` for hidden states: each joined frame again and again. -> [B, T, D]."""
        return hidden.repeat_interleave(self.factor, dim=1)[:, :frames]
