"""Several batches computed at a time, each on one core."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

from speechssl.data.parallel import map_in_order

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
        return map(function, items)
    return map_in_order(function, items, jobs=at_once, ahead=2)


def cores_for_batches(device: torch.device) -> int:
    """How many batches can be computed at a time. A GPU computes one."""
    return min(torch.get_num_threads(), MOST_BATCHES) if device.type == "cpu" else 1


def batches_at_once(device: torch.device, batches: int) -> int:
    """How many of ``batches`` to compute at a time.

    Small networks get more done with one core for each batch than with all cores for one batch
    (the encoder 1.2 to 1.4 times on two cores, and several times where other programs keep a core
    busy), if there are enough batches for all cores.
    """
    cores = cores_for_batches(device)
    return cores if batches >= cores else 1
