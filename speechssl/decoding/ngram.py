"""N-gram language models: counting, smoothing, and the ARPA file that every decoder reads.

Smoothing is interpolated modified Kneser-Ney, of which a table of probabilities and back-off
weights is an exact account. Sources: Chen & Goodman 1998, "An empirical study of smoothing
techniques for language modeling", section 3.6; Heafield et al. 2013, "Scalable modified Kneser-Ney
language model estimation", whose conventions (<unk>, <s>, fallback discounts) are kept, so that
KenLM's ``lmplz`` computes the same numbers.

Everything is held in memory, about 500 bytes for each different n-gram. For more text than that
allows, run ``lmplz`` itself: its files are read alike.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from speechssl.errors import LanguageModelError
from speechssl.files import atomic_path

START, END, UNKNOWN = "<s>", "</s>", "<unk>"

MAX_ORDER = 6
"""The longest n-grams that KenLM, as built into flashlight-text, reads."""

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""Discounts of counts 1, 2 and more where the text is too small to estimate them."""

NEVER = -99.0
"""The log10 probability of ``<s>``, which is only ever a context."""

Gram = tuple[str, ...]


@dataclass(frozen=True)
class NGramModel:
    """A back-off n-gram model, in the terms of an ARPA file."""

    log_probs: list[dict[Gram, float]]
    """For each order 1 to n, log10 of the probability of each n-gram's last word after the rest."""

    backoffs: dict[Gram, float]
    """log10 of the weight with which a context hands over to the context one word shorter."""

    @property
    def order(self) -> int:
        """The length of the longest n-grams."""
        return len(self.log_probs)

    @property
    def words(self) -> list[str]:
        """What the model can say, sorted; without ``<s>``, ``</s>`` and ``<unk>``."""
        return sorted(word for (word,) in self.log_probs[0] if word not in (START, END, UNKNOWN))

    def log_prob(self, sentence: Sequence[str]) -> float:
        """log10 of the probability of a whole sentence, its end included.

        A word that the model does not know counts as ``<unk>``.
        """
        padded = [START, *sentence, END]
        return sum(self.conditional(padded[:length]) for length in range(2, len(padded) + 1))

    def perplexity(self, sentences: Iterable[Sequence[str]]) -> float:
        """The perplexity per word of ``sentences``, each end counted as a word."""
        total, words = 0.0, 0
        for sentence in sentences:
            total += self.log_prob(sentence)
            words += len(sentence) + 1
        return float(10 ** (-total / max(1, words)))

    def conditional(self, words: Sequence[str]) -> float:
        """log10 of the probability of the last of ``words`` after the others."""
        last = words[-self.order :]
        return self._look_up(tuple(w if (w,) in self.log_probs[0] else UNKNOWN for w in last))

    def _look_up(self, gram: Gram) -> float:
        found = self.log_probs[len(gram) - 1].get(gram)
        if found is not None:
            return found
        return self.backoffs.get(gram[:-1], 0.0) + self._look_up(gram[1:])

    def save(self, path: Path | str) -> None:
        """Writes the model as an ARPA file, sorted, so that the same model gives the same bytes."""
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write("\\data\\\n")
            for order, table in enumerate(self.log_probs, start=1):
                file.write(f"ngram {order}={len(table)}\n")
            for order, table in enumerate(self.log_probs, start=1):
                file.write(f"\n\\{order}-grams:\n")
                for gram in sorted(table):
                    backoff = f"\t{self.backoffs[gram]:.7f}" if gram in self.backoffs else ""
                    file.write(f"{table[gram]:.7f}\t{' '.join(gram)}{backoff}\n")
            file.write("\n\\end\\\n")


def estimate(sentences: Iterable[Sequence[str]], order: int) -> NGramModel:
    """The modified Kneser-Ney model of ``order`` of ``sentences`` (words, or characters).

    Raises ``LanguageModelError`` if ``order`` is not 2 to 6, if there is no word, or if a word is
    one of the model's own symbols.
    """
    if not 2 <= order <= MAX_ORDER:
        raise LanguageModelError(f"the order must be 2 to {MAX_ORDER}, but is {order}.")
    counts = _adjusted_counts(_count(sentences, order))
    uniform = 1 / (len(counts[0]) + 1)  # over all words, </s> and <unk>
    probabilities: list[dict[Gram, float]] = []
    backoffs: dict[Gram, float] = {}
    for table in counts:
        discounts = _discounts(table)
        totals: defaultdict[Gram, int] = defaultdict(int)
        discounted: defaultdict[Gram, float] = defaultdict(float)
        for gram, count in table.items():
            totals[gram[:-1]] += count
            discounted[gram[:-1]] += _discount(discounts, count)
        left_over = {context: discounted[context] / totals[context] for context in totals}
        probabilities.append({})
        for gram, count in table.items():
            own = (count - _discount(discounts, count)) / totals[gram[:-1]]
            lower = probabilities[-2][gram[1:]] if len(gram) > 1 else uniform
            probabilities[-1][gram] = own + left_over[gram[:-1]] * lower
        backoffs.update((context, math.log10(left_over[context])) for context in left_over)
    probabilities[0][(UNKNOWN,)] = 10 ** backoffs.pop(()) * uniform
    log_probs = [{gram: math.log10(p) for gram, p in table.items()} for table in probabilities]
    log_probs[0][(START,)] = NEVER
    return NGramModel(log_probs, backoffs)


def _count(sentences: Iterable[Sequence[str]], order: int) -> list[Counter[Gram]]:
    """How often each n-gram of each order occurs; a sentence starts with one <s>."""
    counts: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for sentence in sentences:
        for word in sentence:
            if word in (START, END, UNKNOWN):
                raise LanguageModelError(
                    f"the text holds {word!r}, which is a symbol of the model; remove it."
                )
        padded = (START, *sentence, END)
        for length, table in enumerate(counts, start=1):
            table.update(padded[i : i + length] for i in range(len(padded) - length + 1))
    if len(counts[0]) <= 2:
        raise LanguageModelError("there is not one word to learn from; give text.")
    del counts[0][(START,)]
    return counts


def _adjusted_counts(counts: list[Counter[Gram]]) -> list[Counter[Gram]]:
    """Below the highest order, the number of different words before an n-gram (Chen & Goodman).

    Nothing stands before an n-gram that starts with <s>, which keeps its count.
    """
    adjusted = []
    for table, longer in pairwise(counts):
        before = Counter(gram[1:] for gram in longer)
        adjusted.append(
            Counter({g: count if g[0] == START else before[g] for g, count in table.items()})
        )
    return [*adjusted, counts[-1]]


def _discounts(table: Counter[Gram]) -> tuple[float, ...]:
    """What is taken from counts of 1, 2 and more (Chen & Goodman, equation 26)."""
    n = [sum(count == k for count in table.values()) for k in range(1, 5)]
    if all(n[:3]):
        y = n[0] / (n[0] + 2 * n[1])
        discounts = tuple(k - (k + 1) * y * n[k] / n[k - 1] for k in (1, 2, 3))
        if all(0 < discount <= k for k, discount in enumerate(discounts, start=1)):
            return discounts
    return FALLBACK_DISCOUNTS


def _discount(discounts: tuple[float, ...], count: int) -> float:
    return discounts[min(count, 3) - 1]
