from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from speechssl.data.checks import (
    CHECKS,
    Judge,
    Measurement,
    clipped_share,
    firsts,
    frame_levels,
    measure,
    sound_digest,
)
from speechssl.data.utterance import Utterance
from speechssl.errors import AudioError

RATE = 8000


def tone(seconds: float = 1.0, amplitude: float = 0.5) -> NDArray[np.float32]:
    time = np.arange(round(seconds * RATE)) / RATE
    return (amplitude * np.sin(2 * np.pi * 200 * time)).astype(np.float32)


def write(path: Path, samples: NDArray[Any]) -> Utterance:
    soundfile.write(path, samples, RATE)
    return Utterance(path.stem, path)


def test_a_sine_has_the_level_of_the_textbook() -> None:
    levels = frame_levels(tone(1.0, 1.0), RATE)
    assert len(levels) == 50
    np.testing.assert_allclose(levels, -3.01, atol=0.01)
    np.testing.assert_array_equal(frame_levels(np.zeros(100, np.float32), RATE), [-120.0])


def test_measures_what_was_made(tmp_path: Path) -> None:
    sound = np.concatenate([tone(0.6), np.zeros(round(0.4 * RATE), np.float32)])
    found = measure(write(tmp_path / "a.wav", np.stack([sound, sound], axis=1)))
    assert (found.seconds, found.rate, found.channels) == (1.0, RATE, 2)
    assert (found.start, found.recording_samples) == (0.0, RATE)
    assert found.silent_share == pytest.approx(0.4)
    assert found.loudness_db == pytest.approx(20 * np.log10(0.5) - 3.01, abs=0.02)
    assert found.clipped_share == 0
    left = measure(write(tmp_path / "left.wav", np.stack([sound, 0 * sound], axis=1)))
    assert left.loudness_db == pytest.approx(found.loudness_db - 6.02, abs=0.02)
    assert measure(write(tmp_path / "short.wav", tone(0.03))).seconds == 0.03


def test_only_runs_at_full_scale_are_clipped() -> None:
    samples = np.zeros((100, 1), np.float32)
    samples[[10, 20, 21], 0] = 1.0  # peaks
    assert clipped_share(samples) == 0
    samples[30:35, 0] = -1.0
    assert clipped_share(samples) == pytest.approx(0.05)
    assert clipped_share(np.ones((2, 1), np.float32)) == 0


def test_the_same_sound_in_another_format_has_the_same_digest(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sound = rng.integers(-3000, 3000, 4000, dtype=np.int16)
    digests = {measure(write(tmp_path / f"a.{ending}", sound)).digest for ending in ("wav", "flac")}
    assert len(digests) == 1
    stereo = measure(write(tmp_path / "b.wav", np.stack([sound, sound], axis=1)))
    assert stereo.digest in digests
    floats = (sound / 32768).astype(np.float32)
    assert sound_digest(floats, RATE) in digests
    assert sound_digest(floats, 2 * RATE) not in digests
    assert sound_digest(floats[::-1], RATE) not in digests


def test_parts_are_cut_where_they_say(tmp_path: Path) -> None:
    sound = np.concatenate([tone(1.0), np.zeros(RATE, np.float32), tone(0.5)])
    whole = write(tmp_path / "a.wav", sound)
    quiet = measure(replace(whole, start=1.0, duration=1.0))
    assert (quiet.start, quiet.seconds, quiet.silent_share) == (1.0, 1.0, 1.0)
    assert quiet.recording_samples == len(sound)
    rounded = measure(replace(whole, start=2.0, duration=0.6))  # 0.1 s behind the end
    assert (rounded.seconds, rounded.silent_share) == (0.5, 0.0)
    open_end = measure(replace(whole, start=2.25))
    assert open_end.seconds == 0.25
    last = measure(replace(whole, start=2.4, duration=0.25))  # more than half of it is not there
    assert last.seconds == pytest.approx(0.1)
    before_the_end = measure(replace(whole, start=1.5, duration=0.9))
    for part in (rounded, open_end, last, before_the_end):
        assert part.recording_samples == len(sound)
    assert before_the_end.seconds == 0.9


@pytest.mark.parametrize(
    ("start", "duration", "message"),
    [
        (3.0, 1.0, "ends .* before the part from 3.00 s begins"),
        (2.0, 3.0, "ends .* before the part to 5.00 s does"),
        (1.0, 0.0, "has no length"),
        (-1.0, 2.0, "has no length"),
        (1.0, 0.01, "shorter than one frame"),
    ],
)
def test_parts_that_are_not_there(
    tmp_path: Path, start: float, duration: float, message: str
) -> None:
    whole = write(tmp_path / "a.wav", tone(2.5))
    with pytest.raises(AudioError, match=message):
        measure(replace(whole, start=start, duration=duration))


GOOD = Measurement(0.0, 2.0, RATE, 1, 2 * RATE, -25.0, 0.1, 0.0, "sound")


@pytest.mark.parametrize(
    ("known", "found", "message"),
    [
        ({"text": "привет мир", "language": "ru"}, {}, None),
        ({"text": "hello", "language": "ru"}, {}, "not in the script"),
        ({"text": "abc где", "language": "ru"}, {}, None),  # half of it is enough
        ({"text": "hello there", "language": "xx"}, {}, None),
        ({"text": "a" * 61}, {}, "too long for the recording"),
        ({"text": "a" * 60}, {}, None),
        ({}, {"silent_share": 1.0}, "is silent"),
        ({}, {"silent_share": 0.99}, None),
        ({}, {"clipped_share": 0.06}, "is clipped"),
    ],
)
def test_verdicts(known: dict[str, str], found: dict[str, float], message: str | None) -> None:
    utterance = Utterance("a", Path("a.wav"), **known)  # type: ignore[arg-type]
    problem = Judge(CHECKS, 30).problem(utterance, replace(GOOD, **found))
    assert (problem is None) if message is None else (message in (problem or ""))
    if "too long" not in (message or ""):
        assert Judge((), None).problem(utterance, replace(GOOD, **found)) is None


def test_of_equal_sounds_the_transcribed_one_is_kept() -> None:
    offered = [
        Utterance("a", Path("a.wav")),
        Utterance("b", Path("b.wav"), "text"),
        Utterance("c", Path("c.wav"), "text"),
        Utterance("d", Path("d.wav")),
        Utterance("e", Path("e.wav")),
    ]
    sounds = ["one", "one", "one", "two", "two"]
    kept = firsts((u, replace(GOOD, digest=sound)) for u, sound in zip(offered, sounds))
    assert {sound: utterance.id for sound, utterance in kept.items()} == {"one": "b", "two": "d"}
