import random

import pytest

from speechssl.decoding.hotwords import ROOT, PhraseMatcher


def earn(matcher: PhraseMatcher, symbols: list[int]) -> list[float]:
    """The credit after each symbol, and at the end."""
    node, total, course = ROOT, 0.0, []
    for symbol in symbols:
        node, credit = matcher.step(node, symbol)
        total += credit
        course.append(total)
    return [*course, total + matcher.finish(node)]


def test_by_hand():
    matcher = PhraseMatcher([([1, 2, 3, 4], 8.0)])
    assert earn(matcher, [1, 2, 3, 4]) == [2, 4, 6, 8, 8]  # credit for each symbol, and it stays
    assert earn(matcher, [1, 2, 9, 9]) == [2, 4, 0, 0, 0]  # taken back
    assert earn(matcher, [1, 2]) == [2, 4, 0]  # incomplete at the end
    assert earn(matcher, [1, 2, 3, 4, 9]) == [2, 4, 6, 8, 8, 8]
    assert earn(matcher, [1, 1, 2, 3, 4]) == [2, 2, 4, 6, 8, 8]  # begins again


def test_free_symbols():
    matcher = PhraseMatcher([([1, 2, 3], 8.0)], free=1)
    assert earn(matcher, [1, 2, 3]) == [0, 4, 8, 8]
    assert earn(matcher, [1, 9]) == [0, 0, 0]


def test_phrase_within_a_failing_phrase():
    matcher = PhraseMatcher([([1, 2, 3], 3.0), ([2, 4], 2.0)])
    assert earn(matcher, [1, 2, 4])[-1] == 2
    assert earn(matcher, [1, 2, 3, 2, 4])[-1] == 5


def test_phrase_that_begins_a_longer_one():
    matcher = PhraseMatcher([([1, 2], 2.0), ([1, 2, 3, 4], 4.0)])
    assert earn(matcher, [1, 2, 3, 9])[-1] == 2
    assert earn(matcher, [1, 2, 3, 4])[-1] == 4


def test_phrase_inside_of_a_longer_one():
    matcher = PhraseMatcher([([2, 3], 2.0), ([1, 2, 3, 4], 4.0)])
    assert earn(matcher, [1, 2, 3, 9])[-1] == 2
    assert earn(matcher, [1, 2, 3, 4])[-1] == 4


def test_the_order_of_phrases_does_not_matter():
    """The beginning of several is worth what the best of them makes it worth."""
    phrases = [([1, 2], 2.0), ([1, 3, 4], 9.0), ([1, 3], 1.0), ([1, 2], 1.0)]
    for matcher in (PhraseMatcher(phrases), PhraseMatcher(phrases[::-1])):
        assert earn(matcher, [1, 3, 4]) == [3, 6, 9, 9]
        assert earn(matcher, [1, 3, 9]) == [3, 6, 1, 1]
        assert earn(matcher, [1, 2]) == [3, 2, 2]


def test_credit_comes_with_the_last_symbol_even_inside_of_a_longer_phrase():
    matcher = PhraseMatcher([([2, 3], 2.0), ([1, 2, 3, 4], 1.0)])
    assert earn(matcher, [1, 2, 3]) == [0.25, 0.5, 2, 2]


def test_equals_slow_search_on_random_symbols():
    """Phrases that cannot overlap earn their reward wherever they stand."""
    phrases = [([1, 2], 1.0), ([3], 0.5), ([4, 5, 6], 3.0)]
    matcher, rng = PhraseMatcher(phrases), random.Random(0)
    for _ in range(200):
        symbols = rng.choices(range(7), k=20)
        expected = sum(
            reward
            for phrase, reward in phrases
            for i in range(len(symbols))
            if symbols[i : i + len(phrase)] == phrase
        )
        assert earn(matcher, symbols)[-1] == pytest.approx(expected)
