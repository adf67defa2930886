"""The batch: what the data side hands to every model and objective."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechssl.data.text import ctc_frames
from speechssl.devices import to_device
from speechssl.frames import SAMPLE_RATE

PADDING_TARGET = -1
"""The value of ``SpeechBatch.targets`` where there is no frame."""

Places = NDArray[np.int64]
"""[recordings of a batch]: where they are among all recordings."""


@dataclass
class SpeechBatch:
    """Some recordings, padded to one length. B recordings, S samples, T frames, L tokens.

    What a model computes with (waveforms, tokens) moves to its device; what says how the batch is
    built (lengths, targets) stays on the CPU, where it can be looked at without waiting for the
    device.
    """

    waveforms: Tensor
    """[B, S] float32 at 16 kHz, zeros behind each recording's end."""

    lengths: Tensor
    """[B] int64 on the CPU, samples of each recording before padding."""

    ids: list[str] = field(default_factory=list)
    """The cut id of each recording."""

    seed: int = 0
    """Seeds everything random about this batch (masks, distractors, dropout), so that a batch
    means the same wherever and whenever it is computed."""

    targets: Tensor | None = None
    """[B, T] int64 on the CPU, cluster of each frame, ``PADDING_TARGET`` behind the end."""

    tokens: Tensor | None = None
    """[B, L] int64 transcript tokens, 0 (the CTC blank) behind the end."""

    token_lengths: Tensor | None = None
    """[B] int64 on the CPU, tokens of each transcript before padding."""

    ctc_frames: Tensor | None = None
    """[B] int64 on the CPU, the fewest frames in which CTC can write each transcript."""

    texts: list[str] = field(default_factory=list)
    """The transcript of each recording, where there are transcripts."""

    @property
    def audio_seconds(self) -> float:
        """Seconds of audio in the batch, without padding."""
        return float(self.lengths.sum()) / SAMPLE_RATE

    @property
    def padding_share(self) -> float:
        """Share of the samples that are padding, 0 to 1."""
        return 1.0 - float(self.lengths.sum()) / max(1, self.waveforms.numel())

    def to(self, device: torch.device, *, non_blocking: bool = True) -> None:
        """Moves waveforms and tokens to ``device``, in place (as the training engine expects).

        The copies never block, whatever ``non_blocking`` says: nothing writes to a batch.
        """
        self.waveforms = to_device(self.waveforms, device)
        if self.tokens is not None:
            self.tokens = to_device(self.tokens, device)


def collate(
    waveforms: list[Tensor],
    *,
    ids: list[str] | None = None,
    seed: int = 0,
    targets: list[Tensor] | None = None,
    tokens: list[list[int]] | None = None,
    texts: list[str] | None = None,
) -> SpeechBatch:
    """Pads recordings (each [S_i] float32) and what belongs to them to one ``SpeechBatch``."""
    return SpeechBatch(
        waveforms=pad_sequence(waveforms, batch_first=True),
        lengths=torch.tensor([len(waveform) for waveform in waveforms]),
        ids=ids if ids is not None else [str(i) for i in range(len(waveforms))],
        seed=seed,
        targets=None
        if targets is None
        else pad_sequence(targets, batch_first=True, padding_value=PADDING_TARGET),
        tokens=None
        if tokens is None
        else pad_sequence([torch.tensor(t, dtype=torch.int64) for t in tokens], batch_first=True),
        token_lengths=None if tokens is None else torch.tensor([len(t) for t in tokens]),
        ctc_frames=None if tokens is None else torch.tensor([ctc_frames(t) for t in tokens]),
        texts=texts or [],
    )


def fill_batches(seconds: NDArray[np.float64], order: Places, batch_seconds: float) -> list[Places]:
    """Divides ``order`` into runs of at most ``batch_seconds``, padding included.

    A recording that is longer than that is a batch by itself.
    """
    starts: list[int] = []
    size, longest = 0, 0.0
    for place, length in enumerate(seconds[order].tolist()):
        longest = max(longest, length)
        if size and longest * (size + 1) > batch_seconds:
            starts.append(place)
            size, longest = 0, length
        size += 1
    return np.split(order, starts)


def batches_by_length(seconds: NDArray[np.float64], batch_seconds: float) -> list[Places]:
    """Every recording once, longest first, at most ``batch_seconds`` a batch including padding."""
    return fill_batches(seconds, np.argsort(-seconds, kind="stable"), batch_seconds)
