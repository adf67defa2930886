"""Several batches computed at a time, each on one core."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

import torch

from speechssl.data.threads import one_core_threads

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_BATCHES = 8
"""Batches computed at a time at most: each holds the activations of a network."""


def map_at_once(
    function: Callable[[Item], Result], items: Iterable[Item], at_once: int
) -> Iterator[Result]:
    """``function`` of each item, in order. If ``at_once`` is above 1, so many are computed at a
    time in threads of one core each, which know nothing of the caller's autocast."""
    if at_once == 1:
        yield from map(function, items)
        return
    pending: deque[Future[Result]] = deque()
    with one_core_threads(at_once, "compute") as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > at_once:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def batches_at_once(device: torch.device, batches: int) -> int:
    """How many of ``batches`` to compute at a time.

    Small networks get more done with one core for each batch than with all cores for one batch
    (the encoder 1.2 to 1.4 times on two cores, and several times where other programs keep a core
    busy), if there are enough batches for all cores. A GPU computes one at a time.
    """
    cores = min(torch.get_num_threads(), MOST_BATCHES) if device.type == "cpu" else 1
    return cores if batches >= cores else 1
