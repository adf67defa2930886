"""Changing recordings while training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import torch
import torchaudio.functional
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechssl.data.batch import PADDING_TARGET, SpeechBatch
from speechssl.frames import HOP_SAMPLES, SAMPLE_RATE, WINDOW_SAMPLES, min_samples, num_frames

MARGIN_STEP = SAMPLE_RATE // 100
"""Samples over which the level is measured to find the quiet at the ends of a recording."""

MARGIN_STEPS = 5
"""Less quiet than this is not lengthened: what is played to and fro so fast has a pitch."""


def change_speed(batch: SpeechBatch, speeds: Sequence[float]) -> SpeechBatch:
    """Speed perturbation (Ko et al. 2015): each recording at a speed drawn from ``speeds``.

    Tempo and pitch change together; frame targets follow (``follow_speed``). A recording that would
    be left without a frame, or with fewer than CTC needs for its transcript, stays as it is.
    """
    drawn = torch.randint(len(speeds), (len(batch.lengths),)).tolist()
    changed, used = [], []
    for waveform, least, choice in zip(_recordings(batch), _least_frames(batch), drawn):
        speed = speeds[choice]
        other = resample_to_speed(waveform, speed)
        fits = num_frames(len(other)) >= least
        changed.append(other if fits else waveform)
        used.append(speed if fits else 1.0)
    targets, batch = batch.targets, _with_waveforms(batch, changed)
    if targets is not None:
        targets = follow_speed(targets, batch.lengths, torch.tensor(used))
    return replace(batch, targets=targets)


def vary_margins(batch: SpeechBatch, seconds: float) -> SpeechBatch:
    """Gives each recording another margin, the quiet before and behind its sound (``margin``).

    Each of the two is drawn between nothing and ``seconds``, or what it was where that is more. It
    is cut, or lengthened by its own quiet played to and fro; a recording without quiet at that
    end stays as it is there. What is left has a frame, and as many as CTC needs for its transcript.

    A network that hears each recording with its own margins only reads worse where sound begins at
    once, as behind a voice detector, or late. Not for frame targets, which belong to frames where
    they were.
    """
    assert batch.targets is None
    drawn = torch.rand(len(batch.lengths), 2).tolist()
    varied = []
    for waveform, least, shares in zip(_recordings(batch), _least_frames(batch), drawn):
        for share in shares:  # the start; turned round, the end; and round again
            waveform = _with_margin(waveform, share, seconds, min_samples(least)).flip(0)
        varied.append(waveform)
    return _with_waveforms(batch, varied)


def _with_margin(waveform: Tensor, share: float, seconds: float, least: int) -> Tensor:
    """A recording [S] that begins with a ``share`` of the most quiet that it may begin with."""
    quiet = margin(waveform)
    wanted = round(share * max(quiet, seconds * SAMPLE_RATE))
    if wanted <= quiet:
        return waveform[min(quiet - wanted, max(0, len(waveform) - least)) :]
    if quiet < MARGIN_STEPS * MARGIN_STEP:
        return waveform
    there_and_back = torch.cat([waveform[:quiet], waveform[:quiet].flip(0)])
    times = -(-(wanted - quiet) // len(there_and_back))
    return torch.cat([there_and_back.repeat(times)[: wanted - quiet].flip(0), waveform])


def margin(waveform: Tensor) -> int:
    """The samples at the start of a recording [S] before its first 10 ms with a level above 30 dB
    below its loudest 10 ms."""
    power = waveform[: len(waveform) // MARGIN_STEP * MARGIN_STEP]
    power = power.view(-1, MARGIN_STEP).square().mean(dim=1)
    return int((power >= power.max() / 1000).int().argmax()) * MARGIN_STEP


def resample_to_speed(waveform: Tensor, speed: float) -> Tensor:
    """A recording [S] float32 ``speed`` times as fast, [S / speed].

    In float32 under autocast too: in bf16 the rounding would be heard at -50 dB, above what
    telephone speech has in its upper bands.
    """
    ratio = Fraction(speed).limit_denominator(100)
    with torch.autocast(waveform.device.type, enabled=False):
        resampled: Tensor = torchaudio.functional.resample(
            waveform, ratio.numerator, ratio.denominator, lowpass_filter_width=4
        )
    return resampled


def follow_speed(targets: Tensor, lengths: Tensor, speeds: Tensor) -> Tensor:
    """The targets of frames that stand elsewhere since the speed was changed.

    targets [B, T] int64 of the recordings as they were, lengths [B] samples as they are now, speeds
    [B] -> [B, T'], ``PADDING_TARGET`` behind ends: each frame has the target of the one whose
    middle was nearest to what is in its middle now.
    """
    frames = num_frames(lengths)  # [B]
    places = torch.arange(int(frames.max()))
    middles = (places * HOP_SAMPLES + WINDOW_SAMPLES / 2) * speeds[:, None]  # [B, T'] old samples
    nearest = ((middles - WINDOW_SAMPLES / 2) / HOP_SAMPLES).round().long()
    last = (targets != PADDING_TARGET).sum(dim=1, keepdim=True) - 1
    moved = targets.gather(1, nearest.clamp(min=0).minimum(last))
    return moved.masked_fill(places >= frames[:, None], PADDING_TARGET)


def _recordings(batch: SpeechBatch) -> list[Tensor]:
    """Each recording without padding, [S_i]."""
    return [row[:length] for row, length in zip(batch.waveforms, batch.lengths.tolist())]


def _least_frames(batch: SpeechBatch) -> list[int]:
    """The frames that each recording must keep: those that CTC needs for its transcript, or one."""
    return [1] * len(batch.lengths) if batch.ctc_frames is None else batch.ctc_frames.tolist()


def _with_waveforms(batch: SpeechBatch, recordings: list[Tensor]) -> SpeechBatch:
    """``batch`` with other recordings, each [S_i]."""
    lengths = torch.tensor([len(recording) for recording in recordings])
    return replace(batch, waveforms=pad_sequence(recordings, batch_first=True), lengths=lengths)
