"""Recordings as streams: blocks of 16 kHz samples, one after the other, from a file, a pipe or a
microphone. However long the recording is, only a block is in memory."""

from __future__ import annotations

import math
import queue
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechssl.data.audio import (
    FFMPEG_SUFFIXES,
    MP3_PADDING,
    check_file,
    require_length,
    resample,
    size_is_known,
    undecodable,
    uses_torchaudio,
)
from speechssl.errors import AudioError, MissingExtraError
from speechssl.frames import SAMPLE_RATE

BLOCK_SECONDS = 10
"""Audio that is read from a file at once."""

LIVE_SECONDS = 0.1
"""Audio that is read at once from a pipe or microphone."""

FILTER_WIDTH = 7
"""Periods of the lower rate that torchaudio's filter sees on either side (6, and its roll-off)."""

_COMPRESSED = {b"ID3": "an MP3", b"fLaC": "a FLAC", b"OggS": "an Ogg", b"\x1aE\xdf\xa3": "a WebM"}
"""How streams begin that are neither WAV nor raw samples, and what they are."""

_MAX_HEADER = 1 << 20
"""Bytes in which the samples of a WAV stream must begin."""


def file_blocks(path: Path | str) -> Iterator[Tensor]:
    """The samples of an audio file: blocks [S] float32 at 16 kHz, channels averaged.

    Raises ``AudioError``, where it comes to it, if the file is missing, a folder, empty, not
    decodable, truncated, or holds samples that are not finite.
    """
    path = Path(path)
    check_file(path)
    ffmpeg = path.suffix.lower() in FFMPEG_SUFFIXES
    rate, blocks = _open_ffmpeg(path) if ffmpeg else _open_sndfile(path)
    yield from _to_16_khz(_checked(blocks, path), rate)


def file_seconds(path: Path | str) -> float | None:
    """The length of an audio file by its header; None where only decoding it can tell."""
    if Path(path).suffix.lower() in FFMPEG_SUFFIXES:
        return None
    try:
        header = soundfile.info(path)
        require_length(header.frames)
    except (soundfile.LibsndfileError, RuntimeError, OSError, TypeError):
        return None
    return float(header.frames) / float(header.samplerate)


def pipe_blocks(stream: BinaryIO, name: str = "stdin") -> Iterator[Tensor]:
    """The samples that come through a pipe, as soon as they come: [S] float32 at 16 kHz.

    A stream that begins as a WAV file does may have any rate and channels (PCM of 16, 24 or 32
    bits, or floats); everything else is raw: 16 kHz, mono, 16-bit little-endian. Raises
    ``AudioError`` for another kind of WAV stream, for compressed audio and for samples that are
    not finite.
    """
    start = _read_exactly(stream, 4)
    for begin, kind in _COMPRESSED.items():
        if start.startswith(begin):
            raise AudioError(
                f"{name}: is {kind} file, but a pipe takes WAV or raw samples; give the file's "
                "name, or convert it on the way (ffmpeg -i FILE -f wav -)."
            )
    size = None
    if start == b"RIFF":
        (rate, channels, sample), size = _wav_header(stream, name)
        start = b""
    else:
        rate, channels, sample = SAMPLE_RATE, 1, "<i2"
    blocks = _pcm(stream, start, rate, channels, sample, size)
    yield from _to_16_khz(_checked(blocks, name), rate)


