"""Long recordings as overlapping windows, whose frames join to those of the whole recording."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from speechssl.frames import HOP_SAMPLES, min_samples, num_frames

Span = tuple[int, int | None]
"""(first sample, sample behind the last) of a stretch of a recording; None: up to its end."""

WHOLE: Span = (0, None)


@dataclass(frozen=True)
class Window:
    """A part of a recording that is computed at once."""

    samples: Tensor
    """[S] float32 at 16 kHz."""

    start: int
    """The first frame of the window whose result is kept."""

    stop: int
    """The frame behind the last that is kept."""

    span: int
    """Which of the spans the window belongs to, counted from 0."""


def cut_windows(
    blocks: Iterable[Tensor],
    window_frames: int,
    overlap_frames: int,
    spans: Iterable[Span] = (WHOLE,),
    grid_frames: int = 1,
) -> Iterator[Window]:
    """Covers each of the ``spans`` of a stream by windows.

    ``blocks`` are [S] float32, one behind the other, of any lengths; not much more than a window
    of them is held at a time. ``spans`` are in order and do not overlap. Windows have
    ``window_frames`` frames and share ``overlap_frames``; each frame is kept from the window in
    which it is farther from the border, so the kept frames are exactly those of the span. The
    last window is moved back so that it too is full, or almost, as all windows begin at multiples
    of ``grid_frames`` (for models that see several frames as one). A span shorter than a window is
    one window, and one shorter than a frame is none.
    """
    tape = Tape(blocks)
    step = (window_frames - overlap_frames) // grid_frames * grid_frames
    for number, (start, stop) in enumerate(spans):
        first = kept = 0  # frames from the start of the span
        while True:
            begin = start + first * HOP_SAMPLES
            reach = begin + min_samples(window_frames + step)  # whether this is the last window
            samples = tape.read(begin, reach if stop is None else min(reach, stop))
            frames = num_frames(len(samples))
            samples = samples[: min_samples(window_frames)]
            if frames <= window_frames:
                if frames:
                    yield Window(samples, kept - first, frames, number)
                break
            last = -(-(frames - window_frames) // grid_frames) * grid_frames
            following = first + min(step, last)
            middle = (first + window_frames + following) // 2
            yield Window(samples, kept - first, middle - first, number)
            first, kept = following, middle


class Tape:
    """The samples of a stream by their position; what was passed is forgotten."""

    def __init__(self, blocks: Iterable[Tensor]) -> None:
        self._blocks = iter(blocks)
        self._held = torch.empty(0)
        self._position = 0  # of the first sample held
        self.read_samples = 0
        """Samples that the stream has given so far."""

    def read(self, start: int, stop: int) -> Tensor:
        """The samples from ``start`` to before ``stop``, fewer at the end of the stream.

        ``start`` must not be before that of an earlier call.
        """
        self.wait_for(stop, wanted_from=start)
        passed = min(max(0, start - self._position), len(self._held))
        self._held = self._held[passed:]
        self._position += passed
        return self._held[: max(0, stop - start)]

    def wait_for(self, stop: int, wanted_from: int = 0) -> None:
        """Takes blocks until there are ``stop`` samples or the stream ends.

        What is before ``wanted_from`` need not be kept.
        """
        held = [self._held]
        while self.read_samples < stop and (block := next(self._blocks, None)) is not None:
            held.append(block)
            self.read_samples += len(block)
            if self.read_samples <= wanted_from:
                held = [torch.empty(0)]
                self._position = self.read_samples
        self._held = torch.cat(held)
