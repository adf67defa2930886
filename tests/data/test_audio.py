from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from lhotse import AudioSource, CutSet, MonoCut, Recording

from speechssl.data.audio import (
    AUDIO_SUFFIXES,
    audio_seconds,
    cut_samples,
    decode_audio,
    find_audio,
    read_audio,
    read_cut,
    resample,
    resampled_length,
)
from speechssl.data.streams import file_blocks, file_seconds
from speechssl.errors import AudioError


def tone(
    path: Path,
    rate: int = 16_000,
    seconds: float = 1.0,
    hertz: tuple[float, ...] = (440.0,),
    **options: Any,
) -> Path:
    """Writes a sine of each frequency, one per channel."""
    time = np.arange(round(rate * seconds)) / rate
    channels = [0.5 * np.sin(2 * np.pi * h * time) for h in hertz]
    soundfile.write(path, np.stack(channels, axis=1), rate, **options)
    return path


def sine(samples: int, hertz: float = 440.0) -> torch.Tensor:
    return 0.5 * torch.sin(2 * torch.pi * hertz * torch.arange(samples) / 16_000)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3", "opus", "aiff"])
def test_reads_each_format(tmp_path: Path, ending: str) -> None:
    options = {"format": "OGG", "subtype": "OPUS"} if ending == "opus" else {}
    waveform = read_audio(tone(tmp_path / f"a.{ending}", **options))
    assert waveform.dtype == torch.float32
    assert waveform.shape == (16_000,)
    middle = slice(4000, 12_000)
    torch.testing.assert_close(waveform[middle], sine(16_000)[middle], atol=0.03, rtol=0)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 44_101])
def test_resamples_every_rate_to_16_khz(tmp_path: Path, rate: int) -> None:
    waveform = read_audio(tone(tmp_path / "a.wav", rate))
    assert abs(len(waveform) - 16_000) <= 1
    middle = slice(4000, 12_000)
    torch.testing.assert_close(waveform[middle], sine(16_000)[middle], atol=0.01, rtol=0)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100])
@pytest.mark.parametrize("samples", [401, 12_345])
def test_length_after_resampling_is_known_beforehand(rate: int, samples: int) -> None:
    resampled = resample(torch.randn(samples), rate)
    assert len(resampled) == resampled_length(samples, rate)
    assert len(resampled) == int(np.ceil(samples * 16_000 / rate))


def test_long_recordings_keep_an_exact_length() -> None:
    assert resampled_length(20_000_001, 8_000) == 40_000_002


def test_averages_channels_or_picks_one(tmp_path: Path) -> None:
    path = tone(tmp_path / "a.wav", hertz=(440.0, 880.0))
    first, second = sine(16_000, 440.0), sine(16_000, 880.0)
    torch.testing.assert_close(read_audio(path), (first + second) / 2, atol=1e-3, rtol=0)
    torch.testing.assert_close(read_audio(path, channel=1), second, atol=1e-3, rtol=0)
    with pytest.raises(AudioError, match=r"2 channel.* no channel 2"):
        read_audio(path, channel=2)


def test_reads_a_window(tmp_path: Path) -> None:
    path = tone(tmp_path / "a.wav")
    window = read_audio(path, start=0.25, duration=0.5)
    torch.testing.assert_close(window, read_audio(path)[4000:12_000])
    assert len(read_audio(path, start=0.9)) == 1600


def test_window_behind_the_end(tmp_path: Path) -> None:
    path = tone(tmp_path / "a.wav")
    assert len(read_audio(path, start=0.5, duration=0.51)) == 8160
    with pytest.raises(AudioError, match=r"ends at 1.00 s, but the manifest asks for 0.50 to 1.50"):
        read_audio(path, start=0.5, duration=1.0)


@pytest.mark.parametrize("rate", [8_000, 48_000])
def test_a_fortieth_of_a_second_may_be_missing_at_any_rate(tmp_path: Path, rate: int) -> None:
    path = tone(tmp_path / "a.wav", rate)
    assert len(read_audio(path, start=0.5, duration=0.525)) == 8400
    with pytest.raises(AudioError, match=r"ends at 1.00 s"):
        read_audio(path, start=0.5, duration=0.53)


def test_a_window_begins_at_the_nearest_sample(tmp_path: Path) -> None:
    path = tone(tmp_path / "a.wav", 44_100)
    whole, _ = decode_audio(path)
    for first in range(0, 40_000, 997):
        window, _ = decode_audio(path, start=first / 44_100, duration=5 / 44_100)
        assert window.equal(whole[first : first + 5])


def _truncated(ending: str, share: float) -> Any:
    def write(path: Path) -> Path:
        whole = tone(path.with_name(f"whole.{ending}")).read_bytes()
        path = path.with_suffix(f".{ending}")
        path.write_bytes(whole[: int(len(whole) * share)])
        return path

    return write


