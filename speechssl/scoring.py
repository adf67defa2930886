"""Word and character error rates with counts, alignments, confidence intervals and a paired test.

The counts come from jiwer. The statistics treat the utterance as the unit of sampling:

- confidence interval: bootstrap over utterances, percentile method (Bisani & Ney 2004,
  "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP);
- two systems on the same utterances: the randomisation test for paired samples (Noreen 1989,
  "Computer-Intensive Methods for Testing Hypotheses"), computed exactly over all 2^N swaps
  instead of by sampling them, and Bisani & Ney's probability of improvement.

A reference must be known for every utterance. An empty reference is allowed (a recording in
which nothing is said): every word of its hypothesis then counts as an insertion.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
from numpy.typing import NDArray

from speechssl.errors import SpeechSSLError
from speechssl.files import write_text

RESAMPLES = 10_000
"""Bootstrap resamples behind every interval."""

CONFIDENCE = 0.95
"""Coverage of every interval."""

MAX_DRAWS = 1 << 22
"""Utterances drawn at once by the bootstrap; bounds its memory to some 100 MB."""


class HypothesesError(SpeechSSLError):
    """A ``hyps.jsonl`` is missing, malformed, or cannot be scored or compared."""


# --- hyps.jsonl ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hypothesis:
    """One line of ``hyps.jsonl``: what a system heard in one utterance."""

    id: str
    text: str
    reference: str | None = None
    """What was said, None where nobody knows."""

    seconds: float | None = None
    """Duration of the recording in seconds."""

    nbest: list[dict[str, Any]] | None = None
    """Readings with their scores, best first, for use elsewhere: {"text", "score"}."""


def write_hypotheses(path: Path | str, hypotheses: Iterable[Hypothesis]) -> None:
    """Writes one JSON object per line, atomically; unknown references and seconds are left out."""
    lines = []
    for hypothesis in hypotheses:
        known = {name: value for name, value in asdict(hypothesis).items() if value is not None}
        lines.append(json.dumps(known, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))


def read_hypotheses(path: Path | str) -> list[Hypothesis]:
    """Reads a ``hyps.jsonl``, in its order.

    Raises ``HypothesesError`` if the file is missing, empty, or holds a malformed line or an
    id twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise HypothesesError(
            f"{path}: cannot be read ({reason}); give a hyps.jsonl written by speechssl decode."
        ) from None
    hypotheses: dict[str, Hypothesis] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        hypothesis = _parse(line, f"{path}, line {number}")
        if hypothesis.id in hypotheses:
            raise HypothesesError(
                f"{path}, line {number}: the id {hypothesis.id!r} occurs twice; keep one of them."
            )
        hypotheses[hypothesis.id] = hypothesis
    if not hypotheses:
        raise HypothesesError(f"{path}: holds no utterances; decode some with speechssl decode.")
    return list(hypotheses.values())


def _parse(line: str, where: str) -> Hypothesis:
    advice = 'expected one JSON object like {"id": "u1", "text": "what was heard"}'
    try:
        fields: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise HypothesesError(f"{where}: is not JSON ({error.msg}); {advice}.") from None
    kinds: dict[str, Any] = {
        "id": str,
        "text": str,
        "reference": (str, type(None)),
        "seconds": (int, float, type(None)),
    }
    if not isinstance(fields, dict):
        raise HypothesesError(f"{where}: {advice}.")
    for name, kind in kinds.items():
        if not isinstance(fields.get(name), kind):
            state = f"has the wrong type of {name!r}" if name in fields else f"has no {name!r}"
            raise HypothesesError(f"{where}: {state}; {advice}.")
    return Hypothesis(fields["id"], fields["text"], fields.get("reference"), fields.get("seconds"))


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


# --- statistics ------------------------------------------------------------------------------


def bootstrap(
    errors: NDArray[np.int64],
    lengths: NDArray[np.int64],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Error rates of ``resamples`` sets of utterances drawn with replacement.

    ``errors`` [N] (or differences of errors) and reference ``lengths`` [N] belong to the N
    utterances; each result is the sum of the drawn errors over the sum of the drawn lengths
    (Bisani & Ney 2004, eq. 3). Returns [resamples], the same for the same seed.
    """
    generator = np.random.default_rng(seed)
    rates = np.empty(resamples)
    rows = max(1, MAX_DRAWS // len(errors))
    for start in range(0, resamples, rows):
        drawn = generator.integers(len(errors), size=(min(rows, resamples - start), len(errors)))
        rates[start : start + rows] = errors[drawn].sum(1) / np.maximum(1, lengths[drawn].sum(1))
    return rates


def percentile_interval(rates: NDArray[np.float64]) -> tuple[float, float]:
    """The interval of ``CONFIDENCE`` of bootstrapped ``rates``, by the percentile method."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(rates, [tail, 1 - tail])
    return float(low), float(high)


def randomisation_p_value(differences: NDArray[np.int64]) -> float:
    """Two-sided p-value of the paired randomisation test (Noreen 1989), exact.

    ``differences`` [N] are errors of one system minus errors of the other, per utterance. If the
    systems were equally good, each difference could as well have the other sign; the p-value is
    the share of the 2^N sign choices whose sum is at least as far from zero as the observed one.
    Instead of drawing sign choices, the distribution of the sum is built by convolution: the
    n differences of one size k together contribute k (2 X - n), where X is Binomial(n, 1/2).
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    distribution = np.ones(1)  # [2 R + 1] probability of each sum in -R..R
    for size, count in zip(sizes.tolist(), counts.tolist()):
        steps = np.zeros(2 * size * count + 1)
        steps[:: 2 * size] = _fair_binomial(count)
        distribution = np.convolve(distribution, steps)
    reach = len(distribution) // 2
    sums = np.arange(-reach, reach + 1)
    extreme = np.abs(sums) >= abs(int(differences.sum()))
    return min(1.0, float(distribution[extreme].sum()))


def _fair_binomial(count: int) -> NDArray[np.float64]:
    """Probabilities [count + 1] of 0..count heads in ``count`` throws of a fair coin."""
    log_factorial = np.array([math.lgamma(k + 1) for k in range(count + 1)])
    log_choices = log_factorial[-1] - log_factorial - log_factorial[::-1]
    probabilities: NDArray[np.float64] = np.exp(log_choices - count * math.log(2))
    return probabilities


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
