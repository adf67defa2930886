"""How sure an error rate is, with the utterance as the unit of sampling.

- confidence interval: bootstrap over utterances, percentile method (Bisani & Ney 2004,
  "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP);
- two systems on the same utterances: the randomisation test for paired samples (Noreen 1989,
  "Computer-Intensive Methods for Testing Hypotheses"), computed exactly over all 2^N swaps
  instead of by sampling them.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
"""Bootstrap resamples behind every interval."""

CONFIDENCE = 0.95
"""Coverage of every interval."""

MAX_DRAWS = 1 << 22
"""Utterances drawn at once by the bootstrap; bounds its memory to some 100 MB."""


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
