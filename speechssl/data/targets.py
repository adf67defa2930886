"""Frame targets: one cluster per frame of every cut, on disk, read where they are needed.

``<data>/<split>/targets-<name>.safetensors`` is opened as a memory map, so a million cuts open at
once. It holds, for N cuts with F frames together:

- ``values`` uint16 [F]: the cluster of each frame, cut after cut.
- ``keys`` int64 [N], ascending: the ids, each as the first 8 bytes of its BLAKE2b hash.
- ``spans`` int64 [N, 2]: where the frames of each key begin and end in ``values``.
- the metadata ``meta`` (JSON): ``TargetsMeta``.

The codebook itself lies at ``<data>/targets-<name>.codebook.safetensors``.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from array import array
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from speechssl.data.audio import cut_samples
from speechssl.data.index import Cuts
from speechssl.errors import TargetsError
from speechssl.files import atomic_path, sha256
from speechssl.frames import FRAME_RATE, num_frames

CHECKED_TOGETHER = 65_536
"""Cuts that ``FrameTargets.check`` looks up in one go."""

COUNTED_TOGETHER = 1 << 22
"""Frames that ``FrameTargets.usage`` counts in one go."""


@dataclass(frozen=True)
class TargetsMeta:
    """What the targets of one split are."""

    codebook: str
    """SHA-256 of the codebook file; equal in all splits that were labelled together."""

    manifest: str
    """SHA-256 of the ``cuts.jsonl.gz`` that was labelled."""

    features: str
    """What was clustered: ``mfcc`` or the hash of a model folder's weights."""

    layer: int | None
    """The transformer layer that was clustered, None for ``mfcc``."""

    clusters: int
    """Number of clusters K."""

    frame_rate: int
    """Frames per second."""


class FrameTargets:
    """The targets of one split: ``targets[cut_id]`` is int64 [T]. Threads may share it."""

    def __init__(self, meta: TargetsMeta, keys: Tensor, spans: Tensor, values: Tensor) -> None:
        """Takes what the file holds; raises ``ValueError`` where it does not fit together."""
        layout = [(t.dtype, tuple(t.shape)) for t in (keys, spans, values)]
        cuts, frames = len(keys), len(values)
        if layout != [
            (torch.int64, (cuts,)),
            (torch.int64, (cuts, 2)),
            (torch.uint16, (frames,)),
        ]:
            raise ValueError("its arrays have other types or shapes")
        self.meta = meta
        self._keys: NDArray[np.int64] = keys.numpy()
        self._spans: NDArray[np.int64] = spans.numpy()
        self._values: NDArray[np.uint16] = values.numpy()
        starts, ends = self._spans.T
        if (
            (self._keys[1:] <= self._keys[:-1]).any()
            or (starts > ends).any()
            or (starts < 0).any()
            or (ends > frames).any()
        ):
            raise ValueError("its table of cuts is damaged")

    @classmethod
    def load(cls, path: Path | str) -> FrameTargets:
        """Opens a file that ``write_targets`` wrote. Raises ``TargetsError`` where it is none."""
        path = Path(path)
        if not path.is_file():
            raise TargetsError(f"{path}: no such targets; make them with `speechssl label`.")
        try:
            with safe_open(path, framework="pt") as stored:  # "pt" maps, "numpy" would read it all
                meta = TargetsMeta(**json.loads((stored.metadata() or {})["meta"]))
                return cls(meta, *(stored.get_tensor(n) for n in ("keys", "spans", "values")))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise TargetsError(
                f"{path}: is not a targets file ({error}); make it again with "
                f"`speechssl label --overwrite`."
            ) from None

    def __getitem__(self, cut_id: str) -> Tensor:
        (row,) = self._rows([cut_id])
        if row < 0:
            raise KeyError(cut_id)
        start, end = self._spans[row]
        return torch.from_numpy(self._values[start:end].astype(np.int64))

    def __contains__(self, cut_id: str) -> bool:
        return bool(self._rows([cut_id])[0] >= 0)

    def __len__(self) -> int:
        return len(self._keys)

    def usage(self) -> NDArray[np.int64]:
        """[K] frames of each cluster."""
        usage = np.zeros(self.meta.clusters, np.int64)
        for start in range(0, len(self._values), COUNTED_TOGETHER):
            block = self._values[start : start + COUNTED_TOGETHER]
            usage += np.bincount(block, minlength=self.meta.clusters)
        return usage

    def check(self, cuts: Cuts, path: Path, codebook: Path) -> None:
        """Checks the targets against every cut and the codebook beside them.

        Raises ``TargetsError`` for another codebook or frame rate, a cut without targets, and a
        cut whose number of frames differs.
        """
        again = "label the corpus again with `speechssl label`"
        if self.meta.frame_rate != FRAME_RATE:
            raise TargetsError(
                f"{path}: has {self.meta.frame_rate} frames a second, the encoder {FRAME_RATE}; "
                f"{again}."
            )
        if not codebook.is_file():
            raise TargetsError(f"{codebook}: the codebook of {path.name} is missing; {again}.")
        if (found := sha256(codebook)) != self.meta.codebook:
            raise TargetsError(
                f"{path}: was made with another codebook ({self.meta.codebook[:12]}) than "
                f"{codebook.name} ({found[:12]}); {again}."
            )
        all_ids, all_frames = cuts.ids(), cuts.frames
        for start in range(0, len(cuts), CHECKED_TOGETHER):
            ids = list(islice(all_ids, CHECKED_TOGETHER))
            expected = all_frames[start : start + CHECKED_TOGETHER]
            rows = self._rows(ids)
            if (missing := rows < 0).any():
                cut_id = ids[int(missing.argmax())]
                raise TargetsError(f"{path}: has no targets for cut {cut_id!r}; {again}.")
            frames = self._spans[rows, 1] - self._spans[rows, 0]
            if (wrong := frames != expected).any():
                place = int(wrong.argmax())
                raise TargetsError(
                    f"{path}: cut {ids[place]!r} has {expected[place]} frames but "
                    f"{frames[place]} targets; {again}."
                )

    def _rows(self, cut_ids: Iterable[str]) -> NDArray[np.int64]:
        """The row of each id in ``keys`` and ``spans``, -1 where it has none."""
        wanted = np.array([id_key(cut_id) for cut_id in cut_ids], np.int64)
        rows = np.searchsorted(self._keys, wanted)
        found = rows < len(self._keys)
        found[found] = self._keys[rows[found]] == wanted[found]
        return np.where(found, rows, -1)


