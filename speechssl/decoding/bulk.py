"""Many files: short ones in batches of like length, read ahead in threads; long ones in windows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from speechssl.data.audio import read_audio
from speechssl.data.batch import batches_by_length
from speechssl.data.streams import file_blocks, file_seconds
from speechssl.data.threads import READ_THREADS, reading_threads
from speechssl.decoding.ahead import compute_batches
from speechssl.decoding.edges import LevelMeter
from speechssl.decoding.transcriber import Transcriber
from speechssl.decoding.transcript import Transcript
from speechssl.decoding.windows import WHOLE, Span
from speechssl.errors import AudioError
from speechssl.frames import FRAME_RATE, SAMPLE_RATE

if TYPE_CHECKING:
    from speechssl.data.vad import VoiceActivity

SORTED_FILES = 512
"""Files that are sorted by length at a time: enough for little padding, and the results of the
first come long before the last are read."""

MARGIN_SECONDS = 0.3
"""What is kept before and after detected speech: about the margin that recordings of single
utterances have, from which recognisers learn. Less clips words, and a network that never heard
sound begin at once reads worse."""

SKIPPED_SECONDS = 2 * MARGIN_SECONDS
"""Shorter silences between detected speech are not skipped."""


def measure(files: Sequence[Path]) -> list[float | None]:
    """The length of each file in seconds; None where only decoding can tell, or nothing can."""
    with reading_threads(READ_THREADS) as pool:
        return list(pool.map(file_seconds, files))


def any_long(transcriber: Transcriber, lengths: Sequence[float | None]) -> bool:
    """Whether ``transcribe_files`` will compute one of the files in windows."""
    longest = transcriber.window_frames / FRAME_RATE
    return any(length is None or length > longest for length in lengths)


def transcribe_files(
    transcriber: Transcriber,
    files: Sequence[Path],
    lengths: Sequence[float | None],
    *,
    activity: VoiceActivity | None = None,
    skip_in_short: bool = False,
    on_audio: Callable[[float], object] = lambda seconds: None,
) -> Iterator[tuple[Path, Transcript | AudioError]]:
    """What is said in each of ``files``, in the order in which they get ready.

    ``lengths`` are those of ``measure``. With ``activity``, only what it takes for speech is
    transcribed: in recordings longer than a window, or in all of them with ``skip_in_short``.
    ``on_audio`` is called with the seconds of audio that were computed since the last
    call. A file that cannot be read gives the ``AudioError`` instead of a transcript.
    """
    longest = transcriber.window_frames / FRAME_RATE
    for first in range(0, len(files), SORTED_FILES):
        chunk = range(first, min(first + SORTED_FILES, len(files)))
        seconds = {i: lengths[i] or 0.0 for i in chunk if not (activity and skip_in_short)}
        short = {i: length for i, length in seconds.items() if 0 < length <= longest}
        batches = list(_batches(short, transcriber.batch_seconds))
        for batch in compute_batches(transcriber, lambda i: read_audio(files[i]), batches):
            for i, computed in batch:
                if isinstance(computed, AudioError):
                    yield files[i], computed
                else:
                    yield files[i], transcriber.transcript(*computed)
            on_audio(sum(short[i] for i, _ in batch))
        for i in chunk:
            if i not in short:
                yield (
                    files[i],
                    _transcribe_long(transcriber, files[i], activity, skip_in_short, on_audio),
                )


def _batches(lengths: dict[int, float], batch_seconds: float) -> Iterator[list[int]]:
    """The keys of ``lengths``, longest first, in batches of at most ``batch_seconds``."""
    places = np.array(list(lengths), dtype=np.int64)
    seconds = np.array(list(lengths.values()))
    if len(places):
        for batch in batches_by_length(seconds, batch_seconds):
            yield places[batch].tolist()


def _transcribe_long(
    transcriber: Transcriber,
    path: Path,
    activity: VoiceActivity | None,
    skip_in_short: bool,
    on_audio: Callable[[float], object],
) -> Transcript | AudioError:
    """What is said in a recording that is long, or whose length is not known before."""

    def blocks() -> Iterator[Tensor]:
        for block in file_blocks(path):
            yield block
            on_audio(len(block) / SAMPLE_RATE)

    try:
        spans: list[Span] = [WHOLE]
        if activity:
            meter = LevelMeter()
            speech = speech_spans(activity, meter.listen(file_blocks(path)))
            if skip_in_short or meter.seconds > transcriber.window_frames / FRAME_RATE:
                spans = speech
        return transcriber.stream_transcript(blocks(), spans)
    except AudioError as error:
        return error


def speech_spans(activity: VoiceActivity, blocks: Iterable[Tensor]) -> list[Span]:
    """The stretches of a recording in which there is speech, with some padding, in samples.

    Silences of less than ``SKIPPED_SECONDS`` between them are not left out.
    """
    merged: list[tuple[float, float]] = []
    for start, end in activity.spans(blocks):
        if merged and start - merged[-1][1] < SKIPPED_SECONDS:
            start = merged.pop()[0]
        merged.append((start, end))
    padded = [(max(0.0, start - MARGIN_SECONDS), end + MARGIN_SECONDS) for start, end in merged]
    return [(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)) for start, end in padded]
