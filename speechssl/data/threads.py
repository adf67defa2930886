"""Threads for reading audio."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from threadpoolctl import threadpool_limits


def reading_threads(count: int) -> ThreadPoolExecutor:
    """Threads for reading audio, each of which computes on one core.

    In any other thread torch spreads even the resampling of a few seconds over all cores, and then
    waits for those that train: 10 to 20 times slower, measured on two busy cores.
    """

    def use_one_core() -> None:
        torch.get_num_threads()  # sets torch's own number for this thread, which would come later
        threadpool_limits(1, user_api="openmp")  # of the calling thread only

    return ThreadPoolExecutor(count, thread_name_prefix="read-audio", initializer=use_one_core)