def microphone_blocks() -> Iterator[Tensor]:
    """What the default microphone hears, without end: [S] float32 at 16 kHz.

    Raises ``MissingExtraError`` without sounddevice and ``AudioError`` without a microphone.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: the system has no PortAudio
        raise MissingExtraError(
            f"the microphone needs sounddevice and PortAudio ({error}): "
            "pip install -e '.[microphone]', and on Linux install the package libportaudio2; "
            "or pipe the samples in with -."
        ) from None
    heard: queue.Queue[NDArray[np.float32]] = queue.Queue()

    def keep(samples: NDArray[np.float32], *_: Any) -> None:
        heard.put(samples[:, 0].copy())

    try:
        microphone = sounddevice.InputStream(
            samplerate=SAMPLE_RATE,
            channels=1,
            dtype="float32",
            blocksize=round(LIVE_SECONDS * SAMPLE_RATE),
            callback=keep,
        )
        with microphone:
            while True:
                yield torch.from_numpy(heard.get())
    except sounddevice.PortAudioError as error:
        raise AudioError(f"the microphone cannot be used ({error}); check its settings.") from None


# --- decoding --------------------------------------------------------------------------------


def _open_sndfile(path: Path) -> tuple[int, Iterator[NDArray[np.float32]]]:
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:  # TypeError: raw samples
        raise undecodable(path, error) from None

    def blocks() -> Iterator[NDArray[np.float32]]:
        read = 0
        with file:
            try:
                # file.blocks would fill up what a broken file does not have with anything at all
                while len(block := file.read(BLOCK_SECONDS * file.samplerate, dtype="float32")):
                    read += len(block)
                    yield block.mean(1) if block.ndim > 1 else block
            except (soundfile.LibsndfileError, RuntimeError) as error:
                raise undecodable(path, error) from None
            if read < file.frames - MP3_PADDING:
                raise AudioError(
                    f"{path}: is truncated: its header promises {file.frames} samples, the file "
                    f"has {read}; copy or download it again."
                )

    return int(file.samplerate), blocks()


def _open_ffmpeg(path: Path) -> tuple[int, Iterator[NDArray[np.float32]]]:
    import audioread

    try:
        file = audioread.audio_open(str(path))
    except (audioread.DecodeError, OSError) as error:
        raise undecodable(path, error) from None

    def blocks() -> Iterator[NDArray[np.float32]]:
        with file:
            try:
                for block in file:
                    yield _from_bytes(block, "<i2", file.channels)
            except (audioread.DecodeError, OSError) as error:
                raise undecodable(path, error) from None

    return int(file.samplerate), blocks()


def _wav_header(stream: BinaryIO, name: str) -> tuple[tuple[int, int, str], int | None]:
    """Reads a WAV stream, of which "RIFF" is already read, up to its first sample.

    Returns the rate, the number of channels and numpy's name of the sample type; and the bytes of
    samples, None where the header does not know them.
    """
    known = {(1, 16): "<i2", (1, 24): "<i3", (1, 32): "<i4", (3, 32): "<f4", (3, 64): "<f8"}
    read, form = 12, None
    if _read_exactly(stream, 8)[4:] == b"WAVE":
        while read < _MAX_HEADER and len(chunk := _read_exactly(stream, 8)) == 8:
            size = int(struct.unpack("<I", chunk[4:])[0])
            if chunk[:4] == b"data" and form is not None:
                return form, size if size_is_known(size) else None
            if size > _MAX_HEADER:
                break
            body = _read_exactly(stream, size + size % 2)
            read += 8 + len(body)
            if chunk[:4] == b"fmt " and len(body) >= 16:
                kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", body[:16])
                if kind == 0xFFFE and len(body) >= 26:  # extensible: the kind is further behind
                    kind = struct.unpack("<H", body[24:26])[0]
                if (kind, bits) not in known or channels == 0 or rate == 0:
                    raise AudioError(
                        f"{name}: the WAV stream has samples of kind {kind} with {bits} bits; "
                        "send PCM of 16, 24 or 32 bits, or floats."
                    )
                form = (rate, channels, known[kind, bits])
    raise AudioError(f"{name}: begins as a WAV stream and has no samples; send it whole.")


def _pcm(
    stream: BinaryIO, rest: bytes, rate: int, channels: int, sample: str, size: int | None
) -> Iterator[NDArray[np.float32]]:
    """The samples of ``rest`` and of the next ``size`` bytes in ``stream`` (None: of all that
    follow), whatever arrives at a time."""
    width = int(sample[2:]) * channels
    most = max(1, round(LIVE_SECONDS * rate)) * width
    read = getattr(stream, "read1", stream.read)
    while True:
        whole = len(rest) // width * width
        if whole:
            yield _from_bytes(rest[:whole], sample, channels)
        more = read(most if size is None else min(most, size))
        if not more:
            return
        if size is not None:
            size -= len(more)
        rest = rest[whole:] + more


def _from_bytes(data: bytes, sample: str, channels: int) -> NDArray[np.float32]:
    """[S] float32 within -1..1, channels averaged."""
    if sample == "<i3":  # numpy has no such type: the upper bytes of 32 bits
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        values = wide.view("<i4")[:, 0]
    else:
        values = np.frombuffer(data, sample)
    scale = 2.0 ** (8 * values.dtype.itemsize - 1) if values.dtype.kind == "i" else 1.0
    samples: NDArray[np.float32] = (values.reshape(-1, channels) / scale).mean(1).astype(np.float32)
    return samples


def _read_exactly(stream: BinaryIO, count: int) -> bytes:
    """``count`` bytes, or fewer at the end of the stream."""
    data = b""
    while len(data) < count and (more := stream.read(count - len(data))):
        data += more
    return data


def _checked(
    blocks: Iterable[NDArray[np.float32]], name: Path | str
) -> Iterator[NDArray[np.float32]]:
    empty = True
    for block in blocks:
        if not np.isfinite(block).all():
            raise AudioError(f"{name}: holds samples that are NaN or infinite; replace the file.")
        empty = empty and not len(block)
        yield block
    if empty:
        raise AudioError(f"{name}: has no samples; remove or replace the file.")


def _to_16_khz(blocks: Iterable[NDArray[np.float32]], rate: int) -> Iterator[Tensor]:
    """Blocks at ``rate`` as blocks at 16 kHz, with the same result as ``resample`` of the whole."""
    common = math.gcd(rate, SAMPLE_RATE)
    if rate == SAMPLE_RATE:
        yield from map(torch.from_numpy, blocks)
    elif uses_torchaudio(rate):
        yield from _resampled(map(torch.from_numpy, blocks), rate // common, SAMPLE_RATE // common)
    else:
        resampler = soxr.ResampleStream(rate, SAMPLE_RATE, num_channels=1, dtype="float32")
        for block in blocks:
            yield torch.from_numpy(resampler.resample_chunk(block))
        yield torch.from_numpy(resampler.resample_chunk(np.zeros(0, np.float32), last=True))


def _resampled(blocks: Iterable[Tensor], old: int, new: int) -> Iterator[Tensor]:
    """Blocks of ``old`` samples to every ``new`` (without a common divisor) of the result.

    Each block is resampled with some samples before and behind it, at least as many as the filter
    sees, so that it comes out as if the whole recording were resampled at once.
    """
    reach = math.ceil(FILTER_WIDTH * old / min(old, new)) + old
    margin = math.ceil(reach / old) * old
    held, before = torch.empty(0), 0  # samples, and how many of them are there for the filter only
    for block in blocks:
        held = torch.cat([held, block])
        ready = (len(held) - before - margin) // old * old
        if ready <= 0:
            continue
        resampled = resample(held[: before + ready + margin], SAMPLE_RATE * old // new)
        yield resampled[before * new // old : (before + ready) * new // old]
        passed = max(0, before + ready - margin)
        held, before = held[passed:], before + ready - passed
    if len(held) > before:
        yield resample(held, SAMPLE_RATE * old // new)[before * new // old :]
