"""From cuts to batches: which cuts go together, and reading them.

1. ``epoch_batches``   lengths -> an epoch's batches, each the places of some cuts
2. ``CutLoader``       one cut -> waveform, targets, tokens
3. ``BatchLoader``     groups of cuts -> ``SpeechBatch``, read ahead in threads
"""

from __future__ import annotations

import hashlib
import logging
import random
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from speechssl.data.audio import read_cut
from speechssl.data.batch import Places, SpeechBatch, batches_by_length, collate, fill_batches
from speechssl.data.index import Cuts
from speechssl.data.manifest import cut_text
from speechssl.data.targets import FrameTargets
from speechssl.data.text import Tokens
from speechssl.data.threads import reading_threads
from speechssl.errors import AudioError
from speechssl.frames import FRAME_RATE, HOP_SAMPLES, SAMPLE_RATE, min_samples, num_frames

logger = logging.getLogger("speechssl")

MAX_BAD_SHARE = 0.01
"""Share of unreadable recordings at which loading stops."""


def epoch_batches(
    seconds: NDArray[np.float64],
    *,
    batch_seconds: float,
    length_noise: float,
    seed: int,
    epoch: int,
) -> list[Places]:
    """One epoch of batches: every cut once, similar lengths together, in random order.

    ``seconds`` [N] are the lengths of the cuts. Each is multiplied by a factor drawn evenly from
    ``1 - length_noise`` to ``1 + length_noise``; the cuts, sorted by the result, fill one batch
    after the other; the batches are shuffled. So a cut meets others from anywhere in the corpus
    that are about as long, and different ones in each epoch. A batch holds at most
    ``batch_seconds`` including padding (longest cut times cuts). The same arguments give the same
    batches everywhere, and the cost, about a second for a million cuts, is the same for any epoch.
    """
    rng = np.random.default_rng(batch_seed("epoch", seed, epoch))
    noisy = seconds * (1 + length_noise * (2 * rng.random(len(seconds)) - 1))
    batches = fill_batches(seconds, np.argsort(-noisy, kind="stable"), batch_seconds)
    shuffled = np.argsort(rng.random(len(batches)), kind="stable")
    return [batches[number] for number in shuffled]


def sorted_batches(cuts: Iterable[Any], batch_seconds: float) -> Iterator[list[Any]]:
    """Every cut once, longest first, at most ``batch_seconds`` a batch including padding."""
    if isinstance(cuts, Cuts):
        seconds = cuts.durations
    else:
        cuts = list(cuts)
        seconds = np.array([cut.duration for cut in cuts])
    for batch in batches_by_length(seconds, batch_seconds):
        yield [cuts[place] for place in batch]


