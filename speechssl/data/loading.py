"""From cuts to batches: which cuts go together, and reading them.

1. ``epoch_batches``   cuts -> lists of cuts of similar length (Lhotse's bucketing sampler)
2. ``CutLoader``       one cut -> waveform, targets, tokens
3. ``BatchLoader``     lists of cuts -> ``SpeechBatch``, read ahead in threads
"""

from __future__ import annotations

import hashlib
import logging
import random
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from lhotse import CutSet
from lhotse.dataset.sampling import DynamicBucketingSampler, SimpleCutSampler
from torch import Tensor

from speechssl.data.audio import read_cut
from speechssl.data.batch import SpeechBatch, collate
from speechssl.data.manifest import cut_text
from speechssl.data.targets import FrameTargets
from speechssl.data.text import Tokens
from speechssl.errors import AudioError
from speechssl.frames import FRAME_RATE, HOP_SAMPLES, SAMPLE_RATE, min_samples, num_frames

logger = logging.getLogger("speechssl")

MAX_BAD_SHARE = 0.01
"""Share of unreadable recordings at which loading stops."""

CUTS_PER_BUCKET = 20
"""Fewer cuts than this per length bucket leave batches half empty."""


def epoch_batches(
    cuts: CutSet, *, batch_seconds: float, buckets: int, seed: int, epoch: int
) -> Iterator[list[Any]]:
    """One epoch of batches: every cut once, similar lengths together, order drawn from the seed.

    A batch holds at most ``batch_seconds`` including padding (longest cut times cuts). The same
    arguments give the same batches everywhere.
    """
    buckets = min(buckets, len(cuts) // CUTS_PER_BUCKET)
    if buckets > 1:
        sampler: Any = DynamicBucketingSampler(
            cuts,
            max_duration=batch_seconds,
            num_buckets=buckets,
            shuffle=True,
            seed=seed,
            world_size=1,
            rank=0,
        )
    else:
        sampler = SimpleCutSampler(
            cuts, max_duration=batch_seconds, shuffle=True, seed=seed, world_size=1, rank=0
        )
    sampler.set_epoch(epoch)
    for batch in sampler:
        yield list(batch)


def sorted_batches(cuts: Iterable[Any], batch_seconds: float) -> Iterator[list[Any]]:
    """Every cut once, longest first, at most ``batch_seconds`` a batch including padding."""
    batch: list[Any] = []
    for cut in sorted(cuts, key=lambda c: (-c.duration, c.id)):
        if batch and batch[0].duration * (len(batch) + 1) > batch_seconds:
            yield batch
            batch = []
        batch.append(cut)
    if batch:
        yield batch


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
    """Turns lists of cuts into batches, reading ahead in ``threads`` threads.

    A recording that cannot be read is left out and counted; more than 1 % of ``total_cuts`` stop
    with ``AudioError``. A batch in which nothing can be read repeats the batch before it.
    """

    def __init__(self, loader: CutLoader, *, total_cuts: int, threads: int = 2) -> None:
        self._loader = loader
        self._total_cuts = total_cuts
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="read-audio")
        self._read_ahead = 2 * max(1, threads)
        self._last: list[tuple[Any, LoadedCut]] = []
        self.bad_cuts: dict[str, str] = {}

    def load(self, plan: Iterable[tuple[list[Any], int]]) -> Iterator[SpeechBatch]:
        """Batches for a ``plan`` of (cuts, seed), in its order."""
        pending: deque[tuple[list[Any], int, list[Future[LoadedCut]]]] = deque()
        for cuts, seed in plan:
            futures = [self._pool.submit(self._loader, cut, seed) for cut in cuts]
            pending.append((cuts, seed, futures))
            if len(pending) > self._read_ahead:
                yield self._collect(*pending.popleft())
        while pending:
            yield self._collect(*pending.popleft())

    def close(self) -> None:
        """Stops the reading threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _collect(self, cuts: list[Any], seed: int, futures: list[Future[LoadedCut]]) -> SpeechBatch:
        loaded: list[tuple[Any, LoadedCut]] = []
        for cut, future in zip(cuts, futures):
            try:
                loaded.append((cut, future.result()))
            except AudioError as error:
                self._count_bad(cut.id, error)
        if not loaded and not self._last:
            raise AudioError(f"no recording of a batch could be read: {self.bad_cuts[cuts[0].id]}")
        loaded = self._last = loaded or self._last
        targets = [item.targets for _, item in loaded if item.targets is not None]
        tokens = [item.tokens for _, item in loaded if item.tokens is not None]
        return collate(
            [item.waveform for _, item in loaded],
            ids=[cut.id for cut, _ in loaded],
            seed=seed,
            targets=targets or None,
            tokens=tokens or None,
            texts=[cut_text(cut) or "" for cut, _ in loaded],
        )

    def _count_bad(self, cut_id: str, error: AudioError) -> None:
        if cut_id in self.bad_cuts:
            return
        self.bad_cuts[cut_id] = str(error)
        logger.warning("skipping a recording (%d so far): %s", len(self.bad_cuts), error)
        if len(self.bad_cuts) > MAX_BAD_SHARE * self._total_cuts:
            raise AudioError(
                f"{len(self.bad_cuts)} of {self._total_cuts} recordings cannot be read, more than "
                f"{MAX_BAD_SHARE:.0%}; repair or remove them first. The last one: {error}"
            )
