"""Work on many files in parallel, with results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from threadpoolctl import threadpool_limits

from speechssl.data.threads import reading_threads

Item = TypeVar("Item")
Result = TypeVar("Result")

READ_AHEAD = 8
"""Items per thread, where they are small."""


def map_in_order(
    work: Callable[[Item], Result], items: Iterable[Item], *, jobs: int, ahead: int = READ_AHEAD
) -> Iterator[Result]:
    """``work(item)`` for each item, in their order, computed in ``jobs`` threads of one core each.

    ``ahead`` items per thread are in work, or done and waiting for an earlier one. Threads are
    enough: decoding, hashing and torch release Python's lock. Until the last result is taken the
    caller computes on one core too, as the others are taken (see ``reading_threads``).
    """
    pool = reading_threads(jobs)
    waiting: deque[Future[Result]] = deque()
    with threadpool_limits(1, user_api="openmp"):
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= ahead * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
