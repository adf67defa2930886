"""The batch: what the data side hands to every model and objective."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechssl.frames import SAMPLE_RATE

PADDING_TARGET = -1
"""The value of ``SpeechBatch.targets`` where there is no frame."""


@dataclass
class SpeechBatch:
    """Some recordings, padded to one length. B recordings, S samples, T frames, L tokens."""

    waveforms: Tensor
    """[B, S] float32 at 16 kHz, zeros behind each recording's end."""

    lengths: Tensor
    """[B] int64, samples of each recording before padding."""

    ids: list[str] = field(default_factory=list)
    """The cut id of each recording."""

    seed: int = 0
    """Seeds everything random about this batch (masks, distractors, dropout), so that a batch
    means the same wherever and whenever it is computed."""

    targets: Tensor | None = None
    """[B, T] int64 cluster of each frame, ``PADDING_TARGET`` behind the end."""

    tokens: Tensor | None = None
    """[B, L] int64 transcript tokens, 0 (the CTC blank) behind the end."""

    token_lengths: Tensor | None = None
    """[B] int64, tokens of each transcript before padding."""

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

    def to(self, device: torch.device, *, non_blocking: bool = False) -> None:
        """Moves every tensor to ``device``, in place (as the training engine expects)."""
        for name in ("waveforms", "lengths", "targets", "tokens", "token_lengths"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, value.to(device, non_blocking=non_blocking))


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
        texts=texts or [],
    )
