"""Changing recordings while fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
import torchaudio.functional
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def change_speed(
    waveforms: Tensor, lengths: Tensor, speeds: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Speed perturbation (Ko et al. 2015): each recording at a speed drawn from ``speeds``.

    waveforms [B, S], lengths [B] -> the same with other S. Tempo and pitch change together.
    """
    drawn = torch.randint(len(speeds), (len(waveforms),)).tolist()
    changed = []
    for waveform, length, choice in zip(waveforms, lengths.tolist(), drawn):
        ratio = Fraction(speeds[choice]).limit_denominator(100)
        changed.append(
            torchaudio.functional.resample(
                waveform[:length], ratio.numerator, ratio.denominator, lowpass_filter_width=4
            )
        )
    new_lengths = torch.tensor([len(w) for w in changed], device=lengths.device)
    return pad_sequence(changed, batch_first=True), new_lengths
