from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl.data.journal import Journal
from speechssl.data.segmenting import LONGEST_SECONDS, cut_long, file_key, group_spans
from speechssl.data.utterance import Utterance
from speechssl.data.vad import VoiceActivity
from tests.conftest import speak

WORDS = "ada bede cafe dach eche fade gaba haha "


def pieces(seconds: float, start: float = 0.0) -> list[tuple[float, float]]:
    """Words of 0.4 s every half second."""
    return [(start + 0.5 * n, start + 0.5 * n + 0.4) for n in range(round(2 * seconds))]


def test_words_become_pieces_that_are_short_enough() -> None:
    found = group_spans(pieces(70))
    assert all(2 <= end - start <= LONGEST_SECONDS for start, end in found)
    assert len(found) == 3
    assert sum(end - start for start, end in found) > 69


def test_long_pauses_divide_and_short_pieces_vanish() -> None:
    found = group_spans([*pieces(3), (10.0, 11.0), *pieces(4, start=13.0)])
    assert [(round(start, 1), round(end, 1)) for start, end in found] == [(0, 2.9), (13, 16.9)]
    assert group_spans([]) == []


def test_limits_belong_to_what_they_allow() -> None:
    assert group_spans([(0.0, 3.0), (4.0, 6.0)]) == [(0.0, 6.0)]
    assert group_spans([(0.0, 3.0), (4.01, 7.0)]) == [(0.0, 3.0), (4.01, 7.0)]
    assert group_spans([(0.0, 2.0)]) == [(0.0, 2.0)]
    assert group_spans([(0.0, 14.0), (15.0, 30.0)]) == [(0.0, 30.0)]


@pytest.fixture(scope="module")
def long_recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 s of speech at 1 s and at 26 s in 34 s; stereo, as FLAC."""
    voice, rate = speak(WORDS * 2, "boris")
    rng = np.random.default_rng(0)
    sound = 0.0005 * rng.standard_normal(34 * rate)
    for second in (1, 26):
        sound[second * rate : second * rate + len(voice)] += voice
    path = tmp_path_factory.mktemp("long") / "talk.flac"
    soundfile.write(path, np.stack([sound, sound], axis=1), rate)
    return path


def test_voice_is_found_however_the_sound_arrives() -> None:
    voice, rate = speak(WORDS, "anna")
    assert rate == 16_000
    sound = torch.cat([torch.zeros(20_000), torch.from_numpy(voice), torch.zeros(20_000)])
    listener = VoiceActivity()
    ((start, end),) = listener.spans([sound])
    assert start == pytest.approx(1.25, abs=0.2)
    assert end == pytest.approx(1.25 + len(voice) / rate, abs=0.2)
    assert listener.spans(sound.split(777)) == [(start, end)]
    assert listener.spans([torch.zeros(40_000)]) == []
    parts = listener.spans([sound], longest_seconds=1.0)
    assert len(parts) >= 3
    assert max(end - start for start, end in parts) <= 1.0


def test_long_recordings_are_cut_at_their_speech(long_recording: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.wav"
    soundfile.write(short, *speak(WORDS))
    hum = tmp_path / "hum.wav"
    soundfile.write(hum, np.zeros(31 * 8000), 8000)
    offered = [
        Utterance("talk", long_recording, speaker="boris", language="en"),
        Utterance("told", long_recording, "a transcript for all"),
        Utterance("short", short),
        Utterance("hum", hum),
        Utterance("rest", long_recording, start=10.0),  # which is short
        Utterance("half minute", hum, duration=30.0),
        Utterance("gone", tmp_path / "gone.wav"),
        Utterance("talk", short),  # the same id in another part of a corpus
    ]
    journal = Journal(tmp_path / "out" / "measured.jsonl")
    asked: list[str] = []
    kept, rejected, notes = cut_long(
        offered, journal, before_listening=lambda: asked.append("may I?")
    )
    first, second, *others = kept
    assert [u.id for u in others] == ["told", "short", "rest", "half minute", "gone", "talk"]
    assert first.start == pytest.approx(1, abs=0.3)
    assert second.start == pytest.approx(26, abs=0.3)
    for piece in (first, second):
        assert piece.duration == pytest.approx(6.2, abs=0.5)
        assert (piece.recording, piece.speaker, piece.language) == ("talk", "boris", "en")
        assert piece.id.startswith("talk-000")
    assert [item.item for item in rejected] == ["hum"]
    assert "no speech" in rejected[0].reason
    assert "more than 30 s: 2 (1.1 minutes), cut into 2 pieces of speech (0.2 minutes)" in notes[0]
    again = Journal(journal.path)
    assert cut_long(offered, again, before_listening=asked.clear) == (kept, rejected, notes)
    assert asked == ["may I?"], "nothing is listened to twice"


def test_parts_of_a_long_recording_are_cut_by_themselves(tmp_path: Path) -> None:
    voice, rate = speak(WORDS, "boris")
    sound = 0.0005 * np.random.default_rng(0).standard_normal(75 * rate)
    for second in (1, 37, 70):
        sound[second * rate : second * rate + len(voice)] += voice
    path = tmp_path / "day.wav"
    soundfile.write(path, sound, rate)
    offered = [
        Utterance("day-1", path, start=0.0, duration=34.0, recording="day"),
        Utterance("day-2", path, start=34.0, recording="day"),
    ]
    kept, rejected, _ = cut_long(offered, Journal(tmp_path / "measured.jsonl"))
    assert rejected == []
    assert [piece.recording for piece in kept] == ["day"] * 3
    assert [piece.start for piece in kept] == pytest.approx([1, 37, 70], abs=0.3)
    assert [piece.id.split("-")[1] for piece in kept] == ["1", "2", "2"]


def test_what_breaks_off_is_left_to_whoever_reads_it_next(
    long_recording: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.flac"
    broken.write_bytes(long_recording.read_bytes()[:100_000])
    offered = [Utterance("broken", broken)]
    assert cut_long(offered, Journal(tmp_path / "measured.jsonl")) == (offered, [], [])


def test_another_file_of_the_same_size_has_another_key(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"one sound")
    os.utime(path, ns=(0, 1_000_000))
    before = file_key(Utterance("a", path))
    path.write_bytes(b"two sound")
    os.utime(path, ns=(0, 2_000_000))
    assert file_key(Utterance("a", path)) != before
    assert file_key(Utterance("a", path, start=1.0)) != file_key(Utterance("a", path))


def test_a_file_that_becomes_readable_has_another_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone, ffmpeg = tmp_path / "phone.m4a", tmp_path / "bin" / "ffmpeg"
    phone.write_bytes(b"m4a")
    monkeypatch.setenv("PATH", str(ffmpeg.parent))
    without = file_key(Utterance("phone", phone))
    ffmpeg.parent.mkdir()
    ffmpeg.touch(mode=0o755)
    assert file_key(Utterance("phone", phone)) != without
