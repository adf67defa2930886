"""Changing recordings while fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
import torchaudio.functional
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechssl.frames import num_frames


def change_speed(
    waveforms: Tensor, lengths: Tensor, speeds: Sequence[float], least_frames: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Speed perturbation (Ko et al. 2015): each recording at a speed drawn from ``speeds``.

    waveforms [B, S] float32, lengths [B] -> the same with other S. Tempo and pitch change together.
    A recording that would be left with fewer frames than ``least_frames`` [B] (what CTC needs for
    its transcript) stays as it is. In float32 under autocast too: in bf16 the rounding would be
    heard at -50 dB, above what telephone speech has in its upper bands.
    """
    drawn = torch.randint(len(speeds), (len(waveforms),)).tolist()
    changed = []
    rows = zip(waveforms, lengths.tolist(), drawn, least_frames, strict=True)
    for waveform, length, choice, least in rows:
        ratio = Fraction(speeds[choice]).limit_denominator(100)
        original = waveform[:length]
        with torch.autocast(waveforms.device.type, enabled=False):
            other = torchaudio.functional.resample(
                original, ratio.numerator, ratio.denominator, lowpass_filter_width=4
            )
        changed.append(other if num_frames(len(other)) >= least else original)
    new_lengths = torch.tensor([len(w) for w in changed], device=lengths.device)
    return pad_sequence(changed, batch_first=True), new_lengths
