"""Random access to the cuts of a manifest, however many there are.

A ``cuts.jsonl.gz`` can only be read from its beginning. ``Cuts.open`` reads it once and keeps
beside it, as ``cuts.jsonl.gz.index`` (safetensors), what later runs need: the length and id of each
cut, from which batches are made, and the lines again, compressed in small blocks that can be read
alone. A cut is read when it is due; a million of them cost a training process 50 MB of memory.
"""

from __future__ import annotations

import logging
import math
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse import MonoCut
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from speechssl.data.manifest import (
    hash_manifest,
    join_texts,
    missing_text,
    named,
    no_cuts,
    parse_cut,
    parse_json,
    read_lines,
    repeated_id,
)
from speechssl.errors import ManifestError
from speechssl.files import atomic_path
from speechssl.frames import SAMPLE_RATE, num_frames

logger = logging.getLogger("speechssl")

BLOCK_CUTS = 16
"""Cuts whose lines are compressed together: reading one of them takes 10 microseconds, and the
index is little larger than the manifest."""

LAYOUT = "1"
"""Changes whenever an index of another layout has to be made again."""


class Cuts:
    """The cuts of a manifest, or some of them, in a given order; each is read when asked for.

    ``len``, ``cuts[place]``, iteration, and what is known without reading the cuts: lengths and
    ids. Reading from several threads is safe. Raises ``ManifestError`` where a line is no cut.
    """

    def __init__(self, index: ManifestIndex, positions: NDArray[np.int64]) -> None:
        self._index = index
        self._positions = positions

    @classmethod
    def open(cls, path: Path | str) -> Cuts:
        """All cuts of the manifest at ``path``, in its order: a ``.jsonl`` or ``.jsonl.gz``, or a
        folder in Lhotse Shar.

        Makes the index if there is none, or if it was made from another content (about ten
        seconds for a million cuts, minutes in Shar); where it cannot be written it stays in memory.
        Raises ``ManifestError`` if the manifest is missing, damaged, not JSON or empty, if a line
        is no MonoCut with a recording, or if ids repeat.
        """
        index = open_index(named(path))
        return cls(index, np.arange(len(index.durations)))

    @property
    def path(self) -> Path:
        """The manifest."""
        return self._index.path

    @property
    def manifest_hash(self) -> str:
        """The SHA-256 of the manifest, as it was when it was opened."""
        return self._index.manifest_hash

    @property
    def durations(self) -> NDArray[np.float64]:
        """[N] seconds."""
        return self._index.durations[self._positions]

    @property
    def frames(self) -> NDArray[np.int64]:
        """[N] frames, ``data.targets.cut_frames`` of each cut."""
        frames: NDArray[np.int64] = num_frames(
            torch.from_numpy(self._index.samples[self._positions])
        ).numpy()
        return frames

    @property
    def hours(self) -> float:
        """Hours of audio."""
        return float(self.durations.sum()) / 3600

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, place: int) -> MonoCut:
        position = int(self._positions[place])
        block, line = divmod(position, BLOCK_CUTS)
        return self._parse(self._index.block(block)[line], position)

    def __iter__(self) -> Iterator[MonoCut]:
        for position, line in self._lines():
            yield self._parse(line, position)

    def ids(self) -> Iterator[str]:
        """The id of each cut."""
        return map(self._index.id, self._positions.tolist())

    def texts(self) -> Iterator[str]:
        """The transcript of each cut. Raises ``ManifestError`` for the first that has none."""
        for cut_id, text in self._texts():
            if text is None:
                raise missing_text(self.path, cut_id)
            yield text

    def transcribed(self) -> Cuts:
        """The cuts that have a transcript. Raises ``ManifestError`` if none has."""
        places = [place for place, (_, text) in enumerate(self._texts()) if text is not None]
        if not places:
            raise ManifestError(
                f"{self.path}: cut {next(self.ids())!r} has no transcript, nor has any other; "
                "prepare the corpus with transcripts."
            )
        return self.select(places)

    def select(self, places: NDArray[Any] | Sequence[int]) -> Cuts:
        """The cuts at ``places`` (integers) or where ``places`` is true (booleans)."""
        chosen = np.asarray(places) if len(places) else np.zeros(0, np.int64)
        return Cuts(self._index, self._positions[chosen])

    def _texts(self) -> Iterator[tuple[str, str | None]]:
        """(id, transcript) of each cut."""
        for position, line in self._lines():
            data = parse_json(line, self._index.where(position))
            parts = data.get("supervisions") or ()
            yield data["id"], join_texts(part.get("text") for part in parts)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """(position, line) of each cut; neighbours in one block share its decompression."""
        held, lines = -1, list[bytes]()
        for position in self._positions.tolist():
            block, line = divmod(position, BLOCK_CUTS)
            if block != held:
                held, lines = block, self._index.block(block)
            yield position, lines[line]

    def _parse(self, line: bytes, position: int) -> MonoCut:
        return parse_cut(line, self._index.where(position), self.path.parent)


