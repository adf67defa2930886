"""Reading recordings: any rate, any channels, many formats in; 16 kHz mono out, or a clear error.

Lhotse is not imported here, so that transcribing a file starts fast.
"""

from __future__ import annotations

import math
import os
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import soundfile
import torch
import torchaudio.functional
from torch import Tensor

from speechssl.data.shar import read_stored
from speechssl.errors import AudioError
from speechssl.frames import SAMPLE_RATE

if TYPE_CHECKING:
    from lhotse import AudioSource, MonoCut

SNDFILE_SUFFIXES = (
    ".wav",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".aiff",
    ".aif",
    ".au",
    ".sph",
)
"""File name endings that libsndfile decodes by itself."""

FFMPEG_SUFFIXES = (".m4a", ".mp4", ".aac", ".wma", ".webm")
"""File name endings that need FFmpeg on the PATH (or macOS)."""

AUDIO_SUFFIXES = SNDFILE_SUFFIXES + FFMPEG_SUFFIXES
"""File name endings that ``find_audio`` takes for recordings."""

SLACK_SECONDS = 0.025
"""How far behind the end of a file a window may reach; the missing samples are zeros."""

MP3_PADDING = 2 * 1152
"""Samples that the header of an MP3 may promise beyond what it decodes to: the encoder's delay and
padding, at most two frames."""

LONGEST_PAGE = 27 + 255 + 255 * 255
"""Bytes that a page of an Ogg file has at most."""

_CHUNKS = {
    (b"RIFF", b"WAVE"): (b"data", "<I"),
    (b"FORM", b"AIFF"): (b"SSND", ">I"),
    (b"FORM", b"AIFC"): (b"SSND", ">I"),
}
"""How files of chunks begin; the chunk with the samples, and how its size is written."""

_UNKNOWN_FRAMES = 2**63 - 1
"""The length by libsndfile of a FLAC that went through a pipe, which it cannot read either."""


def find_audio(path: Path | str) -> list[Path]:
    """The recordings at ``path``: the file itself, or the audio files of ``files_under(path)``.

    Raises ``AudioError`` if there is nothing at ``path`` or the folder holds no file that ends in
    one of ``AUDIO_SUFFIXES``.
    """
    path = Path(path)
    if not path.exists():
        raise AudioError(f"{path}: no such file or folder; check the path.")
    if not path.is_dir():
        return [path]
    found = [file for file in files_under(path) if file.suffix.lower() in AUDIO_SUFFIXES]
    if not found:
        endings = " ".join(AUDIO_SUFFIXES)
        raise AudioError(f"{path}: the folder holds no audio file; looked for {endings}.")
    return found


def files_under(folder: Path) -> list[Path]:
    """All files in ``folder`` and its folders, sorted, without hidden ones and those in hidden
    folders.

    Links are followed. A folder that can be reached in several ways is entered once, and through a
    link only if there is no other way; a link to a folder above itself leads nowhere.
    """
    found: list[Path] = []
    entered: set[Path] = set()
    tops = [folder]
    while tops:
        for above, folders, names in os.walk(tops.pop(0)):  # which enters no links
            place = Path(above)
            real = place.resolve()
            if real in entered:
                folders.clear()
                continue
            entered.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            files = (place / name for name in names if not name.startswith("."))
            found += [file for file in files if file.is_file()]
            links = (place / name for name in folders if (place / name).is_symlink())
            tops += [link for link in links if not real.is_relative_to(link.resolve())]
    return sorted(found)


