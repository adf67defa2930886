"""What a corpus offers: its utterances, and what of it cannot be used."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Utterance:
    """One recording that a corpus offers, or a part of one, with what is known about it."""

    id: str
    audio: Path
    text: str | None = None
    speaker: str | None = None
    language: str | None = None
    start: float = 0.0
    """Seconds from the beginning of the recording."""
    duration: float | None = None
    """Seconds; None: to the end of the recording."""
    recording: str | None = None
    """The id of the recording that this is a part of; None: it is a recording by itself."""
    split: str | None = None
    """The split that the corpus itself puts it into, if it does."""

    @property
    def is_part(self) -> bool:
        """Whether this is a stretch of its recording."""
        return self.start > 0 or self.duration is not None


@dataclass(frozen=True)
class Rejected:
    """Something that a corpus offers but cannot be used, and why."""

    item: str
    reason: str
    audio: str = ""
    """The file, where there is one to listen to."""


@dataclass
class Listing:
    """All that a corpus offers."""

    utterances: list[Utterance] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Sentences for the report: how the corpus was understood."""


def part_id(recording: str, start: float, end: float) -> str:
    """The id of a part of a recording: its id and the times in milliseconds."""
    return f"{recording}-{round(1000 * start):08d}-{round(1000 * end):08d}"
