"""Frame targets: one cluster per frame of every cut, on disk and in memory.

``<data>/<split>/targets-<name>.npz`` holds, without pickle: ``values`` uint16 [all frames],
``offsets`` int64 [cuts + 1], ``ids`` (text), and ``meta`` (JSON: codebook hash, features, layer,
clusters, frame rate). The codebook itself lies at ``<data>/targets-<name>.codebook.safetensors``.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechssl.data.audio import cut_samples
from speechssl.errors import TargetsError
from speechssl.files import atomic_path, sha256
from speechssl.frames import FRAME_RATE, num_frames


@dataclass(frozen=True)
class TargetsMeta:
    """What the targets of one split are."""

    codebook: str
    """SHA-256 of the codebook file; equal in all splits that were labelled together."""

    features: str
    """What was clustered: ``mfcc`` or the hash of a model folder's weights."""

    layer: int | None
    """The transformer layer that was clustered, None for ``mfcc``."""

    clusters: int
    """Number of clusters K."""

    frame_rate: int
    """Frames per second."""


class FrameTargets:
    """The targets of one split: ``targets[cut_id]`` is int64 [T]."""

    def __init__(
        self, meta: TargetsMeta, ids: Sequence[str], offsets: np.ndarray, values: np.ndarray
    ) -> None:
        self.meta = meta
        self.values = values
        self._spans = {
            id_: (int(start), int(end)) for id_, start, end in zip(ids, offsets[:-1], offsets[1:])
        }

    @classmethod
    def from_labels(cls, meta: TargetsMeta, labels: dict[str, np.ndarray]) -> FrameTargets:
        """Collects ``{cut id: integers [T]}``."""
        lengths = [len(label) for label in labels.values()]
        values = np.concatenate([*labels.values(), np.zeros(0, np.uint16)]).astype(np.uint16)
        return cls(meta, list(labels), np.cumsum([0, *lengths]), values)

    def __getitem__(self, cut_id: str) -> Tensor:
        start, end = self._spans[cut_id]
        return torch.from_numpy(self.values[start:end].astype(np.int64))

    def __contains__(self, cut_id: str) -> bool:
        return cut_id in self._spans

    def __len__(self) -> int:
        return len(self._spans)

    def num_frames(self, cut_id: str) -> int:
        """Frames of one cut's targets."""
        start, end = self._spans[cut_id]
        return end - start

    def save(self, path: Path | str) -> None:
        """Writes the targets to ``path`` (.npz), atomically."""
        starts = [start for start, _ in self._spans.values()]
        with atomic_path(path) as temporary:
            np.savez_compressed(
                temporary,
                values=self.values,
                offsets=np.array([*starts, len(self.values)], dtype=np.int64),
                ids=np.array(list(self._spans), dtype=np.str_),
                meta=np.array(json.dumps(asdict(self.meta))),
            )

    @classmethod
    def load(cls, path: Path | str) -> FrameTargets:
        """Reads a file that ``save`` wrote. Raises ``TargetsError`` where it is none."""
        path = Path(path)
        if not path.is_file():
            raise TargetsError(f"{path}: no such targets; make them with `speechssl label`.")
        try:
            with np.load(path, allow_pickle=False) as stored:
                meta = TargetsMeta(**json.loads(str(stored["meta"])))
                ids = [str(id_) for id_ in stored["ids"]]
                return cls(meta, ids, stored["offsets"], stored["values"])
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise TargetsError(
                f"{path}: is not a targets file ({error}); make it again with `speechssl label`."
            ) from None

    def check(self, cuts: Iterable[Any], path: Path, codebook: Path) -> None:
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
        for cut in cuts:
            if cut.id not in self:
                raise TargetsError(f"{path}: has no targets for cut {cut.id!r}; {again}.")
            expected, frames = cut_frames(cut), self.num_frames(cut.id)
            if expected != frames:
                raise TargetsError(
                    f"{path}: cut {cut.id!r} has {expected} frames but {frames} targets; {again}."
                )


def targets_path(data_dir: Path | str, split: str, name: str) -> Path:
    """Where the targets called ``name`` of ``split`` lie."""
    return Path(data_dir) / split / f"targets-{name}.npz"


def codebook_path(data_dir: Path | str, name: str) -> Path:
    """Where the codebook of the targets called ``name`` lies."""
    return Path(data_dir) / f"targets-{name}.codebook.safetensors"


def cut_frames(cut: Any) -> int:
    """Frames of a cut."""
    return num_frames(cut_samples(cut))
