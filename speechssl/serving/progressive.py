"""The words of a long recording, as soon as they are known."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from speechssl.data.streams import file_blocks, file_seconds
from speechssl.decoding.edges import LevelMeter
from speechssl.decoding.segments import segments
from speechssl.decoding.transcriber import Transcriber
from speechssl.decoding.transcript import Word
from speechssl.errors import AudioError
from speechssl.frames import FRAME_RATE, SAMPLE_RATE

BATCH_SECONDS = 30.0
"""What the transcriber should compute at once: one window, so that words follow each."""

SEGMENT_FRAMES = 20 * FRAME_RATE
"""The longest segment, shorter than for files: fewer than a window has, so that its words follow
each window. Segments end in pauses, so they say the same."""


@dataclass(frozen=True)
class Part:
    """What is said in the next stretch of a recording."""

    words: list[Word]
    """Times from the start of the recording."""

    until: float
    """Where the stretch ends, in seconds."""


def parts(transcriber: Transcriber, path: Path, most_seconds: float) -> Generator[Part, None, None]:
    """Transcribes an audio file stretch by stretch, without gaps.

    The last part has no words and says how long the recording is. Raises ``AudioError``, where it
    comes to it, if the file cannot be read or is longer than ``most_seconds``.
    """
    _check_seconds(file_seconds(path) or 0.0, path, most_seconds)
    meter = LevelMeter()
    blocks = _limited(meter.listen(file_blocks(path)), path, most_seconds)
    pieces = transcriber.stream_log_probs(blocks)
    for first, log_probs in segments(pieces, transcriber.separator, SEGMENT_FRAMES):
        words, _ = transcriber.read(log_probs, first / FRAME_RATE, meter)
        yield Part(words, (first + len(log_probs)) / FRAME_RATE)
    yield Part([], round(meter.seconds, 3))


def _limited(blocks: Iterable[Tensor], path: Path, most_seconds: float) -> Iterator[Tensor]:
    """``blocks``, until there are too many; not every header tells the truth about the length."""
    samples = 0
    for block in blocks:
        samples += len(block)
        _check_seconds(samples / SAMPLE_RATE, path, most_seconds)
        yield block


def _check_seconds(seconds: float, path: Path, most_seconds: float) -> None:
    if seconds > most_seconds:
        raise AudioError(
            f"{path}: is longer than the {round(most_seconds / 60, 1):g} minutes that this server "
            "takes; send it in parts, or use speechssl transcribe."
        )
