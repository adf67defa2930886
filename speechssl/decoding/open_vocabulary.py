"""A language model of words that also says words it has never seen, letter by letter.

Minutes of transcripts know few words: of those in new recordings one in five may be in none. An
n-gram model with Kneser-Ney smoothing keeps some probability back for them, and divides it evenly
among its V words, the end of the sentence and ``<unk>``. Here all of it goes to the words that the
model does not know, to each by its spelling:

    P(word | context) = P_ngram(word | context)                                known words
    P(word | context) = (V + 2) * P_ngram(<unk> | context) * P_spelling(word)  all others

``P_spelling`` is an n-gram model of the characters of the V words, each counted once. Source:
Mochihashi et al. 2009, "Bayesian unsupervised word segmentation with nested Pitman-Yor language
modeling", section 3.1, whose base measure over words is such a model of characters. (There known
words have their shares by spelling too; here they keep what the n-gram model gave them, so that all
probabilities sum to a little more than one.)

The search asks token by token. At the beginning of a word it gets the score of the likeliest word
that begins so, known (by its unigram) or not; at the word's end, what is still owed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flashlight.lib.text.decoder import LM, LMState

from speechssl.decoding.ngram import END, START, estimate

SPELLING_ORDER = 5
"""Characters of the longest n-grams of the spelling model."""

KEPT_SPELLINGS = 200_000
"""Beginnings of words whose spelling is remembered from recording to recording."""


class OpenVocabulary:
    """The words of an n-gram model, and any other word by its spelling. Scores are log10."""

    def __init__(self, ngrams: LM, words: Mapping[str, int], unknown: int) -> None:
        """``words`` are those that ``ngrams`` knows, with its number for each; ``unknown`` is its
        number for all others."""
        self._ngrams = ngrams
        self._words = words
        self._unknown = unknown
        nothing = ngrams.start(True)
        one_of_them: float = ngrams.score(nothing, unknown)[1]
        self._beginnings: dict[str, float] = {}
        for word, number in words.items():
            score = ngrams.score(nothing, number)[1]
            for length in range(1, len(word) + 1):
                beginning = word[:length]
                self._beginnings[beginning] = max(score, self._beginnings.get(beginning, -math.inf))
        shares = math.log10(len(words) + 2)
        # Some models have counted <unk> as a word: then that is the share of all unknown words.
        self._shares = shares if one_of_them + shares <= 0 else 0.0
        self.others = one_of_them + self._shares
        """Of all unknown words together, without context."""
        self._spelling = estimate(map(list, words), SPELLING_ORDER)
        self._spelled = {"": 0.0}

    def start(self) -> LMState:
        """The context at the beginning of a recording."""
        if len(self._spelled) > KEPT_SPELLINGS:
            self._spelled = {"": 0.0}
        return self._ngrams.start(False)

    def finish(self, context: LMState) -> float:
        """The score of ending behind ``context``."""
        return float(self._ngrams.finish(context)[1])

    def score(self, context: LMState, word: str, unknown_score: float) -> tuple[LMState, float]:
        """The context behind ``word``, and the word's score; ``unknown_score`` is added to that of
        an unknown word."""
        number = self._words.get(word, self._unknown)
        after, score = self._ngrams.score(context, number)
        if number == self._unknown:
            score += self._shares + self._spell(word) + self._next(word, END) + unknown_score
        return after, score

    def expect(self, beginning: str, unknown_score: float) -> float:
        """The score, without context, of the likeliest word that begins so."""
        unknown = self.others + self._spell(beginning) + unknown_score
        return max(unknown, self._beginnings.get(beginning, -math.inf))

    def _spell(self, beginning: str) -> float:
        """The score of a spelling that begins so."""
        if beginning not in self._spelled:
            shorter, last = beginning[:-1], beginning[-1]
            self._spelled[beginning] = self._spell(shorter) + self._next(shorter, last)
        return self._spelled[beginning]

    def _next(self, beginning: str, symbol: str) -> float:
        return self._spelling.conditional((START, *beginning, symbol))


@dataclass(slots=True)
class _Context:
    """What the search knows at one point of a reading."""

    words: LMState
    beginning: str = ""
    """Of the word that is being written."""
    granted: float = 0.0
    """What has been given for that beginning."""
    steps: dict[int, tuple[LMState, float]] = field(default_factory=dict)


class OpenVocabularyLM(LM):  # type: ignore[misc]
    """An ``OpenVocabulary`` for flashlight's search of tokens.

    Each reading has a state of its own, as in ``HotwordLM``; separators in a row, and those at the
    beginning, change nothing.
    """

    def __init__(
        self,
        vocabulary: OpenVocabulary,
        symbols: Sequence[str],
        separator: int,
        *,
        word_score: float,
        unknown_score: float,
    ) -> None:
        """``symbols`` are the tokens, ``separator`` the number of the one between words. Both
        scores are log10 too, added for each word and for each unknown one."""
        super().__init__()
        self.vocabulary = vocabulary
        self.symbols = symbols
        self.separator = separator
        self.word_score = word_score
        self.unknown_score = unknown_score

    def start(self, start_with_nothing: bool) -> LMState:
        """The state at the beginning of a recording; forgets the one before."""
        self._contexts: dict[LMState, _Context] = {}
        return self._state(_Context(self.vocabulary.start()))

    def score(self, state: LMState, token: int) -> tuple[LMState, float]:
        """The state after ``token`` and the score of ``token``."""
        context = self._contexts[state]
        step = context.steps.get(token)
        if step is None:
            step = context.steps[token] = self._step(state, context, token)
        return step

    def finish(self, state: LMState) -> tuple[LMState, float]:
        """The score of ending here."""
        return state, self.vocabulary.finish(self._contexts[state].words)

    def _step(self, state: LMState, context: _Context, token: int) -> tuple[LMState, float]:
        if token != self.separator:
            beginning = context.beginning + self.symbols[token]
            expected = self.vocabulary.expect(beginning, self.unknown_score)
            after = self._state(_Context(context.words, beginning, expected))
            return after, expected - context.granted
        if not context.beginning:
            return state, 0.0
        words, score = self.vocabulary.score(context.words, context.beginning, self.unknown_score)
        return self._state(_Context(words)), score - context.granted + self.word_score

    def _state(self, context: _Context) -> LMState:
        state = LMState()
        self._contexts[state] = context
        return state
