import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl.data.audio import read_audio, resample, resampled_length
from speechssl.data.streams import (
    _to_16_khz,
    file_blocks,
    file_seconds,
    microphone_blocks,
    pipe_blocks,
)
from speechssl.errors import AudioError, MissingExtraError


def tone(rate: int, seconds: float = 25.0, hertz: float = 440.0) -> np.ndarray:
    time = np.arange(round(rate * seconds)) / rate
    return (0.3 * np.sin(2 * np.pi * hertz * time) * (1 - time / seconds)).astype(np.float32)


def wav_bytes(samples: np.ndarray, rate: int, subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype=subtype)
    return file.getvalue()


class Pipe(io.RawIOBase):
    """A stream of which a read gives at most 777 bytes, and that cannot be rewound."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        data = self._data.read(min(len(buffer), 777))
        buffer[: len(data)] = data
        return len(data)


def through_pipe(data: bytes) -> torch.Tensor:
    return torch.cat(list(pipe_blocks(io.BufferedReader(Pipe(data)))))


# --- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "ending"), [(16_000, "wav"), (44_100, "flac"), (8_000, "wav"), (48_000, "ogg")]
)
def test_blocks_are_the_recording(tmp_path: Path, rate: int, ending: str) -> None:
    path = tmp_path / f"tone.{ending}"
    soundfile.write(path, np.stack([tone(rate), 0.5 * tone(rate)], 1), rate)
    blocks = list(file_blocks(path))
    assert len(blocks) > 2
    assert max(map(len, blocks)) < 12 * 16_000
    whole = read_audio(path)
    streamed = torch.cat(blocks)
    assert streamed.dtype == torch.float32
    torch.testing.assert_close(streamed, whole, atol=1e-6, rtol=0)
    assert file_seconds(path) == pytest.approx(25.0, abs=0.01)


def test_odd_rate(tmp_path: Path) -> None:
    path = tmp_path / "odd.wav"
    soundfile.write(path, tone(11_127, 3), 11_127)
    assert len(torch.cat(list(file_blocks(path)))) == pytest.approx(48_000, abs=2)


def test_bad_files(tmp_path: Path) -> None:
    whole = wav_bytes(tone(16_000, 1), 16_000)
    nan = np.full(100, np.nan, np.float32)
    problems = {
        "empty.wav": (b"", "is empty"),
        "noise.wav": (b"these are not samples", "cannot be decoded"),
        "half.wav": (whole[: len(whole) // 2], "truncated"),
        "nothing.wav": (wav_bytes(np.zeros(0), 16_000), "no samples"),
        "nan.wav": (wav_bytes(nan, 16_000, "FLOAT"), "NaN"),
        "noise.m4a": (b"these are not samples", "needs FFmpeg"),
    }
    for name, (content, problem) in problems.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AudioError, match=problem) as caught:
            list(file_blocks(tmp_path / name))
        assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(AudioError, match="no such file"):
        list(file_blocks(tmp_path / "missing.wav"))
    assert file_seconds(tmp_path / "noise.wav") is None
    assert file_seconds(tmp_path / "missing.wav") is None


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_what_a_broken_mp3_has_no_more_is_not_made_up(tmp_path: Path, share: float) -> None:
    path = tmp_path / "tone.mp3"
    soundfile.write(path, tone(16_000), 16_000)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    blocks = file_blocks(path)
    heard = [next(blocks)]
    with pytest.raises(AudioError, match="truncated: its header promises 400000 samples, the file"):
        heard += blocks
    seconds = len(torch.cat(heard)) / 16_000
    assert seconds < 25 * (share + 0.05)
    assert torch.cat(heard).abs().max() < 0.4


def test_resampling_small_blocks_equals_the_whole() -> None:
    """Blocks of any size, even smaller than the filter, and any ratio of rates."""
    for rate in (8_000, 44_100, 96_000):
        samples = torch.from_numpy(tone(rate, 0.5) + tone(rate, 0.5, 0.47 * rate))
        expected = resample(samples, rate)
        for size in (37, 5000):
            blocks = (block.numpy() for block in samples[: rate // 4].split(size))
            streamed = torch.cat(list(_to_16_khz(blocks, rate)))
            shared = len(streamed) - 200  # the filter sees what the shorter recording lacks
            torch.testing.assert_close(streamed[:shared], expected[:shared], atol=1e-5, rtol=0)
            assert len(streamed) == resampled_length(rate // 4, rate)


# --- pipes -----------------------------------------------------------------------------------


def test_raw_samples() -> None:
    samples = tone(16_000, 1)
    data = (samples * 32767).astype("<i2").tobytes()
    torch.testing.assert_close(through_pipe(data), torch.from_numpy(samples), atol=1e-3, rtol=0)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_wav_stream_equals_file(tmp_path: Path, subtype: str) -> None:
    samples = np.stack([tone(22_050, 2), tone(22_050, 2, 880.0)], 1)
    data = wav_bytes(samples, 22_050, subtype)
    (tmp_path / "tone.wav").write_bytes(data)
    expected = torch.cat(list(file_blocks(tmp_path / "tone.wav")))
    torch.testing.assert_close(through_pipe(data), expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_the_extensible_form_of_a_wav_stream(subtype: str) -> None:
    """As many programs write more than two channels or 16 bits."""
    samples, file = np.stack([tone(16_000, 1)] * 3, 1), io.BytesIO()
    soundfile.write(file, samples, 16_000, format="WAVEX", subtype=subtype)
    plain = through_pipe(wav_bytes(samples, 16_000, subtype))
    torch.testing.assert_close(through_pipe(file.getvalue()), plain, atol=0, rtol=0)


@pytest.mark.parametrize("note", [b"even", b"odd"])
def test_notes_before_the_samples_of_a_wav_stream(note: bytes) -> None:
    """A chunk of odd size is followed by a byte that belongs to none."""
    data = wav_bytes(tone(16_000, 1), 16_000)
    chunk = b"note" + struct.pack("<I", len(note)) + note + bytes(len(note) % 2)
    assert through_pipe(data[:36] + chunk + data[36:]).equal(through_pipe(data))


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF024])
def test_wav_stream_of_unknown_length(size: int) -> None:
    """As FFmpeg and SoX write it to a pipe: the sizes are not known yet."""
    data = bytearray(wav_bytes(tone(16_000, 1), 16_000))
    data[4:8] = data[40:44] = struct.pack("<I", size)
    assert len(through_pipe(bytes(data))) == 16_000


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_what_follows_the_samples_of_a_wav_stream_is_no_sound(subtype: str) -> None:
    data = wav_bytes(tone(16_000, 1), 16_000, subtype)
    followed = data + b"LIST" + struct.pack("<I", 8) + b"INFO\xff\xff\xff\x7f"
    assert through_pipe(followed).equal(through_pipe(data))


def test_bad_pipes() -> None:
    with pytest.raises(AudioError, match="stdin: has no samples"):
        through_pipe(b"")
    with pytest.raises(AudioError, match="begins as a WAV stream"):
        through_pipe(b"RIFF0000WAVE")
    with pytest.raises(AudioError, match="kind 7 with 8 bits"):
        through_pipe(wav_bytes(tone(16_000, 1), 16_000, "ULAW"))
    whole = wav_bytes(tone(16_000, 1), 16_000)
    for place, size in ((22, 2), (24, 4)):  # neither channels nor a rate
        with pytest.raises(AudioError, match="the WAV stream has samples of kind 1"):
            through_pipe(whole[:place] + bytes(size) + whole[place + size :])


@pytest.mark.parametrize("kind", ["FLAC", "OGG"])
def test_compressed_audio_in_a_pipe_is_not_taken_for_samples(kind: str) -> None:
    file = io.BytesIO()
    soundfile.write(file, tone(16_000, 1), 16_000, format=kind)
    with pytest.raises(AudioError, match=f"(?i)is an? {kind} file, but a pipe takes WAV or raw"):
        through_pipe(file.getvalue())


def test_microphone_names_its_extra() -> None:
    """Only where there is no PortAudio, as on most servers: there, nothing can be heard."""
    try:
        import sounddevice  # noqa: F401
    except (ImportError, OSError):
        with pytest.raises(MissingExtraError, match=r"\[microphone\]"):
            next(microphone_blocks())
    else:
        pytest.skip("PortAudio is installed")
