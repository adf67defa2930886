"""The one clock of the package: how samples become frames.

Both frontends see windows of 400 samples (25 ms) every 320 samples (20 ms), as wav2vec 2.0 and
HuBERT do, so a frame index means the same instant for every encoder, every cluster target and
every CTC output.
"""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

SAMPLE_RATE = 16_000
"""Samples per second of every waveform inside the package."""

WINDOW_SAMPLES = 400
"""Samples that one frame sees (25 ms)."""

HOP_SAMPLES = 320
"""Samples from one frame to the next (20 ms)."""

FRAME_RATE = SAMPLE_RATE // HOP_SAMPLES
"""Frames per second (50)."""

IntOrTensor = TypeVar("IntOrTensor", int, Tensor)


def num_frames(samples: IntOrTensor) -> IntOrTensor:
    """Frames that ``samples`` samples give: ``1 + (samples - 400) // 320``, at least 0.

    Accepts an int or an integer tensor of any shape; the result has the same form.
    """
    frames = (samples - WINDOW_SAMPLES) // HOP_SAMPLES + 1
    if isinstance(frames, Tensor):
        return frames.clamp(min=0)
    return max(frames, 0)


def min_samples(frames: int) -> int:
    """The fewest samples that give ``frames`` frames."""
    return WINDOW_SAMPLES + (frames - 1) * HOP_SAMPLES if frames > 0 else 0
