"""Subtitles (.srt, .vtt) as transcripts of long recordings."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from pathlib import Path

import pysubs2

from speechssl.errors import ManifestError

ENDINGS = (".srt", ".vtt")

_NOT_SPOKEN = re.compile(r"\[[^\]]*\]|\([^)]*\)|♪[^♪]*♪?|<[^>]*>")
"""What subtitles say about sounds, as [door slams] and ♪ music ♪, and marks of the format."""


@dataclass(frozen=True)
class Cue:
    """One subtitle: what is said from ``start`` to ``end``, in seconds."""

    start: float
    end: float
    text: str


def find_subtitles(audio: Path, language: str | None) -> Path | None:
    """The subtitles beside a recording: talk.srt, talk.en.srt (of ``language``) or talk.wav.srt
    for talk.wav, and the same with .vtt; None if there are none."""
    stems = [audio.stem, audio.name]
    if language:
        stems[1:1] = [f"{audio.stem}.{language}", f"{audio.stem}.{re.split('[-_]', language)[0]}"]
    names = (f"{stem}{ending}" for stem in stems for ending in ENDINGS)
    return next((path for path in map(audio.with_name, names) if path.is_file()), None)


def read_cues(path: Path) -> list[Cue]:
    """The subtitles in which something is said, in the order of the file.

    Formatting, dashes before a speaker, and descriptions of sounds in brackets are removed. Raises
    ``ManifestError`` if the file cannot be read or there are none.
    """
    try:
        file = pysubs2.load(str(path), encoding="utf-8-sig", format_=path.suffix[1:].lower())
    except (OSError, ValueError, pysubs2.exceptions.Pysubs2Error) as error:
        raise ManifestError(f"{path}: cannot be read as UTF-8 subtitles ({error})") from None
    shown = [Cue(e.start / 1000, e.end / 1000, spoken(e.plaintext)) for e in file]
    cues = [cue for cue in shown if cue.text]
    if not cues:
        raise ManifestError(f"{path}: holds no subtitles in which something is said")
    return cues


def spoken(text: str) -> str:
    """What is said in the plain text of a subtitle; empty if nothing is."""
    text = _NOT_SPOKEN.sub(" ", html.unescape(text))
    text = " ".join(re.sub(r"^\s*[-–—]+\s*", "", line) for line in text.splitlines())
    text = " ".join(text.split())
    return text if any(character.isalnum() for character in text) else ""