def batch_seed(*parts: object) -> int:
    """A 63-bit seed from whatever identifies a batch; the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass
class LoadedCut:
    """One cut as tensors."""

    waveform: Tensor  # [S] float32
    targets: Tensor | None  # [T] int64
    tokens: list[int] | None


class CutLoader:
    """Reads one cut. Decoded recordings stay in memory up to ``cache_gb`` gigabytes."""

    def __init__(
        self,
        *,
        targets: FrameTargets | None = None,
        tokens: Tokens | None = None,
        max_seconds: float | None = None,
        cache_gb: float = 0.0,
    ) -> None:
        self.targets = targets
        self.tokens = tokens
        self.max_seconds = max_seconds
        self._cache: dict[str, Tensor] = {}
        self._cache_left = int(cache_gb * 1e9)
        self._lock = threading.Lock()

    def __call__(self, cut: Any, seed: int) -> LoadedCut:
        """Reads ``cut``; one longer than ``max_seconds`` is cropped at a frame drawn from ``seed``.

        Raises ``AudioError`` where the recording cannot be read.
        """
        first_frame = 0
        if self.max_seconds is not None and cut.duration > self.max_seconds:
            spare_frames = int((cut.duration - self.max_seconds) * FRAME_RATE)
            first_frame = random.Random(f"{seed}/{cut.id}").randint(0, spare_frames)
            part = cut.truncate(
                offset=first_frame * HOP_SAMPLES / SAMPLE_RATE,
                duration=self.max_seconds,
                preserve_id=True,
            )
            waveform = read_cut(part)
        else:
            waveform = self._read_cached(cut)
        if len(waveform) < min_samples(1):
            raise AudioError(
                f"cut {cut.id!r}: {len(waveform)} samples are fewer than one frame "
                f"({min_samples(1)}); remove it from the manifest."
            )
        targets = None
        if self.targets is not None:
            frames = num_frames(len(waveform))
            targets = self.targets[cut.id][first_frame : first_frame + frames]
        text = cut_text(cut)
        tokens = self.tokens.encode(text) if self.tokens is not None and text else None
        return LoadedCut(waveform, targets, tokens)

    def _read_cached(self, cut: Any) -> Tensor:
        waveform = self._cache.get(cut.id)
        if waveform is None:
            waveform = read_cut(cut)
            size = waveform.numel() * waveform.element_size()
            with self._lock:
                if size <= self._cache_left:
                    self._cache[cut.id] = waveform
                    self._cache_left -= size
        return waveform


class BatchLoader:
    """Turns groups of cuts into batches, reading ahead in ``threads`` threads, a batch in each.

    A recording that cannot be read is left out and counted; more than 1 % of ``total_cuts`` stop
    with ``AudioError``. A batch in which nothing can be read repeats the batch before it.
    """

    def __init__(self, loader: CutLoader, *, total_cuts: int, threads: int = 2) -> None:
        self._loader = loader
        self._total_cuts = total_cuts
        self._pool = reading_threads(max(1, threads))
        self._read_ahead = 2 * max(1, threads)
        self._last: SpeechBatch | None = None
        self.bad_cuts: dict[str, str] = {}

    def load(self, plan: Iterable[tuple[Sequence[Any] | Cuts, int]]) -> Iterator[SpeechBatch]:
        """Batches for a ``plan`` of (cuts, seed), in its order."""
        pending: deque[tuple[int, Future[tuple[SpeechBatch | None, dict[str, str]]]]] = deque()
        for cuts, seed in plan:
            pending.append((seed, self._pool.submit(self._read, cuts, seed)))
            if len(pending) > self._read_ahead:
                yield self._usable(*pending.popleft())
        while pending:
            yield self._usable(*pending.popleft())

    def close(self) -> None:
        """Stops the reading threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _read(
        self, cuts: Sequence[Any] | Cuts, seed: int
    ) -> tuple[SpeechBatch | None, dict[str, str]]:
        """The batch of the readable cuts, if there are any, and what is wrong with the others."""
        loaded: list[tuple[Any, LoadedCut]] = []
        bad: dict[str, str] = {}
        for cut in cuts:
            try:
                loaded.append((cut, self._loader(cut, seed)))
            except AudioError as error:
                bad[cut.id] = str(error)
        if not loaded:
            return None, bad
        targets = [item.targets for _, item in loaded if item.targets is not None]
        tokens = [item.tokens for _, item in loaded if item.tokens is not None]
        batch = collate(
            [item.waveform for _, item in loaded],
            ids=[cut.id for cut, _ in loaded],
            seed=seed,
            targets=targets or None,
            tokens=tokens or None,
            texts=[cut_text(cut) or "" for cut, _ in loaded],
        )
        return batch, bad

    def _usable(
        self, seed: int, future: Future[tuple[SpeechBatch | None, dict[str, str]]]
    ) -> SpeechBatch:
        batch, bad = future.result()
        for cut_id, problem in bad.items():
            self._count_bad(cut_id, problem)
        if batch is None:
            if self._last is None:
                problem = next(iter(bad.values()))
                raise AudioError(f"no recording of a batch could be read: {problem}")
            batch = replace(self._last, seed=seed)
        self._last = batch
        return batch

    def _count_bad(self, cut_id: str, problem: str) -> None:
        if cut_id in self.bad_cuts:
            return
        self.bad_cuts[cut_id] = problem
        logger.warning("skipping a recording (%d so far): %s", len(self.bad_cuts), problem)
        if len(self.bad_cuts) > MAX_BAD_SHARE * self._total_cuts:
            raise AudioError(
                f"{len(self.bad_cuts)} of {self._total_cuts} recordings cannot be read, more than "
                f"{MAX_BAD_SHARE:.0%}; repair or remove them first. The last one: {problem}"
            )
