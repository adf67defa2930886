"""What was said and when: the words of one recording, with times and confidences."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Symbol:
    """One symbol that the model wrote, mostly a character. Times as those of ``Word``."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Word:
    """One word of a recording. ``speechssl.decoding.words`` says where the numbers come from."""

    text: str
    start: float
    """Seconds from the recording's start."""

    end: float
    """Seconds from the recording's start; after ``start``."""

    confidence: float
    """0 to 1."""

    symbols: list[Symbol] = field(default_factory=list)
    """The symbols that spell the word, from its start to its end without gaps."""


@dataclass(frozen=True)
class Transcript:
    """The text of one recording."""

    text: str
    """Words with single spaces."""

    words: list[Word]
    """In order of time, not overlapping; their texts joined by spaces are ``text``."""

    seconds: float
    """The length of the recording."""

    alternatives: list[tuple[str, float]] = field(default_factory=list)
    """Other readings with their scores, best first. Only recordings that are decoded in one piece
    (see ``speechssl.decoding.segments``) have any, and only if the decoder gives them."""
