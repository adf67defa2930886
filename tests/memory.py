"""Memory measured in a process of its own: what other tests left running cannot disturb it."""

from __future__ import annotations

import multiprocessing
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def peaks(function: Callable[..., Any], *calls: tuple[Any, ...]) -> list[int]:
    """The most bytes that Python and numpy held during each of the ``calls`` of ``function``.

    The calls run one after the other in one new process; give a first one for what is loaded once.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return [process.submit(_peak, function, arguments).result() for arguments in calls]


def _peak(function: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
    tracemalloc.start()
    function(*arguments)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most