def write_targets(
    path: Path | str, meta: TargetsMeta, labels: Iterable[tuple[str, NDArray[Any]]]
) -> None:
    """Writes (cut id, clusters [T]) as they come to a targets file, atomically.

    Needs 24 bytes of memory a cut. Raises ``TargetsError`` where two cuts have one key.
    """
    path = Path(path)
    keys, ends = array("q"), array("q", [0])
    with (
        atomic_path(path) as temporary,
        tempfile.TemporaryFile(dir=path.parent) as stream,
    ):
        for cut_id, clusters in labels:
            stream.write(clusters.astype(np.uint16).tobytes())
            keys.append(id_key(cut_id))
            ends.append(ends[-1] + len(clusters))
        stream.flush()
        order = np.argsort(np.array(keys, np.int64), kind="stable")
        sorted_keys = np.array(keys, np.int64)[order]
        if (sorted_keys[1:] == sorted_keys[:-1]).any():
            raise TargetsError(f"{path}: two cuts have the same id; prepare the corpus again.")
        spans = np.stack([np.array(ends[:-1]), np.array(ends[1:])], axis=1)
        arrays = {
            "keys": sorted_keys,
            "spans": np.ascontiguousarray(spans[order]),
            "values": np.memmap(stream, np.uint16, "r") if ends[-1] else np.zeros(0, np.uint16),
        }
        save_file(arrays, temporary, {"meta": json.dumps(asdict(meta))})


def id_key(cut_id: str) -> int:
    """A 64-bit key of a cut's id, the same on every machine."""
    digest = hashlib.blake2b(cut_id.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def targets_path(data_dir: Path | str, split: str, name: str) -> Path:
    """Where the targets called ``name`` of ``split`` lie."""
    return Path(data_dir) / split / f"targets-{name}.safetensors"


def codebook_path(data_dir: Path | str, name: str) -> Path:
    """Where the codebook of the targets called ``name`` lies."""
    return Path(data_dir) / f"targets-{name}.codebook.safetensors"


def cut_frames(cut: Any) -> int:
    """Frames of a cut."""
    return num_frames(cut_samples(cut))