@dataclass(frozen=True)
class ManifestIndex:
    """What is kept of a manifest with N cuts. The arrays are mapped from the file where there is
    one: what is never looked at costs no memory, and processes share the rest."""

    path: Path
    """The manifest."""

    manifest_hash: str
    """Its SHA-256, in hexadecimal."""

    durations: NDArray[np.float64]
    """[N] seconds."""

    samples: NDArray[np.int64]
    """[N] samples at 16 kHz, as ``data.audio.cut_samples`` counts them."""

    ids: NDArray[np.uint8]
    """The ids in UTF-8, one behind the other."""

    id_ends: NDArray[np.int64]
    """[N] where each id ends in ``ids``."""

    blocks: NDArray[np.uint8]
    """The manifest's lines in blocks, each compressed with zlib."""

    block_ends: NDArray[np.int64]
    """Where each block ends in ``blocks``."""

    def where(self, position: int) -> str:
        """Names one cut in messages."""
        return f"{self.path}: cut number {position + 1}"

    def id(self, position: int) -> str:
        """The id of one cut."""
        start = self.id_ends[position - 1] if position else 0
        return self.ids[start : self.id_ends[position]].tobytes().decode("utf-8")

    def block(self, number: int) -> list[bytes]:
        """The lines of one block."""
        start = self.block_ends[number - 1] if number else 0
        try:
            block = self.blocks[start : self.block_ends[number]].tobytes()
            return zlib.decompress(block).split(b"\n")
        except zlib.error as error:
            raise ManifestError(
                f"{index_path(self.path)}: is damaged ({error}); delete it, it is made again."
            ) from None


ARRAYS = tuple(f.name for f in fields(ManifestIndex) if f.name not in ("path", "manifest_hash"))
"""The arrays that the file holds, under the names of the fields."""


def index_path(path: Path) -> Path:
    """Where the index of a manifest lies: ``cuts.jsonl.gz.index`` beside ``cuts.jsonl.gz``, and
    ``shar.index`` beside the folder ``shar``."""
    return path.with_name(f"{path.name}.index")


def open_index(path: Path) -> ManifestIndex:
    """The index of the manifest at ``path``; made where it is missing, stale or damaged."""
    file = index_path(path)
    try:
        manifest_hash = hash_manifest(path)
    except OSError:
        next(read_lines(path), None)  # says what is wrong with the manifest
        raise
    index = _read(file, path, manifest_hash)
    if index is not None:
        return index
    index = build_index(path, manifest_hash)
    try:
        with atomic_path(file) as temporary:
            save_file(
                {name: getattr(index, name) for name in ARRAYS},
                temporary,
                _stamp(manifest_hash),
            )
    except (OSError, SafetensorError) as error:
        logger.warning(
            "%s: cannot be written (%s); the manifest is read again at each start", file, error
        )
        return index
    return _read(file, path, manifest_hash) or index


