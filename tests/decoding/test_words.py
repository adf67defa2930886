import math

import pytest
import torch

from speechssl.data.text import BLANK, Tokens
from speechssl.decoding.edges import LAG_SECONDS, LEAD_SECONDS
from speechssl.decoding.words import TokenSpan, to_words, token_spans

TOKENS = Tokens.from_texts(["abc"])
A, B, C = (TOKENS.encode(letter)[0] for letter in "abc")
SPACE = 1


def log_probs(rows: list[dict[int, float]]) -> torch.Tensor:
    """[T, V]: the probabilities of some tokens; the blank has the rest."""
    frames = torch.full((len(rows), len(TOKENS)), 1e-6)
    for frame, row in zip(frames, rows):
        for token, probability in row.items():
            frame[token] = probability
        frame[BLANK] = 1 - sum(row.values()) + 1e-6
    return frames.log()


def test_spans_last_while_a_token_beats_the_blank():
    rows = [{}, {A: 0.6}, {A: 0.9}, {A: 0.48}, {B: 0.8}, {A: 0.3}, {C: 0.7}, {C: 0.6}]
    spans = token_spans(log_probs(rows), [A, B, C], [1, 4, 6])
    assert [(s.token, s.start, s.stop) for s in spans] == [(A, 1, 3), (B, 4, 5), (C, 6, 8)]
    assert [math.exp(s.log_prob) for s in spans] == pytest.approx([0.9, 0.8, 0.7])


def test_a_token_that_never_beats_the_blank_has_one_frame():
    [span] = token_spans(log_probs([{A: 0.2}, {A: 0.4}]), [A], [0])
    assert (span.start, span.stop, math.exp(span.log_prob)) == (0, 1, pytest.approx(0.4))


def spans(*written: tuple[int, int, int, float]) -> list[TokenSpan]:
    return [TokenSpan(token, start, stop, math.log(p)) for token, start, stop, p in written]


def test_words_by_hand():
    found = spans((A, 50, 51, 0.9), (B, 60, 62, 0.4), (SPACE, 70, 71, 1.0), (C, 100, 101, 0.5))
    first, second = to_words(found, TOKENS, num_frames=200, offset=10.0)
    assert (first.text, second.text) == ("ab", "c")
    assert (first.start, first.end) == (11 - LEAD_SECONDS, 11.24 + LAG_SECONDS)
    assert (second.start, second.end) == (12 - LEAD_SECONDS, 12.02 + LAG_SECONDS)
    assert first.confidence == pytest.approx(0.6)  # the geometric mean
    assert second.confidence == pytest.approx(0.5)
    assert [s.text for s in first.symbols] == ["a", "b"]
    assert [(s.start, s.end) for s in first.symbols] == [(first.start, 11.2), (11.2, first.end)]


def test_spelling_from_the_text():
    found = spans((A, 1, 2, 0.9), (SPACE, 3, 4, 0.9), (SPACE, 5, 6, 0.9), (B, 8, 9, 0.9))
    assert [w.text for w in to_words(found, TOKENS, num_frames=20)] == ["a", "b"]
    named = to_words(found, TOKENS, num_frames=20, text="alpha beta")
    assert [w.text for w in named] == ["alpha", "beta"]
    other = to_words(found, TOKENS, num_frames=20, text="alpha")
    assert [w.text for w in other] == ["a", "b"]
    assert to_words([], TOKENS, num_frames=20) == []


def test_words_of_subwords_and_phones():
    """Times come from the frames of the tokens, however many letters each writes."""
    subwords = Tokens(["<blank>", "|", "a", "b", "ab"], "bpe")
    found = spans((4, 50, 51, 0.9), (3, 60, 62, 0.4), (SPACE, 70, 71, 1.0), (2, 100, 101, 0.5))
    first, second = to_words(found, subwords, num_frames=200)
    assert (first.text, second.text) == ("abb", "a")
    assert (first.start, first.end) == (1 - LEAD_SECONDS, 1.24 + LAG_SECONDS)
    assert [(s.text, s.end) for s in first.symbols] == [("ab", 1.2), ("b", first.end)]
    phones = Tokens(["<blank>", "|", "AH", "B", "L"], "phones")
    assert [w.text for w in to_words(found, phones, num_frames=200)] == ["L-B", "AH"]
    named = to_words(found, phones, num_frames=200, text="lub a")
    assert [(w.text, w.start) for w in named] == [("lub", first.start), ("a", second.start)]
