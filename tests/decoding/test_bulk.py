from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl.data.audio import read_audio
from speechssl.data.vad import VoiceActivity
from speechssl.decoding.bulk import (
    MARGIN_SECONDS,
    any_long,
    measure,
    speech_spans,
    transcribe_files,
)
from speechssl.decoding.transcriber import Transcriber
from speechssl.errors import AudioError
from speechssl.frames import SAMPLE_RATE
from tests.conftest import speak


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Short and long recordings, of two rates, and one that is broken."""
    folder = tmp_path_factory.mktemp("many")
    texts = ["ada", "gaba haha", "ada " * 12, "fade bede cafe", "eche", "dach " * 9]
    paths = []
    for number, text in enumerate(texts):
        paths.append(folder / f"{number}.wav")
        soundfile.write(paths[-1], *speak(text.strip(), ("anna", "boris")[number % 2]))
    (folder / "broken.wav").write_bytes(b"no sound at all")
    return [*paths[:3], folder / "broken.wav", *paths[3:]]


def test_files_in_batches_equal_files_one_by_one(babbler, files):
    transcriber = Transcriber(babbler, window_frames=100, overlap_frames=20, batch_seconds=4)
    seconds: list[float] = []
    lengths = measure(files)
    found = dict(transcribe_files(transcriber, files, lengths, on_audio=seconds.append))
    assert list(map(str, sorted(found))) == sorted(map(str, files))
    for path in files:
        if path.name == "broken.wav":
            assert isinstance(found[path], AudioError)
            continue
        assert found[path].text == transcriber.transcribe_waveform(read_audio(path)) != ""
        assert found[path].seconds == pytest.approx(soundfile.info(path).duration, abs=1e-3)
    assert sum(seconds) == pytest.approx(sum(length or 0 for length in lengths), abs=0.01)


def test_unknown_lengths(babbler, files):
    """Where headers tell nothing, files are streamed; what is read is the same."""
    transcriber = Transcriber(babbler)
    known = dict(transcribe_files(transcriber, files[:3], measure(files[:3])))
    unknown = dict(transcribe_files(transcriber, files[:3], [None] * 3))
    for path in files[:3]:
        assert unknown[path].text == known[path].text


def test_silence_is_skipped(babbler, tmp_path):
    """Digital silence is no speech, so nothing is transcribed; elsewhere, something is."""
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(32_000, np.float32), 16_000)
    transcriber = Transcriber(babbler)
    activity = VoiceActivity()
    skipping = {"activity": activity, "skip_in_short": True}
    [(_, spoken)] = transcribe_files(transcriber, [path], [2.0], **skipping)
    assert (spoken.text, spoken.seconds) == ("", 2.0)
    [(_, short)] = transcribe_files(transcriber, [path], [2.0], activity=activity)
    assert short.text != ""
    [(_, unknown)] = transcribe_files(transcriber, [path], [None], activity=activity)
    assert unknown.text == short.text, "short ones are whole, though their length is not known"
    windowed = Transcriber(babbler, window_frames=50, overlap_frames=10)
    [(_, long)] = transcribe_files(windowed, [path], [2.0], activity=activity)
    assert (long.text, long.seconds) == ("", 2.0)
    assert any_long(windowed, [0.5, 2.0])
    assert any_long(windowed, [None])
    assert not any_long(transcriber, [0.5, 2.0])


def test_speech_spans():
    """Two utterances of the toy voice (silero takes it for speech) with 2 s of silence around.

    What is kept begins and ends a margin outside them, as well as silero hears them."""
    silence = torch.zeros(32_000)
    voice = torch.from_numpy(speak("abababab " * 3)[0])
    recording = torch.cat([silence, voice, silence, voice, silence])
    spans = speech_spans(VoiceActivity(), recording.split(20_000))
    margin = MARGIN_SECONDS * SAMPLE_RATE
    starts = [len(silence), 2 * len(silence) + len(voice)]
    stops = [start + len(voice) for start in starts]
    assert [start + margin for start, _ in spans] == pytest.approx(starts, abs=3000)
    assert [stop - margin for _, stop in spans] == pytest.approx(stops, abs=3000)
    close = torch.cat([silence, voice, torch.zeros(4000), voice, silence])  # a quarter of a second
    assert len(speech_spans(VoiceActivity(), [close])) == 1