def read_audio(
    path: Path | str,
    *,
    start: float = 0.0,
    duration: float | None = None,
    channel: int | None = None,
    content: BinaryIO | None = None,
) -> Tensor:
    """Reads a recording, or a part of it, as [S] float32 samples at 16 kHz.

    ``start`` and ``duration`` are in seconds; without ``duration`` it reads to the end. All
    channels are averaged unless ``channel`` (from 0) picks one. With ``content``, the bytes of a
    recording, ``path`` only names it in messages. Raises ``AudioError`` if the file is missing, a
    folder, empty, not decodable, truncated, shorter than the wanted part, or holds samples that
    are not finite.
    """
    samples, rate = decode_audio(path, start=start, duration=duration, content=content)
    if channel is None:
        mono = samples.mean(dim=1) if samples.shape[1] > 1 else samples[:, 0]
    elif channel < samples.shape[1]:
        mono = samples[:, channel]
    else:
        raise AudioError(
            f"{path}: has {samples.shape[1]} channel(s), so there is no channel {channel}; "
            "prepare the corpus again."
        )
    return resample(mono, rate)


def read_cut(cut: MonoCut) -> Tensor:
    """Reads the part of a recording that a Lhotse cut names: [S] float32 samples at 16 kHz.

    S is always ``cut_samples(cut)``. Of a recording with several channels only the cut's channel
    is read, or the average of all if the cut carries the custom field ``downmix``. Recordings
    that are neither a plain file nor stored in a tar (``data.shar``), but have transforms, URLs and
    so on, are read by Lhotse. Raises ``AudioError``.
    """
    source = _plain_source(cut)
    if source is None:
        return _fit(_read_through_lhotse(cut), cut_samples(cut))
    downmix = bool((cut.custom or {}).get("downmix"))
    stored = source.type == "shar"
    waveform = read_audio(
        f"{source.source} (cut {cut.id})" if stored else source.source,
        start=cut.start,
        duration=cut.duration,
        channel=None if downmix else source.channels.index(cut.channel),
        content=read_stored(source.source) if stored else None,
    )
    return _fit(waveform, cut_samples(cut))


def cut_samples(cut: MonoCut) -> int:
    """The samples at 16 kHz that ``read_cut`` gives for a cut, without reading it."""
    return resampled_length(cut.num_samples, cut.sampling_rate)


def decode_audio(
    path: Path | str,
    *,
    start: float = 0.0,
    duration: float | None = None,
    content: BinaryIO | None = None,
) -> tuple[Tensor, int]:
    """Decodes a recording, or a part of it, as it is stored.

    Returns the samples ([N, channels] float32) and their rate in samples per second. Takes
    ``content`` and raises ``AudioError`` as ``read_audio`` does.
    """
    path = Path(path)
    if content is not None:
        samples, rate = _decode_with_sndfile(path, start, duration, content)
    else:
        check_file(path)
        ffmpeg = path.suffix.lower() in FFMPEG_SUFFIXES
        decode = _decode_with_ffmpeg if ffmpeg else _decode_with_sndfile
        samples, rate = decode(path, start, duration)
    if duration is not None:
        samples = _fill(samples, round(duration * rate), rate, path, start)
    if samples.numel() == 0:
        raise AudioError(f"{path}: has no samples; remove or replace the file.")
    if not np.isfinite(
        samples.numpy()
    ).all():  # many times faster than torch's, which starts threads
        raise AudioError(f"{path}: holds samples that are NaN or infinite; replace the file.")
    return samples, rate


def audio_seconds(path: Path | str) -> float:
    """The length of a recording by its header, without decoding it.

    An MP3 may hold a tenth of a second less. Raises ``AudioError`` as ``read_audio`` does.
    """
    path = Path(path)
    check_file(path)
    try:
        if path.suffix.lower() in FFMPEG_SUFFIXES:
            import librosa

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return float(librosa.get_duration(path=path))
        header = soundfile.info(path)
        require_length(header.frames)
        return float(header.duration)
    except Exception as error:
        raise undecodable(path, error) from None


def resample(waveform: Tensor, rate: int) -> Tensor:
    """Brings [N] samples at ``rate`` per second to [``resampled_length(N, rate)``] at 16 kHz."""
    if rate == SAMPLE_RATE:
        return waveform
    if uses_torchaudio(rate):
        resampled: Tensor = torchaudio.functional.resample(waveform, rate, SAMPLE_RATE)
    else:  # an odd rate, for which torchaudio's table of filters would fill the memory
        import librosa

        resampled = torch.from_numpy(
            librosa.resample(waveform.numpy(), orig_sr=rate, target_sr=SAMPLE_RATE)
        )
    return _fit(resampled, resampled_length(len(waveform), rate))


