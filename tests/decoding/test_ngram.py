import math
from collections import Counter
from pathlib import Path

import pytest
from flashlight.lib.text.decoder.kenlm import KenLM
from flashlight.lib.text.dictionary import Dictionary

from speechssl.decoding.ngram import END, FALLBACK_DISCOUNTS, START, UNKNOWN, estimate
from speechssl.errors import LanguageModelError

TEXT = """
the sun is up
the sun is down and the moon is up
the moon is down
a dog sees the sun
a dog sees the moon and a cat
a cat sees a dog and the dog sees the cat
is the cat up
up and down and up
""".strip()
SENTENCES = [line.split() for line in TEXT.splitlines()]
WORDS = sorted(set(TEXT.split()))


def slow_probability(word: str, context: tuple[str, ...], order: int) -> float:
    """P(word | context) as in Chen & Goodman, from the sentences each time it is asked."""
    padded = [(START, *sentence, END) for sentence in SENTENCES]

    def grams(n: int) -> list[tuple[str, ...]]:
        return [s[i : i + n] for s in padded for i in range(len(s) - n + 1) if n > 1 or i]

    def counts(n: int) -> Counter:
        """Occurrences in the highest order, otherwise different words in front."""
        if n == order:
            return Counter(grams(n))
        occurrences, longer = Counter(grams(n)), set(grams(n + 1))
        return Counter(
            {
                gram: number if gram[0] == START else sum(other[1:] == gram for other in longer)
                for gram, number in occurrences.items()
            }
        )

    def probability(context: tuple[str, ...]) -> float:
        if context and not any(gram[:-1] == context for gram in grams(len(context) + 1)):
            return probability(context[1:])
        table = counts(len(context) + 1)
        n = [0] + [sum(count == k for count in table.values()) for k in (1, 2, 3, 4)]
        discount = dict(enumerate((0.0, *FALLBACK_DISCOUNTS)))
        if n[1] and n[2] and n[3]:
            y = n[1] / (n[1] + 2 * n[2])
            own = {k: k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)}
            if all(0 < own[k] <= k for k in own):
                discount = {0: 0.0, **own}
        here = {gram[-1]: count for gram, count in table.items() if gram[:-1] == context}
        lost = sum(discount[min(3, count)] for count in here.values())
        lower = probability(context[1:]) if context else 1 / (len(WORDS) + 2)
        count = here.get(word, 0)
        return (count - discount[min(3, count)] + lost * lower) / sum(here.values())

    return probability(context[-(order - 1) :] if order > 1 else ())


@pytest.mark.parametrize("order", [2, 3])
def test_equals_slow_version(order):
    model = estimate(SENTENCES, order)
    for sentence in [*SENTENCES[:4], ["moon", "moon", "cat", "is"], ["zebra", "is", "up"], []]:
        known = [START, *(word if word in WORDS else UNKNOWN for word in sentence), END]
        expected = sum(
            math.log10(slow_probability(known[i], tuple(known[:i]), order))
            for i in range(1, len(known))
        )
        assert model.log_prob(sentence) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("context", [[], ["the"], ["the", "sun"], ["zebra"], ["up", "up"]])
def test_probabilities_sum_to_one(context):
    model = estimate(SENTENCES, 3)
    total = 0.0
    for word in [*WORDS, UNKNOWN, END]:
        total += 10 ** model.conditional([START, *context, word])
    assert total == pytest.approx(1)


def kenlm_score(path: Path, sentence: list[str]) -> float:
    """log10 of the probability of a sentence, by KenLM."""
    dictionary = Dictionary([*WORDS, UNKNOWN])
    dictionary.set_default_index(dictionary.get_index(UNKNOWN))
    model = KenLM(str(path), dictionary)
    state, total = model.start(False), 0.0
    for word in sentence:
        state, score = model.score(state, dictionary.get_index(word))
        total += score
    return total + model.finish(state)[1]


def test_kenlm_reads_the_same_model(tmp_path):
    model = estimate(SENTENCES, 3)
    model.save(tmp_path / "lm.arpa")
    for sentence in [*SENTENCES, ["zebra", "sees", "zebra"], []]:
        expected = model.log_prob(sentence)
        assert kenlm_score(tmp_path / "lm.arpa", sentence) == pytest.approx(expected, abs=1e-4)


def test_learns_what_it_sees():
    model = estimate(SENTENCES, 3)
    assert model.perplexity(SENTENCES) < 0.6 * model.perplexity([s[::-1] for s in SENTENCES])
    assert model.words == WORDS


def test_perplexity_counts_the_ends_of_sentences():
    model = estimate(SENTENCES, 3)
    total = model.log_prob(["the", "sun"]) + model.log_prob([])
    assert model.perplexity([["the", "sun"], []]) == pytest.approx(10 ** (-total / 4))


def test_same_text_same_bytes(tmp_path):
    estimate(SENTENCES, 3).save(tmp_path / "one.arpa")
    estimate(SENTENCES, 3).save(tmp_path / "two.arpa")
    assert (tmp_path / "one.arpa").read_bytes() == (tmp_path / "two.arpa").read_bytes()


def test_tiny_text():
    """No discount can be estimated from one word, and none is needed."""
    model = estimate([["hello"]], 3)
    assert model.log_prob(["hello"]) > model.log_prob(["hello", "hello"]) > -10


def test_errors():
    with pytest.raises(LanguageModelError, match="not one word"):
        estimate([[], []], 3)
    with pytest.raises(LanguageModelError, match="2 to 6, but is 7"):
        estimate(SENTENCES, 7)
    with pytest.raises(LanguageModelError, match="'</s>'"):
        estimate([["a", "</s>"]], 3)
