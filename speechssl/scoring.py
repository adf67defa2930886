"""Word and character error rates with counts, alignments, confidence intervals and a paired test.

The counts come from jiwer, the statistics from ``speechssl.significance``. A reference must be
known for every utterance. An empty reference is allowed (a recording in which nothing is said):
every word of its hypothesis then counts as an insertion.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jiwer
import numpy as np
from numpy.typing import NDArray

from speechssl.hypotheses import HypothesesError, Hypothesis
from speechssl.significance import (
    RESAMPLES,
    bootstrap,
    percentile_interval,
    randomisation_p_value,
)

# --- the score of one system -----------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """The edits that turn references into hypotheses, in words or in characters."""

    hits: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def length(self) -> int:
        """Words or characters in the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per reference word or character; infinite if errors stand against nothing."""
        if self.length:
            return self.errors / self.length
        return math.inf if self.errors else 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


@dataclass(frozen=True)
class UtteranceScore:
    """The edits of one utterance."""

    id: str
    reference: str
    text: str
    words: Counts
    characters: Counts
    pairs: list[tuple[str, str]]
    """The alignment: (reference word, hypothesis word), "" where there is none."""

    def alignment(self) -> str:
        """The utterance as text: id and counts, the two lines word under word, the edits.

        The third line marks substitutions (S), deletions (D) and insertions (I).
        """
        rows: list[list[str]] = [["ref:"], ["hyp:"], ["    "]]
        for reference, text in self.pairs:
            edit = "I" if not reference else "D" if not text else "S" if reference != text else ""
            column = (reference or "*", text or "*", edit)
            width = max(map(_width, column))
            for row, cell in zip(rows, column):
                row.append(cell + " " * (width - _width(cell)))
        head = f"{self.id}  {self.words.errors} errors in {self.words.length} words"
        return "\n".join([head, *(" ".join(row).rstrip() for row in rows)]).rstrip()


@dataclass(frozen=True)
class Score:
    """The error rates of one system on one set of utterances."""

    utterances: list[UtteranceScore]
    words: Counts
    characters: Counts
    wer_interval: tuple[float, float]
    """95 % confidence interval of the WER."""

    @property
    def wer(self) -> float:
        """Word error rate (1.0 is 100 %)."""
        return self.words.rate

    @property
    def cer(self) -> float:
        """Character error rate, spaces counted as characters (1.0 is 100 %)."""
        return self.characters.rate

    def to_dict(self) -> dict[str, Any]:
        """All numbers under plain names, for JSON."""
        return {
            "wer": self.wer,
            "wer_ci": list(self.wer_interval),
            "cer": self.cer,
            "utterances": len(self.utterances),
            "words": self.words.length,
            "hits": self.words.hits,
            "substitutions": self.words.substitutions,
            "deletions": self.words.deletions,
            "insertions": self.words.insertions,
            "characters": self.characters.length,
            "character_errors": self.characters.errors,
        }


def score(hypotheses: Sequence[Hypothesis], *, resamples: int = RESAMPLES, seed: int = 0) -> Score:
    """Scores one system.

    Raises ``HypothesesError`` if there is nothing to score, an id occurs twice, a reference is
    unknown, or all references are empty.
    """
    _check(hypotheses)
    references = [hypothesis.reference or "" for hypothesis in hypotheses]
    texts = [hypothesis.text for hypothesis in hypotheses]
    words = jiwer.process_words(references, texts)
    characters = jiwer.process_characters(references, texts)
    utterances = [
        UtteranceScore(
            id=hypothesis.id,
            reference=references[i],
            text=texts[i],
            words=_counts(words.alignments[i]),
            characters=_counts(characters.alignments[i]),
            pairs=_pairs(words.references[i], words.hypotheses[i], words.alignments[i]),
        )
        for i, hypothesis in enumerate(hypotheses)
    ]
    errors, lengths = _errors(utterances), _lengths(utterances)
    return Score(
        utterances=utterances,
        words=sum((u.words for u in utterances), Counts(0, 0, 0, 0)),
        characters=sum((u.characters for u in utterances), Counts(0, 0, 0, 0)),
        wer_interval=percentile_interval(
            bootstrap(errors, lengths, resamples=resamples, seed=seed)
        ),
    )


def _check(hypotheses: Sequence[Hypothesis]) -> None:
    if not hypotheses:
        raise HypothesesError("there are no utterances to score; decode some first.")
    seen: set[str] = set()
    for hypothesis in hypotheses:
        if hypothesis.id in seen:
            raise HypothesesError(f"the utterance {hypothesis.id!r} occurs twice; keep one.")
        seen.add(hypothesis.id)
        if hypothesis.reference is None:
            raise HypothesesError(
                f"the utterance {hypothesis.id!r} has no reference to score against; "
                "decode cuts that have transcripts."
            )
    if not any((hypothesis.reference or "").split() for hypothesis in hypotheses):
        raise HypothesesError(
            "every reference is empty, so there is no word to score; decode cuts that have "
            "transcripts."
        )


def _counts(chunks: Iterable[Any]) -> Counts:
    """Counts of one utterance from jiwer's alignment chunks."""
    totals = {"equal": 0, "substitute": 0, "delete": 0, "insert": 0}
    for chunk in chunks:
        totals[chunk.type] += max(
            chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx
        )
    return Counts(totals["equal"], totals["substitute"], totals["delete"], totals["insert"])


