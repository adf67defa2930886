"""Padded batches, on our side computed with the padding in sight as other projects do it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from speechssl.data.batch import SpeechBatch, collate
from speechssl.frames import num_frames
from speechssl.models.encoder import Encoder


def padded_batch() -> SpeechBatch:
    torch.manual_seed(1)
    return collate([0.3 * torch.randn(length) + 0.05 for length in (9000, 5300)])


def states_in_sight_of_padding(
    encoder: Encoder, batch: SpeechBatch, *, masked: bool = True
) -> list[Tensor]:
    """The hidden states [B, T, D] of all layers where padding is heard at the two places at which
    other projects hear it: group norm takes the padded waveform for the recording, and each
    convolution of a position stack sees what the one before gave behind a recording's end. Unless
    ``masked``, the transformer hears it too."""
    whole = torch.full_like(batch.lengths, batch.waveforms.shape[1])
    hook = encoder.position.register_forward_pre_hook(lambda _, given: given[:1])  # no padding
    inputs = encoder.project(encoder.normalize(encoder.extract(batch.waveforms, whole)))
    frames = num_frames(batch.lengths if masked else whole)
    _, states = encoder.contextualize(inputs, frames, layers=True)
    hook.remove()
    return states


def assert_real_frames_agree(
    ours: Sequence[Tensor], theirs: Sequence[Tensor], batch: SpeechBatch
) -> None:
    """Hidden states [B, T, D] layer by layer, to 1e-5."""
    for state, expected in zip(ours, theirs, strict=True):
        for row, count in enumerate(num_frames(batch.lengths).tolist()):
            found, other = state[row, :count], expected[row, :count]
            torch.testing.assert_close(found, other, rtol=1e-5, atol=1e-5)
