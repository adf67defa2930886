"""What every decoder promises: from the log-probabilities of one recording to texts, best first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Decoded:
    """One reading of a recording."""

    text: str
    """Words with single spaces."""

    tokens: list[int]
    """The token ids, repetitions collapsed and without blanks; separators are included."""

    frames: list[int]
    """The frame at which each of ``tokens`` is first emitted, increasing."""

    score: float
    """Log-probability of the path (greedy), or the beam search's total score. Larger is better;
    scores of different decoders cannot be compared."""


class Decoder(Protocol):
    """Turns log-probabilities into text. Has no state: the same input gives the same output."""

    def decode(self, log_probs: Tensor) -> list[Decoded]:
        """The readings of one recording, best first and at least one.

        ``log_probs`` is [T, V] float32 on the CPU; T may be 0, which reads as the empty text.
        """
