"""Changes of speed and of margins: of sound, lengths, frame targets and transcripts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from speechssl.data.batch import PADDING_TARGET, collate
from speechssl.errors import ConfigError
from speechssl.frames import HOP_SAMPLES, WINDOW_SAMPLES, num_frames
from speechssl.models.encoder import Encoder
from speechssl.training.augment import (
    change_speed,
    follow_speed,
    margin,
    resample_to_speed,
    vary_margins,
)
from speechssl.training.pretraining import PretrainModel
from speechssl.training.recipe import FinetuneConfig, PretrainRecipe
from tests.contracts.toys import TONE_SAMPLES, TONES, toy_batch, toy_encoder, toy_objective


def test_speed_changes_length_and_pitch() -> None:
    time = torch.arange(16000) / 16000
    tone = torch.sin(2 * torch.pi * 200 * time)
    batch = change_speed(collate([tone]), [2.0])
    assert batch.lengths.tolist() == [8000]
    spectrum = torch.fft.rfft(batch.waveforms[0, :8000]).abs()
    assert int(spectrum.argmax()) * 2 == 400, "half a second: two hertz a bin"


def test_a_recording_keeps_the_speed_at_which_its_transcript_fits() -> None:
    frames = num_frames(8000)
    batch = collate(list(torch.randn(2, 16000)), tokens=[[1], [1]])
    changed = change_speed(replace(batch, ctc_frames=torch.tensor([frames, frames + 1])), [2.0])
    assert changed.lengths.tolist() == [8000, 16000]
    assert torch.equal(changed.waveforms[1], batch.waveforms[1])


def test_a_recording_is_not_left_without_a_frame() -> None:
    batch = collate([torch.randn(WINDOW_SAMPLES)], targets=[torch.tensor([3])])
    changed = change_speed(batch, [1.5])
    assert changed.lengths.tolist() == [WINDOW_SAMPLES]
    assert changed.targets is not None
    assert changed.targets.tolist() == [[3]]


def test_speed_is_changed_in_float32_under_autocast_too() -> None:
    waveform = torch.randn(8000)
    expected = resample_to_speed(waveform, 0.9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        changed = resample_to_speed(waveform, 0.9)
    assert changed.dtype == torch.float32
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("speed", [0.8, 0.9, 1.1, 1.25])
def test_targets_follow_the_sound(speed: float) -> None:
    batch = toy_batch()
    changed = change_speed(batch, [speed])
    assert changed.targets is not None
    counts = num_frames(changed.lengths)
    for row, count in enumerate(counts.tolist()):
        targets = changed.targets[row]
        assert (targets[count:] == PADDING_TARGET).all()
        middles = (torch.arange(count) * HOP_SAMPLES + WINDOW_SAMPLES // 2) * speed
        inside = (middles % TONE_SAMPLES - TONE_SAMPLES / 2).abs() < TONE_SAMPLES / 2 - HOP_SAMPLES
        tones = (middles // TONE_SAMPLES + row) % len(TONES)
        inside[-2:] = False  # half a frame is missing at the end
        assert inside.sum() > count / 3
        assert torch.equal(targets[:count][inside], tones[inside].long())


def test_targets_at_the_same_speed_stay() -> None:
    batch = toy_batch()
    assert batch.targets is not None
    kept = follow_speed(batch.targets, batch.lengths, torch.ones(len(batch.lengths)))
    assert torch.equal(kept, batch.targets)


def quiet_loud_quiet(before: int, behind: int, count: int = 1) -> list[torch.Tensor]:
    """Recordings of 0.3 s of loud noise between samples of noise 60 dB below it."""
    loud = torch.ones(before + 4800 + behind)
    loud[:before] = loud[before + 4800 :] = 0.001
    return list(loud * torch.randn(count, len(loud)))


def test_the_margin_ends_where_sound_begins() -> None:
    [waveform] = quiet_loud_quiet(3200, 1600)
    assert margin(waveform) == 3200
    assert margin(waveform.flip(0)) == 1600
    assert margin(waveform[3200:]) == 0
    assert margin(torch.zeros(1600)) == 0, "silence has no sound that a margin could end at"


def test_margins_are_drawn_from_none_to_the_seconds_given() -> None:
    torch.manual_seed(0)
    waveforms = quiet_loud_quiet(3200, 1600, count=64)
    varied = vary_margins(collate(waveforms, tokens=[[1]] * 64), seconds=0.5)
    found = []
    for row, length in enumerate(varied.lengths.tolist()):
        waveform = varied.waveforms[row, :length]
        before, behind = margin(waveform), margin(waveform.flip(0))
        first = (waveform == waveforms[row][3200]).nonzero()[0]
        assert torch.equal(waveform[first : first + 4800], waveforms[row][3200:8000]), "the sound"
        found.append((before, behind))
    for margins in zip(*found):
        assert 0 <= min(margins) < 800 < 7200 < max(margins) <= 8000


def test_a_longer_margin_is_the_recordings_own_quiet_to_and_fro() -> None:
    torch.manual_seed(0)
    [waveform] = quiet_loud_quiet(1600, 0)
    [row] = vary_margins(collate([waveform], tokens=[[1]]), seconds=1.0).waveforms
    added = len(row) - len(waveform)
    assert added > 1600
    quiet = waveform[:1600]
    tape = torch.cat([quiet, quiet.flip(0)] * 10 + [waveform])  # ends in the recording itself
    assert torch.equal(row, tape[-len(row) :])


def test_margins_leave_what_the_transcript_needs_and_silence_as_it_is() -> None:
    torch.manual_seed(0)
    batch = collate(quiet_loud_quiet(3200, 3200, count=32), tokens=[[1]] * 32)
    fitting = replace(batch, ctc_frames=num_frames(batch.lengths))
    varied = vary_margins(fitting, seconds=0.01)
    assert (num_frames(varied.lengths) >= fitting.ctc_frames).all()
    silent = collate([torch.zeros(4000)], tokens=[[1]])
    assert vary_margins(silent, seconds=0.3).lengths.tolist() == [4000]


@pytest.mark.parametrize("kind", ["clusters", "best_rq"])
def test_pretraining_hears_other_speeds_and_validation_does_not(kind: str) -> None:
    torch.manual_seed(0)
    config = toy_encoder()
    model = PretrainModel(Encoder(config), toy_objective(kind, config), speeds=(0.5,))
    plain = PretrainModel(model.encoder, model.objective)
    batch = toy_batch()

    def loss(model: PretrainModel) -> tuple[float, float]:
        torch.manual_seed(1)
        loss = model(batch)
        return float(loss.sum.detach()), loss.count

    model.train()
    assert loss(model)[1] > loss(plain)[1], "half the speed: twice as many frames, more are masked"
    model.eval()
    assert loss(model) == loss(plain)


def test_what_is_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="speeds"):
        PretrainRecipe(speeds=(0.9, 11.0))
    with pytest.raises(ConfigError, match="margins"):
        FinetuneConfig(margins=-1.0)
