"""Where words begin and end: from the frames in which their letters are written, and the sound.

A CTC model writes a letter in one or a few frames somewhere inside its sound, so a word begins
before its first letter is written and ends after its last. What lies between the last letter of
one word and the first of the next is divided here. Where the sound falls off between them, each
word reaches as far as its own sound does; where it does not, or the sound is not known, the words
are extended by ``LAG_SECONDS`` and ``LEAD_SECONDS`` or share what room there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechssl.frames import SAMPLE_RATE

LEAD_SECONDS = 0.1
"""How long before its first letter a word begins where the sound does not tell. On AN4's dev set
it is 0.13 s in the median at the beginning of utterances, which is more than inside of them."""

LAG_SECONDS = 0.1
"""How long after its last letter a word ends where the sound does not tell (AN4: 0.15 s)."""

REACH_SECONDS = 0.5
"""A word's sound is followed no further than this beyond its letters."""

BRIDGE_SECONDS = 0.06
"""Shorter silences, as before a plosive, do not end a word's sound."""

LEVEL_SAMPLES = SAMPLE_RATE // 100
"""Samples in which the level of the sound is measured (10 ms)."""

LEVELS_PER_SECOND = SAMPLE_RATE // LEVEL_SAMPLES

QUIET = 1 / 3
"""Sound ends at this height (in decibels) between the quietest and the loudest around it."""

LEAST_CONTRAST = 12.0
"""Decibels between quiet and loud below which the level says nothing."""

MOST_CONTRAST = 50.0
"""Decibels below the loudest that count as the quietest: digital silence is quieter than rooms."""

Stretch = tuple[float, float]
"""(start, end) in seconds."""


class LevelMeter:
    """Measures the level of a stream of samples, in decibels of full scale."""

    def __init__(self) -> None:
        self._levels: list[NDArray[np.float32]] = []
        self._rest = torch.empty(0)
        self._samples = 0

    @property
    def seconds(self) -> float:
        """The sound measured so far."""
        return self._samples / SAMPLE_RATE

    def listen(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Measures blocks of samples and passes them on."""
        for block in blocks:
            self.push(block)
            yield block

    def push(self, samples: Tensor) -> None:
        """Measures ``samples`` [S] float32 at 16 kHz, which follow those before."""
        self._samples += len(samples)
        samples = torch.cat([self._rest, samples])
        whole = len(samples) // LEVEL_SAMPLES * LEVEL_SAMPLES
        self._rest = samples[whole:].clone()
        power = samples[:whole].numpy().reshape(-1, LEVEL_SAMPLES)
        self._levels.append(10 * np.log10(np.square(power).mean(1) + 1e-12))

    def levels(self, start: float, seconds: float) -> NDArray[np.float32]:
        """The levels [seconds x 100] from second ``start`` on, as far as they are known."""
        self._levels = [np.concatenate(self._levels)] if self._levels else [np.empty(0, np.float32)]
        first = round(start * LEVELS_PER_SECOND)
        return self._levels[0][first : first + round(seconds * LEVELS_PER_SECOND)]


def word_edges(
    written: Sequence[Stretch], seconds: float, levels: NDArray[np.float32] | None = None
) -> list[Stretch]:
    """Start and end of words, given when their letters are ``written``, in a stretch of sound.

    ``written`` are in order and do not overlap, within 0 to ``seconds``; neither do the results.
    ``levels`` [seconds x 100] are those of the stretch in decibels.
    """
    if not written:
        return []
    starts, ends = [0.0] * len(written), [seconds] * len(written)
    for i in range(len(written) + 1):
        before = written[i - 1] if i > 0 else None
        after = written[i] if i < len(written) else None
        end, start = _divide(before, after, seconds, levels)
        if before:
            ends[i - 1] = end
        if after:
            starts[i] = start
    return list(zip(starts, ends))


def _divide(
    before: Stretch | None,
    after: Stretch | None,
    seconds: float,
    levels: NDArray[np.float32] | None,
) -> Stretch:
    """When the word ``before`` ends and the word ``after`` starts; None: there is no such word."""
    first = before[1] if before else 0.0
    last = after[0] if after else seconds
    if levels is not None:
        gap = levels[round(first * LEVELS_PER_SECOND) : round(last * LEVELS_PER_SECOND)]
        lag = _sound(gap, levels, before) if before else 0
        lead = _sound(gap[::-1], levels, after) if after else 0
        if lag is not None and lead is not None and lag + lead < len(gap):
            return first + lag / LEVELS_PER_SECOND, last - lead / LEVELS_PER_SECOND
    wanted_lag = LAG_SECONDS if before else 0.0
    wanted_lead = LEAD_SECONDS if after else 0.0
    share = min(1.0, (last - first) / (wanted_lag + wanted_lead))
    return first + share * wanted_lag, last - share * wanted_lead


def _sound(gap: NDArray[np.float32], levels: NDArray[np.float32], word: Stretch) -> int | None:
    """For how many levels the sound of ``word`` goes on into ``gap``, of which the first is next
    to the word; None if there is no contrast between loud and quiet."""
    start, end = (round(second * LEVELS_PER_SECOND) for second in word)
    if not len(gap) or not len(levels[start:end]):
        return None
    loudest = float(levels[start:end].max())
    quietest = max(float(np.quantile(gap, 0.1)), loudest - MOST_CONTRAST)
    if loudest - quietest < LEAST_CONTRAST:
        return None
    loud = gap[: round(REACH_SECONDS * LEVELS_PER_SECOND)] > quietest + QUIET * (loudest - quietest)
    reached = 0
    for i in loud.nonzero()[0]:
        if i - reached > BRIDGE_SECONDS * LEVELS_PER_SECOND:
            break
        reached = int(i) + 1
    return reached
