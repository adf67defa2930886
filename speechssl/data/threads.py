"""Reading audio in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from speechssl.errors import AudioError

Item = TypeVar("Item")

READ_THREADS = 2
"""Threads that decode audio while a model computes."""

READ_AHEAD = 2
"""Batches read ahead of the one being computed."""


def reading_threads(count: int) -> ThreadPoolExecutor:
    """Threads for reading audio, each of which computes on one core.

    In any other thread torch spreads even the resampling of a few seconds over all cores, and then
    waits for those that train: 10 to 20 times slower, measured on two busy cores.
    """

    def use_one_core() -> None:
        torch.get_num_threads()  # sets torch's own number for this thread, which would come later
        threadpool_limits(1, user_api="openmp")  # of the calling thread only

    return ThreadPoolExecutor(count, thread_name_prefix="read-audio", initializer=use_one_core)


def read_ahead(
    read: Callable[[Item], Tensor], batches: Iterable[list[Item]]
) -> Iterator[list[tuple[Item, Tensor | AudioError]]]:
    """Each batch with what ``read`` gives for its items, while the next batches are being read.

    An item that cannot be read has the ``AudioError`` in place of its waveform.
    """

    def attempt(item: Item) -> tuple[Item, Tensor | AudioError]:
        try:
            return item, read(item)
        except AudioError as error:
            return item, error

    with reading_threads(READ_THREADS) as pool:
        pending: deque[list[Future[tuple[Item, Tensor | AudioError]]]] = deque()
        for batch in batches:
            pending.append([pool.submit(attempt, item) for item in batch])
            if len(pending) > READ_AHEAD:
                yield [future.result() for future in pending.popleft()]
        for futures in pending:
            yield [future.result() for future in futures]
