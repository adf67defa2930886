"""From the tokens of a CTC path to words with times and confidences.

Times: see ``speechssl.decoding.edges``. Within a word, each symbol lasts until the next is written.

Confidence. The geometric mean, over the word's symbols, of the symbol's probability in the frame
where it is most probable before the next symbol is written. 1 means that the model was certain of
every symbol; it is not calibrated to be the share of correct words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from speechssl.data.text import BLANK, SEPARATOR, Tokens
from speechssl.decoding.edges import word_edges
from speechssl.decoding.transcript import Symbol, Word
from speechssl.frames import FRAME_RATE


@dataclass(frozen=True)
class TokenSpan:
    """The frames in which one token is written."""

    token: int
    start: int
    stop: int
    """The frame behind the last."""

    log_prob: float
    """Of the token, in the frame where it is most probable."""


def token_spans(log_probs: Tensor, tokens: Sequence[int], frames: Sequence[int]) -> list[TokenSpan]:
    """Where each of the collapsed ``tokens`` is written, given the first frame of each.

    ``log_probs`` [T, V]. A token is written for as long as it is more probable than the blank,
    but at least in its first frame and never beyond the first frame of the next.
    """
    array = log_probs.numpy()
    spans = []
    for token, first, limit in zip(tokens, frames, [*frames[1:], len(array)]):
        own = array[first:limit, token]
        below = (own <= array[first:limit, BLANK]).nonzero()[0]
        stop = first + max(1, int(below[0])) if len(below) else limit
        spans.append(TokenSpan(token, first, stop, float(own.max())))
    return spans


def confidence_of(spans: Sequence[TokenSpan]) -> float:
    """The geometric mean of the probabilities of ``spans``; 0 if there are none."""
    if not spans:
        return 0.0
    return round(math.exp(sum(span.log_prob for span in spans) / len(spans)), 4)


def to_words(
    spans: Sequence[TokenSpan],
    tokens: Tokens,
    *,
    num_frames: int,
    text: str | None = None,
    offset: float = 0.0,
    levels: NDArray[np.float32] | None = None,
) -> list[Word]:
    """The words that ``spans`` spell, in a stretch of ``num_frames`` frames.

    ``text`` holds the words where they are spelled otherwise than by the tokens (a lexicon of
    phones); it is ignored if it has another number of words. ``offset`` is the second at which
    the stretch begins; times count from the start of the recording. ``levels`` are those of the
    stretch (see ``word_edges``).
    """
    groups = _by_word(spans, tokens)
    written = (text or "").split()
    if len(written) != len(groups):
        written = [tokens.decode(span.token for span in group) for group in groups]
    wrote = [(group[0].start / FRAME_RATE, group[-1].stop / FRAME_RATE) for group in groups]
    edges = word_edges(wrote, num_frames / FRAME_RATE, levels)
    return [
        _word(word, group, tokens, start + offset, end + offset, offset)
        for word, group, (start, end) in zip(written, groups, edges)
    ]


def _by_word(spans: Sequence[TokenSpan], tokens: Tokens) -> list[list[TokenSpan]]:
    """The spans of each word; separators belong to none."""
    groups: list[list[TokenSpan]] = [[]]
    for span in spans:
        if tokens.symbols[span.token] == SEPARATOR:
            groups.append([])
        else:
            groups[-1].append(span)
    return [group for group in groups if group]


def _word(
    text: str, group: list[TokenSpan], tokens: Tokens, start: float, end: float, offset: float
) -> Word:
    starts = [start, *(span.start / FRAME_RATE + offset for span in group[1:]), end]
    symbols = [
        Symbol(tokens.symbols[span.token], round(starts[i], 3), round(starts[i + 1], 3))
        for i, span in enumerate(group)
    ]
    return Word(text, round(start, 3), round(end, 3), confidence_of(group), symbols)
