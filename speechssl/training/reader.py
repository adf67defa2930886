"""The engine's data readers.

All processes walk the same endless sequence of batches (epoch after epoch); an update takes the
next ``num_forwards`` of them, and process r of W takes every W-th. So an update sees the same
audio on any number of processes, and a position is two numbers, whatever came before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from fairseq2.datasets import DataReader
from typing_extensions import Self

from speechssl.data.batch import SpeechBatch
from speechssl.data.index import Cuts
from speechssl.data.loading import (
    BatchLoader,
    CutLoader,
    batch_seed,
    epoch_batches,
    sorted_batches,
)
from speechssl.training.recipe import DataConfig

Position = tuple[int, int]
"""(epoch, batches of that epoch already seen by all processes together)."""


class TrainReader(DataReader[SpeechBatch]):
    """Reads training updates; resumes exactly where its state says."""

    def __init__(
        self, cuts: Cuts, loader: CutLoader, data: DataConfig, *, seed: int, rank: int, world: int
    ) -> None:
        """Raises ``ConfigError`` where ``world`` processes cannot share an update evenly."""
        self.before_update: Callable[[], None] = lambda: None
        """Called before an update is read, when all before it are done."""
        self._num_forwards = data.num_forwards()
        self._own_forwards = data.forwards_each(world)
        self._cuts = cuts
        self._loader = BatchLoader(loader, total_cuts=len(cuts), threads=data.threads)
        self._data = data
        self._seed = seed
        self._rank = rank
        self._world = world
        self._start: Position = (0, 0)
        self._batches: Iterator[SpeechBatch] | None = None
        self._ends: deque[Position] = deque()

    @property
    def epoch(self) -> int:
        """The epoch of the next batch, from 0."""
        return self._start[0]

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[SpeechBatch]:
        self.before_update()
        if self._batches is None:
            self._ends.clear()
            self._batches = self._loader.load(self._plan(self._start))
        update = [next(self._batches) for _ in range(self._own_forwards)]
        self._start = self._ends.popleft()
        return update

    def _plan(self, start: Position) -> Iterator[tuple[Cuts, int]]:
        """This process's share of the endless sequence; notes where each update ends."""
        for number, (position, cuts) in enumerate(self._sequence(start)):
            place = number % self._num_forwards
            if place % self._world == self._rank:
                epoch, index = position
                yield cuts, batch_seed(self._seed, epoch, index)
            if place == self._num_forwards - 1:
                self._ends.append((position[0], position[1] + 1))

    def _sequence(self, start: Position) -> Iterator[tuple[Position, Cuts]]:
        seconds = np.minimum(self._cuts.durations, self._data.max_seconds)
        epoch, skip = start
        while True:
            batches = epoch_batches(
                seconds,
                batch_seconds=self._data.forward_seconds,
                length_noise=self._data.length_noise,
                seed=self._seed,
                epoch=epoch,
            )
            for index in range(skip, len(batches)):
                yield (epoch, index), self._cuts.select(batches[index])
            epoch, skip = epoch + 1, 0

    def reset(self) -> None:
        self._start, self._batches = (0, 0), None

    def state_dict(self) -> dict[str, object]:
        return {"epoch": self._start[0], "batch": self._start[1]}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        self._start = (int(str(state_dict["epoch"])), int(str(state_dict["batch"])))
        self._batches = None

    @property
    def num_accumulate(self) -> int:
        return self._own_forwards


class ValidationReader(DataReader[SpeechBatch]):
    """Reads every cut once, longest first; process r of W takes every W-th batch."""

    def __init__(
        self, cuts: Cuts, loader: CutLoader, data: DataConfig, *, seed: int, rank: int, world: int
    ) -> None:
        self._cuts = cuts
        self._loader = BatchLoader(loader, total_cuts=len(cuts), threads=data.threads)
        self._data = data
        self._seed = seed
        self._rank = rank
        self._world = world
        self._batches: Iterator[SpeechBatch] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[SpeechBatch]:
        if self._batches is None:
            self._batches = self._loader.load(self._plan())
        return [next(self._batches)]

    def _plan(self) -> Iterator[tuple[list[Any], int]]:
        for index, cuts in enumerate(sorted_batches(self._cuts, self._data.forward_seconds)):
            if index % self._world == self._rank:
                yield cuts, batch_seed(self._seed, "validation", index)

    def reset(self) -> None:
        self._batches = None

    def state_dict(self) -> dict[str, object]:
        return {}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        self._batches = None

    @property
    def num_accumulate(self) -> int:
        return 1
