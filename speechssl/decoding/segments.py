"""Pauses in what a model says: where a long recording may be cut, and where a word must end.

A CTC model is trained on single utterances, in which nothing comes after the last word. So in a
long recording it often writes no separator in a pause, and the words on both sides would become
one. Here a pause (a run of frames whose most probable token is the blank) counts as a separator.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from speechssl.data.text import BLANK
from speechssl.frames import FRAME_RATE

PAUSE_FRAMES = FRAME_RATE // 2
"""Blanks of half a second or more are a pause between words. (Held vowels are shorter.)"""

SEGMENT_FRAMES = 60 * FRAME_RATE
"""Longer recordings are decoded in segments of at most this length, which bounds the memory."""


def segments(
    pieces: Iterable[Tensor], separator: int, longest: int = SEGMENT_FRAMES
) -> Iterator[tuple[int, Tensor]]:
    """Cuts a stream of log-probabilities into segments that can be decoded one by one.

    ``pieces`` are [t, V], one after the other. Yields (first frame, log-probabilities [T, V]) with
    0 < T <= ``longest``, without gaps. Each cut is where it harms least: see ``best_cut``.
    """
    first, held = 0, torch.empty(0, 0)
    for piece in pieces:
        held = torch.cat([held, piece]) if len(held) else piece
        while len(held) > longest:
            cut = best_cut(held[:longest], separator)
            yield first, held[:cut]
            first, held = first + cut, held[cut:]
    if len(held):
        yield first, held


def best_cut(log_probs: Tensor, separator: int) -> int:
    """The frame in the second half of ``log_probs`` [T, V] at which to cut.

    It is the middle of the longest run of blanks and separators that is a pause or holds a
    separator; without such a run, of the longest run of blanks; without any, the end.
    """
    best = log_probs.argmax(-1)
    half = len(best) // 2
    candidates = [
        (stop - start >= PAUSE_FRAMES or separator in best[start:stop], stop - start, start)
        for start, stop in runs((best[half:] == BLANK) | (best[half:] == separator), half)
    ]
    if not candidates:
        return len(best)
    _, length, start = max(candidates)
    return max(1, start + length // 2)


def pauses(log_probs: Tensor) -> list[tuple[int, int]]:
    """The pauses in ``log_probs`` [T, V]: (first frame, frame behind the last)."""
    blanks = runs(log_probs.argmax(-1) == BLANK)
    return [(start, stop) for start, stop in blanks if stop - start >= PAUSE_FRAMES]


def mark_pauses(log_probs: Tensor, separator: int) -> Tensor:
    """``log_probs`` [T, V] with a certain separator in the middle of every pause between tokens.

    So every decoder, with or without a lexicon, ends a word there.
    """
    inner = [(a + b) // 2 for a, b in pauses(log_probs) if a > 0 and b < len(log_probs)]
    if not inner:
        return log_probs
    marked = log_probs.clone()
    marked[inner] = -30.0  # as improbable as a model ever says, and finite for every decoder
    marked[inner, separator] = 0.0
    return marked


def runs(mask: Tensor, offset: int = 0) -> list[tuple[int, int]]:
    """Where ``mask`` [T] is true without a break: (first, behind the last), plus ``offset``."""
    edges = torch.diff(mask.int(), prepend=torch.zeros(1), append=torch.zeros(1)).nonzero()[:, 0]
    return [(first + offset, stop + offset) for first, stop in edges.view(-1, 2).tolist()]
