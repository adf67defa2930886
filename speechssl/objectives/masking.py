"""Span masks over frames, as in wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477, section 3.1).

B recordings, T frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from speechssl.config import require


@dataclass
class MaskConfig:
    """How much of a recording is masked."""

    probability: float = 0.65
    """Share of the frames that would be masked if no two spans overlapped (they do: 0.65 with
    spans of 10 masks about 49 %)."""

    span: int = 10
    """Frames in a row that one span masks."""

    min_spans: int = 2
    """Spans in every recording that is long enough to hold them side by side."""

    def __post_init__(self) -> None:
        require(0.0 <= self.probability <= 1.0, "probability", "from 0 to 1", self.probability)
        require(self.span >= 1, "span", "1 or more", self.span)
        require(self.min_spans >= 0, "min_spans", "0 or more", self.min_spans)


def span_mask(counts: Tensor, config: MaskConfig, *, width: int | None = None) -> Tensor:
    """Draws masked spans: [B] int64 frames of each recording -> [B, T] bool, True where masked.

    ``T`` is ``width``, or the longest recording's frames; B is at least 1. A recording of n
    frames gets ``probability * n / span`` spans, rounded up or down at random so that the mean
    is exact, but at least ``min_spans`` and at most as many as fit side by side with one frame
    left over. They start at different frames, all equally likely, and may overlap. Where not
    even one whole span fits, a span is n - 1 frames long: a single frame is never masked.

    Counts and mask are on the CPU, whose global generator gives the random numbers. They are drawn
    for real frames only, recording after recording: a mask depends neither on padding nor on the
    recordings that follow.
    """
    longest = int(counts.max())
    noise = _noise(counts + 1)  # [B, T + 1]: one for the rounding, one per frame

    span = (counts - 1).clamp(0, config.span)  # [B] frames of each span
    fitting = (counts - 1).clamp(min=0) // span.clamp(min=1)
    wanted = (config.probability * counts / config.span + noise[:, 0]).long()
    number = wanted.clamp(min=config.min_spans).minimum(fitting)  # [B] spans

    too_late = torch.arange(longest) > (counts - span)[:, None]
    scores = noise[:, 1:].masked_fill(too_late, -1.0)
    starts = scores.argsort(dim=1, descending=True)[:, : int(number.max())]  # [B, spans]
    chosen = (torch.arange(starts.shape[1]) < number[:, None]).long()

    edges = torch.zeros(len(counts), longest + 1, dtype=torch.long)  # +1 at starts, -1 at ends
    edges.scatter_add_(1, starts, chosen)
    edges.scatter_add_(1, (starts + span[:, None]).clamp(max=longest), -chosen)
    mask = torch.zeros(len(counts), longest if width is None else width, dtype=torch.bool)
    mask[:, :longest] = edges.cumsum(dim=1)[:, :longest] > 0
    return mask


def _noise(counts: Tensor) -> Tensor:
    """[B] -> [B, max(counts)] uniform numbers, drawn only for the first counts[b] of row b."""
    noise = torch.zeros(len(counts), int(counts.max()))
    real = torch.arange(noise.shape[1]) < counts[:, None]
    noise[real] = torch.rand(int(counts.sum()))
    return noise