def uses_torchaudio(rate: int) -> bool:
    """Whether ``resample`` uses torchaudio for this rate; it does for all common ones."""
    common = math.gcd(rate, SAMPLE_RATE)
    return (rate // common) * (SAMPLE_RATE // common) <= 1_000_000


def resampled_length(samples: int, rate: int) -> int:
    """Samples at 16 kHz for ``samples`` samples at ``rate`` per second, rounded up."""
    return -(-samples * SAMPLE_RATE // rate)


def check_file(path: Path) -> None:
    """Raises ``AudioError`` unless ``path`` is a readable file that is as long as it promises."""
    if path.is_dir():
        raise AudioError(f"{path}: is a folder; give an audio file.")
    try:
        with open(path, "rb") as stream:
            beginning = stream.read(4)
            if not beginning:
                raise AudioError(f"{path}: is empty (0 bytes); remove or replace the file.")
            ogg = beginning == b"OggS"
            promised, held = _page_bytes(stream) if ogg else _chunk_bytes(stream)
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file; check the path.") from None
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror}); check its rights.") from None
    if held < promised:
        raise AudioError(
            f"{path}: is truncated: its {'last page' if ogg else 'header'} promises {promised} "
            f"bytes of samples, the file has {held}; copy or download it again."
        )


def size_is_known(size: int) -> bool:
    """Whether ``size`` in the header of a WAV, AIFF or AU file says how long it is. Programs that
    do not know it when they begin to write put 0 there, 2^32 - 1 (FFmpeg) or about 2^31 (SoX,
    arecord)."""
    return 0 < size & 0x7FFFFFFF < 0x7FFF0000


def _chunk_bytes(stream: BinaryIO) -> tuple[int, int]:
    """The bytes of samples that the header of a WAV, AIFF or AU file promises and that the file
    holds; (0, 0) for other files and where the header leaves them open.

    libsndfile silently shortens such files. WAV and AIFF are chunks: each has a name of 4 bytes,
    its size in 4 bytes, and is padded to an even size.
    """
    end = stream.seek(0, 2)
    stream.seek(0)
    header = stream.read(12)
    if header[:4] == b".snd" and len(header) == 12:
        place, size = struct.unpack(">II", header[4:])
        return (size, max(0, end - place)) if size_is_known(size) else (0, 0)
    name, form = _CHUNKS.get((header[:4], header[8:]), (b"", ""))
    while name and len(chunk := stream.read(8)) == 8:
        size = int(struct.unpack(form, chunk[4:])[0])
        if chunk[:4] == name:
            return (size, end - stream.tell()) if size_is_known(size) else (0, 0)
        stream.seek(size + size % 2, 1)
    return 0, 0


def _page_bytes(stream: BinaryIO) -> tuple[int, int]:
    """The bytes that the last page of an Ogg file promises and that the file holds of it; (0, 0) if
    there is no page where the last must begin.

    Ogg has no length in its header, and libsndfile silently leaves a broken page out. A page is 27
    bytes, the last of them a count, so many sizes of one byte each, and what they are the sizes of
    (RFC 3533, section 6). A file that is cut off between two pages is not told from a whole one:
    recordings of streams lack the mark of the last page as well.
    """
    stream.seek(max(0, stream.seek(0, 2) - LONGEST_PAGE))
    tail = stream.read()
    place = tail.rfind(b"OggS\0")  # the mark of a page, and the version
    if place < 0:
        return 0, 0
    page = tail[place:]
    count = page[26] if len(page) > 26 else 0
    return 27 + count + sum(page[27 : 27 + count]), len(page)