def _samples(*values: float) -> Any:
    def write(path: Path) -> Path:
        soundfile.write(path, np.array(values, dtype=np.float32), 16_000, subtype="FLOAT")
        return path

    return write


def _content(content: bytes) -> Any:
    def write(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return write


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path, "no such file"),
        (_folder, "is a folder"),
        (_content(b""), r"is empty \(0 bytes\)"),
        (_content(b"<html>not found</html>"), "cannot be decoded"),
        (_samples(), "has no samples"),
        (_samples(*[float("nan")] * 500), "NaN or infinite"),
        (_samples(*[0.0] * 500, float("inf")), "NaN or infinite"),
        (_truncated("wav", 0.6), "is truncated: its header promises 32000 bytes .* has 19182"),
        (_truncated("flac", 0.6), "cannot be decoded"),
        (_truncated("mp3", 0.6), "is truncated"),
        (_truncated("ogg", 0.02), "is truncated: its last page promises"),
        (_truncated("ogg", 0.5), "is truncated: its last page promises"),
        (_truncated("ogg", 0.99), "is truncated: its last page promises"),
        (_truncated("aiff", 0.6), "is truncated: its header promises 32008 bytes"),
        (_truncated("au", 0.6), "is truncated: its header promises 32000 bytes"),
    ],
)
def test_bad_file_is_one_clear_line(tmp_path: Path, write: Any, message: str) -> None:
    path = write(tmp_path / "bad.wav")
    with pytest.raises(AudioError, match=message) as caught:
        read_audio(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["wav", "aiff", "au"])
def test_one_lost_sample_is_noticed(tmp_path: Path, ending: str) -> None:
    path = tone(tmp_path / f"a.{ending}")
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(AudioError, match="is truncated: its header promises"):
        read_audio(path)


def test_notes_before_the_samples(tmp_path: Path) -> None:
    """A chunk of odd size is followed by a byte that belongs to none."""
    path = tone(tmp_path / "a.wav")
    whole, content = read_audio(path), path.read_bytes()
    path.write_bytes(content[:36] + b"note\3\0\0\0odd\0" + content[36:])
    assert read_audio(path).equal(whole)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(AudioError, match="is truncated"):
        read_audio(path)


def test_truncated_opus(tmp_path: Path) -> None:
    path = tone(tmp_path / "a.opus", 48_000, 20.0, format="OGG", subtype="OPUS")
    whole = path.read_bytes()
    assert len(read_audio(path)) == 20 * 16_000
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(AudioError, match="is truncated"):
            list(file_blocks(path))
    path.write_bytes(whole + b"TAG" + bytes(125))  # what some programs append
    assert len(read_audio(path)) == 20 * 16_000


def test_an_mp3_may_hold_a_frame_or_two_less_than_its_header_says(tmp_path: Path) -> None:
    path = tone(tmp_path / "a.mp3", seconds=3.0)
    whole = read_audio(path)
    path.write_bytes(path.read_bytes()[:-50])
    for shorter in (read_audio(path), torch.cat(list(file_blocks(path)))):
        assert 0 < len(whole) - len(shorter) <= 2 * 1152
        torch.testing.assert_close(shorter[:44_000], whole[:44_000], atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [b"\xff\xff\xff\xff", b"\x24\xf0\xff\x7f"], ids=["FFmpeg", "SoX"])
def test_streamed_wav_without_a_length_is_no_truncated_file(tmp_path: Path, size: bytes) -> None:
    path = tone(tmp_path / "a.wav")
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = size
    path.write_bytes(content)
    assert len(read_audio(path)) == 16_000


@pytest.mark.skipif(shutil.which("ffmpeg") is not None, reason="FFmpeg is installed here")
def test_m4a_without_ffmpeg_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    with pytest.raises(AudioError, match="install ffmpeg"):
        read_audio(tmp_path / "a.m4a")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg to write and read m4a")
def test_m4a_with_ffmpeg(tmp_path: Path) -> None:
    source = str(tone(tmp_path / "a.wav"))
    target = str(tmp_path / "a.m4a")
    subprocess.run(["ffmpeg", "-v", "error", "-i", source, target], check=True)
    assert abs(len(read_audio(target)) - 16_000) < 3000


def test_a_flac_that_went_through_a_pipe(tmp_path: Path) -> None:
    path = tone(tmp_path / "a.flac")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # 36 bits of STREAMINFO hold the number of samples; 0 if it is not known
    content[22:26] = bytes(4)
    path.write_bytes(content)
    for read in (read_audio, audio_seconds):
        with pytest.raises(AudioError, match=r"does not say how long it is.*convert it"):
            read(path)
    assert file_seconds(path) is None


