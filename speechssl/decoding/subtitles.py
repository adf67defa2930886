"""Subtitles that can be read: at most two lines, broken where the speaker pauses.

The limits are those of common guidelines (Netflix, BBC): 42 characters a line, two lines, 7
seconds; a subtitle stays for a second if the next one leaves it the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from speechssl.decoding.transcript import Symbol, Word

LINE_CHARACTERS = 42
"""The longest line, unless the user says otherwise."""

MAX_SECONDS = 7.0
MIN_SECONDS = 1.0

PAUSE_SECONDS = 0.7
"""A pause of this length always ends a subtitle."""


@dataclass(frozen=True)
class Subtitle:
    """One or two lines and when they are shown, in seconds."""

    start: float
    end: float
    lines: list[str]


def subtitles(words: Sequence[Word], line_characters: int = LINE_CHARACTERS) -> list[Subtitle]:
    """Divides ``words`` into subtitles of at most two lines of ``line_characters``.

    A subtitle ends at every pause of ``PAUSE_SECONDS``; where speech goes on for longer than fits,
    it ends at the longest pause in the second half of what fits.
    """
    pieces = [piece for word in words for piece in _fitting(word, line_characters)]
    groups = []
    for utterance in _utterances(pieces):
        rest = utterance
        while rest:
            count = _fill(rest, line_characters)
            if count < len(rest):
                count = _best_break(rest, count)
            groups.append(rest[:count])
            rest = rest[count:]
    starts = [group[0].start for group in groups]
    shown = []
    for group, following in zip(groups, [*starts[1:], float("inf")]):
        end = max(group[-1].end, min(group[0].start + MIN_SECONDS, following))
        shown.append(Subtitle(group[0].start, round(end, 3), _lines(group, line_characters)))
    return shown


def _fitting(word: Word, limit: int) -> list[Word]:
    """``word``, divided if it is longer than a line (as in languages without spaces).

    Where its symbols spell something else than the text, which may have punctuation that is not
    said, the letters of the text are spread evenly over those of the symbols.
    """
    length = len(word.text)
    if length <= limit:
        return [word]
    heard = word.symbols or [Symbol(word.text, word.start, word.end)]
    times = [
        symbol.start + (symbol.end - symbol.start) * letter / len(symbol.text)
        for symbol in heard
        for letter in range(len(symbol.text))
    ]
    times.append(word.end)
    cuts = [*range(0, length, limit), length]
    at = [round(times[cut * (len(times) - 1) // length], 3) for cut in cuts]
    return [
        Word(word.text[i:j].strip(), start, end, word.confidence)
        for (i, j), (start, end) in zip(pairwise(cuts), pairwise(at))
    ]


def _utterances(words: Sequence[Word]) -> list[list[Word]]:
    """The words between pauses."""
    utterances: list[list[Word]] = []
    for word in words:
        if not utterances or word.start - utterances[-1][-1].end >= PAUSE_SECONDS:
            utterances.append([])
        utterances[-1].append(word)
    return utterances


def _fill(words: list[Word], limit: int) -> int:
    """How many of ``words`` one subtitle can take, at least one."""
    count = 1
    while (
        count < len(words)
        and words[count].end - words[0].start <= MAX_SECONDS
        and _line_break(words[: count + 1], limit) is not None
    ):
        count += 1
    return count


def _best_break(words: list[Word], most: int) -> int:
    """How many of the ``most`` words that fit to take: up to the longest pause behind the half,
    the last one if several are equal."""
    counts = range(max(1, (most + 1) // 2), most + 1)
    return max(counts, key=lambda count: (words[count].start - words[count - 1].end, count))


def _lines(words: list[Word], limit: int) -> list[str]:
    count = _line_break(words, limit) or len(words)
    lines = [" ".join(word.text for word in part) for part in (words[:count], words[count:])]
    return [line for line in lines if line]


def _line_break(words: list[Word], limit: int) -> int | None:
    """How many words to put on the first line, so that both fit and are about equally long.

    All, if one line is enough; None, if two are not.
    """
    lengths = [len(word.text) for word in words]
    total = sum(lengths) + len(words) - 1
    if total <= limit:
        return len(words)
    best, first = None, -1
    for count in range(1, len(words)):
        first += lengths[count - 1] + 1
        second = total - first - 1
        if max(first, second) <= limit and (best is None or max(first, second) < best[0]):
            best = (max(first, second), count)
    return best[1] if best else None