def _decode_with_sndfile(
    path: Path, start: float, duration: float | None, content: BinaryIO | None = None
) -> tuple[Tensor, int]:
    try:
        with soundfile.SoundFile(content or path) as file:
            rate = int(file.samplerate)
            require_length(file.frames)
            first = round(start * rate)
            rest = max(0, file.frames - first)
            count = rest if duration is None else min(rest, round(duration * rate))
            file.seek(min(first, file.frames))
            samples = torch.from_numpy(file.read(count, dtype="float32", always_2d=True))
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:  # TypeError: raw samples
        raise undecodable(path, error) from None
    if len(samples) < count - MP3_PADDING:
        raise AudioError(
            f"{path}: is truncated: its header promises {first + count} samples, "
            f"the file has {first + len(samples)}; copy or download it again."
        )
    return samples, rate


def _decode_with_ffmpeg(path: Path, start: float, duration: float | None) -> tuple[Tensor, int]:
    import librosa

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            samples, rate = librosa.load(
                path, sr=None, mono=False, offset=start, duration=duration, dtype="float32"
            )
    except Exception as error:
        raise undecodable(path, error) from None
    tensor = torch.from_numpy(samples)
    return (tensor[:, None] if tensor.dim() == 1 else tensor.T), int(rate)


def require_length(frames: int) -> None:
    """Raises ``RuntimeError``, as decoders do, where a header leaves the length open."""
    if frames == _UNKNOWN_FRAMES:
        raise RuntimeError("its header does not say how long it is")


def undecodable(path: Path, error: Exception) -> AudioError:
    """The error for a file in which a decoder met ``error``."""
    problem = str(getattr(error, "error_string", error)).strip().rstrip(".")
    problem = " ".join(problem.split()) or type(error).__name__
    if "does not exist" in problem:  # what libsndfile says of an MP3 without a single frame
        problem = "Format not recognised"
    if path.suffix.lower() in FFMPEG_SUFFIXES:
        remedy = f"{path.suffix} needs FFmpeg: install ffmpeg, or convert the file to WAV or FLAC."
    else:
        remedy = "convert it to WAV or FLAC, or remove it."
    return AudioError(f"{path}: cannot be decoded ({problem}); {remedy}")


def _fill(samples: Tensor, count: int, rate: int, path: Path, start: float) -> Tensor:
    """Pads [N, channels] to ``count`` samples; raises if more than the slack is missing."""
    missing = count - len(samples)
    if missing > SLACK_SECONDS * rate:
        raise AudioError(
            f"{path}: ends at {start + len(samples) / rate:.2f} s, but the manifest asks for "
            f"{start:.2f} to {start + count / rate:.2f} s; prepare the corpus again."
        )
    return torch.nn.functional.pad(samples, (0, 0, 0, missing)) if missing > 0 else samples


def _fit(waveform: Tensor, samples: int) -> Tensor:
    """[S] cut or padded with zeros to ``samples``; they differ by a sample or two of rounding."""
    missing = samples - len(waveform)
    return torch.nn.functional.pad(waveform, (0, missing)) if missing > 0 else waveform[:samples]


def _plain_source(cut: MonoCut) -> AudioSource | None:
    """Where the channel of a cut is, if it is in a plain file or stored in a tar."""
    recording = cut.recording
    if recording is None or recording.transforms:
        return None
    for source in recording.sources:
        if source.type in ("file", "shar") and cut.channel in source.channels:
            return source
    return None


def _read_through_lhotse(cut: Any) -> Tensor:
    try:
        samples = cut.load_audio()
    except Exception as error:
        problem = " ".join(str(error).split())[:200]
        raise AudioError(f"cut {cut.id}: its recording cannot be read ({problem}).") from None
    waveform = torch.from_numpy(samples).float()[0]
    if waveform.numel() == 0 or not torch.isfinite(waveform).all():
        raise AudioError(f"cut {cut.id}: its recording has no samples or some are not finite.")
    return resample(waveform, cut.sampling_rate)
