"""Many batches: while one is decoded, the next are read and computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from torch import Tensor

from speechssl.data.threads import read_ahead
from speechssl.decoding.at_once import batches_at_once, map_at_once
from speechssl.decoding.transcriber import Transcriber
from speechssl.errors import AudioError

Item = TypeVar("Item")

Computed = tuple[Tensor, Tensor]
"""The samples of a recording [S] and its log-probabilities [T, V]."""


def compute_batches(
    transcriber: Transcriber, read: Callable[[Item], Tensor], batches: Sequence[list[Item]]
) -> Iterator[list[tuple[Item, Computed | AudioError]]]:
    """Each batch with what was computed of its items, in order; ``read`` gives an item's samples.

    An item that cannot be read has the ``AudioError`` instead.
    """

    def compute(
        batch: list[tuple[Item, Tensor | AudioError]],
    ) -> list[tuple[Item, Computed | AudioError]]:
        waveforms = [samples for _, samples in batch if isinstance(samples, Tensor)]
        log_probs = iter(transcriber.log_probs(waveforms))
        return [
            (item, (samples, next(log_probs)) if isinstance(samples, Tensor) else samples)
            for item, samples in batch
        ]

    at_once = batches_at_once(transcriber.device, len(batches))
    return map_at_once(compute, read_ahead(read, batches), at_once)
