"""Codebooks that follow the vectors nearest to them, against ones that look at one at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from speechssl.objectives.codebooks import OnlineCodebooks


def nearest(words: Tensor, frame: Tensor) -> int:
    """words [V, D], frame [D] -> the index of the nearest word."""
    return min(range(len(words)), key=lambda entry: float((words[entry] - frame).norm()))


def test_codewords_are_moving_averages_of_sums_and_counts() -> None:
    """Over three updates of two batches each, one frame at a time."""
    torch.manual_seed(0)
    books = OnlineCodebooks(books=2, entries=5, dim=3)
    sums = books.codewords().clone()  # each codeword begins as the average of one frame: itself
    counts = torch.ones(2, 5)
    for decay in (0.9, 0.5, 0.0):
        seen_sums, seen_counts = torch.zeros(2, 5, 3), torch.zeros(2, 5)
        for _ in range(2):
            frames = torch.randn(2, 6, 3)
            codes = books.nearest(frames)
            books.collect(frames, codes)
            for book in range(2):
                for frame in range(6):
                    code = nearest(sums[book] / counts[book][:, None], frames[book, frame])
                    assert int(codes[book, frame]) == code
                    seen_sums[book, code] += frames[book, frame]
                    seen_counts[book, code] += 1
        books.absorb(decay)
        for book in range(2):
            for code in range(5):
                if seen_counts[book, code] > 0:
                    new = seen_sums[book, code], seen_counts[book, code]
                    sums[book, code] = decay * sums[book, code] + (1 - decay) * new[0]
                    counts[book, code] = decay * counts[book, code] + (1 - decay) * new[1]
        torch.testing.assert_close(books.codewords(), sums / counts[:, :, None])


def test_codewords_that_nobody_is_near_stay() -> None:
    torch.manual_seed(0)
    books = OnlineCodebooks(books=1, entries=4, dim=3)
    before = books.codewords().clone()
    frames = before[:, :1] + 0.1
    books.collect(frames, torch.zeros(1, 1, dtype=torch.long))
    books.absorb(0.0)
    torch.testing.assert_close(books.codewords()[:, 0], frames[:, 0])
    assert torch.equal(books.codewords()[:, 1:], before[:, 1:])


def test_codewords_find_clusters() -> None:
    """Six clusters far apart: each frame ends next to a codeword."""
    torch.manual_seed(0)
    books, centres = OnlineCodebooks(books=1, entries=24, dim=8), torch.randn(1, 6, 8)
    for _ in range(40):
        frames = centres.repeat(1, 20, 1) + 0.05 * torch.randn(1, 120, 8)
        books.collect(frames, books.nearest(frames))
        books.absorb(0.7)
    codes = books.nearest(centres)
    assert len(codes.unique()) == 6
    found = books.codewords()[0, codes[0]]
    assert float((found - centres[0]).norm(dim=-1).max()) < 0.15