def _pairs(reference: list[str], text: list[str], chunks: Iterable[Any]) -> list[tuple[str, str]]:
    """jiwer's alignment chunks, word by word."""
    pairs: list[tuple[str, str]] = []
    for chunk in chunks:
        left = reference[chunk.ref_start_idx : chunk.ref_end_idx]
        right = text[chunk.hyp_start_idx : chunk.hyp_end_idx]
        size = max(len(left), len(right))
        pairs += zip(left or [""] * size, right or [""] * size)
    return pairs


def _width(text: str) -> int:
    """Columns that ``text`` takes on a terminal: combining marks take none, wide letters two."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return wide + sum(not unicodedata.combining(character) for character in text)


def _errors(utterances: Iterable[UtteranceScore]) -> NDArray[np.int64]:
    return np.array([utterance.words.errors for utterance in utterances], dtype=np.int64)


def _lengths(utterances: Iterable[UtteranceScore]) -> NDArray[np.int64]:
    return np.array([utterance.words.length for utterance in utterances], dtype=np.int64)


# --- two systems -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """One system against another on the same utterances; negative differences favour the first."""

    difference: float
    """WER of the first system minus WER of the second."""

    difference_interval: tuple[float, float]
    """95 % confidence interval of the difference, from the paired bootstrap."""

    p_value: float
    """Two-sided, of the paired randomisation test."""

    probability_of_improvement: float
    """Share of the bootstrapped sets in which the first system has fewer errors (Bisani & Ney)."""

    better: int
    """Utterances in which the first system has fewer errors."""

    worse: int
    """Utterances in which the first system has more errors."""

    def to_dict(self) -> dict[str, Any]:
        """All numbers under plain names, for JSON."""
        return {
            "wer_difference": self.difference,
            "wer_difference_ci": list(self.difference_interval),
            "p_value": self.p_value,
            "probability_of_improvement": self.probability_of_improvement,
            "utterances_better": self.better,
            "utterances_worse": self.worse,
        }


def compare(
    first: Score, second: Score, *, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Compares two systems scored on the same utterances (in any order).

    Raises ``HypothesesError`` if the utterances or their references differ.
    """
    others = {utterance.id: utterance for utterance in second.utterances}
    _check_same(first, others)
    matched = [others[utterance.id] for utterance in first.utterances]
    differences = _errors(first.utterances) - _errors(matched)
    lengths = _lengths(first.utterances)
    rates = bootstrap(differences, lengths, resamples=resamples, seed=seed)
    return Comparison(
        difference=first.wer - second.wer,
        difference_interval=percentile_interval(rates),
        p_value=randomisation_p_value(differences),
        probability_of_improvement=float((rates < 0).mean()),
        better=int((differences < 0).sum()),
        worse=int((differences > 0).sum()),
    )


def _check_same(first: Score, others: dict[str, UtteranceScore]) -> None:
    advice = "decode the same cuts with both systems"
    ids = {utterance.id for utterance in first.utterances}
    single = [i for i in [*ids, *others] if i not in ids or i not in others]
    if single:
        raise HypothesesError(
            f"{len(single)} utterances occur in only one of the two systems "
            f"({min(single)!r} is one); {advice}."
        )
    for utterance in first.utterances:
        if utterance.reference != others[utterance.id].reference:
            raise HypothesesError(
                f"the two systems have different references for {utterance.id!r}; {advice}."
            )
