"""Cutting long recordings without transcripts into pieces that a model can be trained on."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from speechssl.data.audio import FFMPEG_SUFFIXES, audio_seconds, read_audio
from speechssl.data.journal import Journal
from speechssl.data.streams import file_blocks
from speechssl.data.utterance import Rejected, Utterance, part_id
from speechssl.data.vad import Span, VoiceActivity
from speechssl.errors import AudioError

SHORTEST_SECONDS = 2.0
LONGEST_SECONDS = 30.0
"""Recordings that are longer are cut into pieces of at least and at most this."""

LONGEST_PAUSE = 1.0
"""Seconds without speech that a piece may hold."""

_of_thread = threading.local()


def cut_long(
    utterances: Sequence[Utterance],
    journal: Journal,
    *,
    jobs: int = 1,
    before_listening: Callable[[], object] = lambda: None,
) -> tuple[list[Utterance], list[Rejected], list[str]]:
    """Puts pieces in the place of utterances without transcript that are too long.

    Returns the utterances, the recordings without speech, and sentences for the report. What
    cannot be read stays as it is: whoever reads it next says why. ``before_listening`` is called
    before the long work begins, unless ``journal`` holds all of it.
    """
    untold = [utterance for utterance in utterances if not utterance.text]
    lengths = journal.map(
        _length, untold, lambda u: f"length {file_key(u)}", jobs=jobs, description="lengths"
    )
    seconds = {u: length["seconds"] for u, length in zip(untold, lengths)}
    long = [utterance for utterance in untold if seconds[utterance] > LONGEST_SECONDS]
    if any(_pieces_key(utterance) not in journal for utterance in long):
        before_listening()
    found = journal.map(_pieces, long, _pieces_key, jobs=jobs, description="finding speech")
    pieces = {u: value["pieces"] for u, value in zip(long, found) if value["pieces"] is not None}
    kept: list[Utterance] = []
    rejected = []
    for utterance in utterances:
        if utterance not in pieces:
            kept.append(utterance)
        elif not pieces[utterance]:
            reason = f"{utterance.audio}: no speech was found in it"
            rejected.append(Rejected(utterance.id, reason, str(utterance.audio)))
        for start, end in pieces.get(utterance, ()):
            kept.append(
                replace(
                    utterance,
                    id=part_id(utterance.id, start, end),
                    start=start,
                    duration=end - start,
                    recording=utterance.recording or utterance.id,
                )
            )
    return kept, rejected, _notes(seconds, pieces)


def group_spans(spans: Sequence[Span]) -> list[Span]:
    """Joins stretches of speech, each at most ``LONGEST_SECONDS``, to pieces that are too.

    A pause longer than ``LONGEST_PAUSE`` always ends a piece. Pieces shorter than
    ``SHORTEST_SECONDS`` are left out.
    """
    pieces: list[Span] = []
    for start, end in spans:
        if pieces:
            first, last = pieces[-1]
            if start - last <= LONGEST_PAUSE and end - first <= LONGEST_SECONDS:
                pieces[-1] = (first, end)
                continue
        pieces.append((start, end))
    return [(start, end) for start, end in pieces if end - start >= SHORTEST_SECONDS]


def file_key(utterance: Utterance) -> str:
    """Names the stretch of sound of an utterance; another file in its place has another name, and
    so has one that could not be read and now can."""
    path = utterance.audio.absolute()
    try:
        status = path.stat()
        version = f"{status.st_size} {status.st_mtime_ns}"
    except OSError:
        version = "missing"
    else:
        without_ffmpeg = path.suffix.lower() in FFMPEG_SUFFIXES and not shutil.which("ffmpeg")
        if without_ffmpeg or not os.access(path, os.R_OK):
            version += " unreadable"
    return f"{path} {version} {utterance.start} {utterance.duration}"


def _pieces_key(utterance: Utterance) -> str:
    return f"pieces {file_key(utterance)}"


def _length(utterance: Utterance) -> dict[str, Any]:
    """{"seconds"}: how long an utterance is; 0 if that cannot be read."""
    if utterance.duration is not None:
        return {"seconds": utterance.duration}
    try:
        return {"seconds": audio_seconds(utterance.audio) - utterance.start}
    except AudioError:
        return {"seconds": 0.0}


def _pieces(utterance: Utterance) -> dict[str, Any]:
    """{"pieces"}: [start, end] in seconds of its recording, of each piece; null if it cannot be
    read."""
    if not hasattr(_of_thread, "voice_activity"):
        _of_thread.voice_activity = VoiceActivity()
    try:
        if utterance.is_part:
            part = read_audio(utterance.audio, start=utterance.start, duration=utterance.duration)
            blocks: Iterable[Tensor] = [part]
        else:
            blocks = file_blocks(utterance.audio)
        spans = _of_thread.voice_activity.spans(blocks, longest_seconds=LONGEST_SECONDS)
    except AudioError:
        return {"pieces": None}
    offset = utterance.start
    return {
        "pieces": [
            (round(offset + start, 3), round(offset + end, 3)) for start, end in group_spans(spans)
        ]
    }


def _notes(
    seconds: Mapping[Utterance, float], pieces: Mapping[Utterance, Sequence[Span]]
) -> list[str]:
    """What was cut, as a sentence."""
    if not pieces:
        return []
    minutes = sum(seconds[utterance] for utterance in pieces) / 60
    kept = sum(end - start for part in pieces.values() for start, end in part) / 60
    return [
        f"recordings of more than {LONGEST_SECONDS:.0f} s: {len(pieces)} ({minutes:.1f} minutes), "
        f"cut into {sum(map(len, pieces.values()))} pieces of speech ({kept:.1f} minutes)"
    ]