def test_raw_samples(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(4000))
    with pytest.raises(AudioError, match="cannot be decoded"):
        read_audio(tmp_path / "a.raw")
    with pytest.raises(AudioError, match="cannot be decoded"):
        list(file_blocks(tmp_path / "a.raw"))


def test_find_audio(tmp_path: Path) -> None:
    for name in ("b.wav", "a.FLAC", "sub/c.mp3", "notes.txt", "._b.wav", ".old/b.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [path.relative_to(tmp_path).as_posix() for path in find_audio(tmp_path)]
    assert names == ["a.FLAC", "b.wav", "sub/c.mp3"]
    assert find_audio(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    assert {".wav", ".flac", ".ogg", ".mp3", ".m4a"} <= set(AUDIO_SUFFIXES)


def test_find_audio_follows_links(tmp_path: Path) -> None:
    for name in ("in/b/1.wav", "in/b/2.wav", "far/deep/3.wav", "far/4.wav", "other/5.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    links = {
        "in/a": "in/b",  # the folder itself goes before a link to it
        "in/far": "far",
        "in/further": "far",
        "in/6.wav": "other/5.wav",
        "in/.hidden": "other",
        "in/b/up": "in",
        "far/deep/up": "far",
        "far/deep/back": "in",
        "in/up": ".",
        "in/lost": "nowhere",
        "in/self.wav": "in/self.wav",
    }
    for link, target in links.items():
        (tmp_path / link).symlink_to(tmp_path / target)
    names = [path.relative_to(tmp_path).as_posix() for path in find_audio(tmp_path / "in")]
    assert names == ["in/6.wav", "in/b/1.wav", "in/b/2.wav", "in/far/4.wav", "in/far/deep/3.wav"]
    names = sorted(path.name for path in find_audio(tmp_path / "in" / "far"))
    assert names == ["1.wav", "2.wav", "3.wav", "4.wav", "6.wav"]


def test_find_audio_errors(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="holds no audio file"):
        find_audio(tmp_path)
    with pytest.raises(AudioError, match="no such file or folder"):
        find_audio(tmp_path / "absent")


def test_read_cut_gives_the_promised_samples(corpus: Path) -> None:
    for cut in CutSet.from_file(corpus / "train" / "cuts.jsonl.gz"):
        waveform = read_cut(cut)
        assert waveform.shape == (cut_samples(cut),)
        torch.testing.assert_close(waveform, read_audio(cut.recording.sources[0].source))


def _cut(path: Path, channel: int = 0, **options: Any) -> MonoCut:
    samples, rate = decode_audio(path)
    source = AudioSource("file", list(range(samples.shape[1])), str(path))
    recording = Recording("r", [source], rate, len(samples), len(samples) / rate)
    return MonoCut("c", 0.0, recording.duration, channel, recording=recording, **options)


def test_read_cut_reads_its_window_and_channel(tmp_path: Path) -> None:
    path = tone(tmp_path / "a.wav", 8_000, hertz=(440.0, 880.0))
    part = _cut(path, channel=1).truncate(offset=0.25, duration=0.5)
    expected = read_audio(path, start=0.25, duration=0.5, channel=1)
    torch.testing.assert_close(read_cut(part), expected)
    named = _cut(path)
    named.recording.sources[0].channels = [4, 7]
    named.channel = 7
    torch.testing.assert_close(read_cut(named), read_audio(path, channel=1))
    both = _cut(path, custom={"downmix": True})
    torch.testing.assert_close(read_cut(both), read_audio(path))


def test_read_cut_obeys_lhotse_transforms(tmp_path: Path) -> None:
    for rate in (16_000, 8_000):
        cut = _cut(tone(tmp_path / "a.wav", rate)).perturb_volume(0.5)
        torch.testing.assert_close(read_cut(cut), 0.5 * read_audio(tmp_path / "a.wav"))
    soundfile.write(tmp_path / "a.wav", np.full(8000, np.nan), 8000, subtype="FLOAT")
    with pytest.raises(AudioError, match="its recording has no samples or some are not finite"):
        read_cut(cut)


def test_read_cut_of_a_lost_file(tmp_path: Path) -> None:
    cut = _cut(tone(tmp_path / "a.wav"))
    (tmp_path / "a.wav").unlink()
    with pytest.raises(AudioError, match=r"a\.wav: no such file"):
        read_cut(cut)
    with pytest.raises(AudioError, match="cut c: its recording cannot be read"):
        read_cut(cut.perturb_volume(0.5).with_id("c"))


def test_lhotse_is_not_imported_for_reading_audio() -> None:
    code = "import sys, speechssl.data.audio; sys.exit('lhotse' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
