"""Codebooks whose codewords follow the vectors that fall to them, without gradients.

Source: VQ-VAE (van den Oord et al. 2017, arXiv 1711.00937), appendix A.1; DinoSR (Liu et al. 2023,
arXiv 2305.10005), equations 2 to 4.

K codebooks, V codewords of each, D size of a codeword, M vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.objectives.base import sum_over_processes


class OnlineCodebooks(nn.Module):
    """Codebooks whose codewords are moving averages of the vectors nearest to them.

    A codeword is ``sums / counts``, where both are moving averages, over updates, of the sum and
    the number of the vectors that were nearest to it. A codeword that none was nearest to stays as
    it is, as in the authors' code.
    """

    totals: Tensor
    """[K, V, D + 1]: ``sums`` and, as the last value, ``counts``."""

    collected: Tensor
    """The same of the vectors collected since the last ``absorb``, by all processes together."""

    def __init__(self, books: int, entries: int, dim: int) -> None:
        """The first codewords are random, each channel with mean 0 and variance 1 over them, as
        those of the vectors should have."""
        super().__init__()
        words = torch.randn(books, entries, dim)
        words = (words - words.mean(dim=1, keepdim=True)) / words.std(dim=1, keepdim=True)
        ones = torch.ones(books, entries, 1)
        self.register_buffer("totals", torch.cat([words, ones], dim=-1))
        self.register_buffer("collected", torch.zeros(books, entries, dim + 1))

    @property
    def shape(self) -> tuple[int, int]:
        """K codebooks, V codewords of each."""
        return self.totals.shape[0], self.totals.shape[1]

    def codewords(self) -> Tensor:
        """[K, V, D]."""
        return self.totals[..., :-1] / self.totals[..., -1:]

    def nearest(self, vectors: Tensor) -> Tensor:
        """vectors [K, M, D] -> the codeword at the smallest Euclidean distance, [K, M] int64."""
        words = self.codewords()
        lengths = words.square().sum(dim=-1)[:, None]  # [K, 1, V]
        return (lengths - 2 * torch.bmm(vectors, words.transpose(1, 2))).argmin(dim=-1)

    def collect(self, vectors: Tensor, codes: Tensor) -> None:
        """Remembers vectors [K, M, D] and their codewords [K, M] until the next ``absorb``.

        Those of all processes are added up at once, so that what is saved with the model is
        the same on each of them.
        """
        choice = codes[:, None] == torch.arange(self.shape[1], device=codes.device)[:, None]
        counted = F.pad(vectors, (0, 1), value=1.0)  # [K, M, D + 1]
        seen = torch.bmm(choice.to(vectors.dtype), counted)  # [K, V, D + 1]
        self.collected += sum_over_processes(seen)

    def absorb(self, decay: float) -> None:
        """Moves the codewords towards what was collected, unless ``decay`` is 1; forgets it."""
        moved = torch.lerp(self.collected, self.totals, decay)
        used = self.collected[..., -1:] > 0
        self.totals.copy_(torch.where(used, moved, self.totals))
        self.collected.zero_()