def build_index(path: Path, manifest_hash: str) -> ManifestIndex:
    """Reads a manifest whole and indexes it in memory. Raises ``ManifestError``.

    ``manifest_hash`` is from before the reading: an index of a manifest that is replaced meanwhile
    is found to be stale, and made again.
    """
    durations, rates, hashes = array("d"), array("q"), array("q")
    ids, id_ends = bytearray(), array("q")
    blocks, block_ends = bytearray(), array("q")
    waiting: list[str] = []

    def close_block() -> None:
        blocks.extend(zlib.compress("\n".join(waiting).encode("utf-8"), 1))
        block_ends.append(len(blocks))
        waiting.clear()

    for number, line in read_lines(path):
        cut_id, duration, rate = _summary(line, f"{path}: line {number}", path.parent)
        durations.append(duration)
        rates.append(rate)
        hashes.append(hash(cut_id))
        ids += cut_id.encode("utf-8")
        id_ends.append(len(ids))
        waiting.append(line.strip())
        if len(waiting) == BLOCK_CUTS:
            close_block()
    if waiting:
        close_block()
    if not durations:
        raise no_cuts(path)
    seconds = np.frombuffer(durations)
    index = ManifestIndex(
        path,
        manifest_hash=manifest_hash,
        durations=seconds,
        samples=_samples(seconds, np.frombuffer(rates, np.int64)),
        ids=np.frombuffer(ids, np.uint8),
        id_ends=np.frombuffer(id_ends, np.int64),
        blocks=np.frombuffer(blocks, np.uint8),
        block_ends=np.frombuffer(block_ends, np.int64),
    )
    _check_ids(index, np.frombuffer(hashes, np.int64))
    return index


def _check_ids(index: ManifestIndex, hashes: NDArray[np.int64]) -> None:
    """Raises ``ManifestError`` if an id repeats; reads only the ids whose [N] hashes do."""
    order = np.argsort(hashes, kind="stable")
    again = np.flatnonzero(np.diff(hashes[order]) == 0)
    seen: set[str] = set()
    for position in sorted({*order[again].tolist(), *order[again + 1].tolist()}):
        if (cut_id := index.id(position)) in seen:
            raise repeated_id(index.where(position), cut_id)
        seen.add(cut_id)


def _stamp(manifest_hash: str) -> dict[str, str]:
    """What the file of an index says about its origin."""
    return {"made from": f"manifest {manifest_hash}, layout {LAYOUT}"}


def _read(file: Path, path: Path, manifest_hash: str) -> ManifestIndex | None:
    """The index in ``file`` if it is whole and was made from the manifest with that hash."""
    try:
        stored: Any = safe_open(file, framework="pt")  # "pt" maps the file, "numpy" copies it
        if stored.metadata() != _stamp(manifest_hash):
            return None
        arrays = {name: stored.get_tensor(name).numpy() for name in ARRAYS}
        return ManifestIndex(path, manifest_hash, **arrays)
    except (OSError, SafetensorError):
        return None


def _summary(line: str, where: str, folder: Path) -> tuple[str, float, int]:
    """(id, seconds, samples per second) of a line; only an unusual one is parsed as a cut."""
    data = parse_json(line, where)
    try:
        cut_id, duration, rate = data["id"], data["duration"], data["recording"]["sampling_rate"]
        usual = 0 < duration < math.inf and rate > 0 and data["start"] >= 0 and data["channel"] >= 0
    except (KeyError, TypeError):
        usual = False
    if not usual or not isinstance(cut_id, str) or not isinstance(rate, int):
        cut = parse_cut(line, where, folder)  # raises what is wrong
        return cut.id, cut.duration, cut.sampling_rate
    return cut_id, duration, rate


def _samples(seconds: NDArray[np.float64], rates: NDArray[np.int64]) -> NDArray[np.int64]:
    """[N] samples at 16 kHz, as ``data.audio.cut_samples`` (and Lhotse below it) counts them."""
    stored = np.floor(np.round(seconds * rates, 8) + 0.5).astype(np.int64)  # at the own rate
    samples: NDArray[np.int64] = -(-stored * SAMPLE_RATE // rates)
    return samples
