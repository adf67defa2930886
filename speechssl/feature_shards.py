"""Features of a corpus on disk, in Lhotse's Shar format (``lhotse.CutSet.from_shar``).

``<out>/settings.json``
    what the features are (``FeatureSettings``)
``<out>/shar/cuts.000000.jsonl.gz``
    the cuts of the first shard, as they are in the manifest; ``cuts.000001.jsonl.gz`` and so on
``<out>/shar/layer_4.000000.tar``
    for each of these cuts its frames [T, D] as ``.npy``, and their description for Lhotse

A shard holds neighbours in the manifest, the longest first. It appears whole, its cuts last, so an
interrupted run goes on with the first shard that is missing.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from lhotse import MonoCut
from lhotse.array import Array, TemporalArray
from lhotse.shar.writers.tar import TarWriter
from numpy.typing import NDArray
from torch import Tensor

from speechssl.config import require
from speechssl.data.index import Cuts
from speechssl.data.manifest import hash_manifest, save_cuts
from speechssl.errors import ManifestError, RunFolderError
from speechssl.extraction import SORTED_TOGETHER, ModelLayers, extract
from speechssl.files import write_text
from speechssl.frames import FRAME_RATE

SETTINGS, SHAR = "settings.json", "shar"


@dataclass(frozen=True)
class FeatureSettings:
    """What the features in a folder are."""

    model: str
    """SHA-256 of the model's weights."""

    layers: list[int]
    manifest: str
    """SHA-256 of the manifest."""

    dtype: Literal["float32", "float16"] = "float32"
    frame_rate: int = FRAME_RATE
    cuts_per_shard: int = SORTED_TOGETHER

    def __post_init__(self) -> None:
        require(len(self.layers) > 0, "layers", "at least one", self.layers)
        distinct = len(set(self.layers)) == len(self.layers)
        require(distinct, "layers", "different ones", self.layers)


def write_features(
    model: Path,
    manifest: Path,
    out: Path,
    layers: Sequence[int],
    *,
    dtype: Literal["float32", "float16"] = "float32",
) -> int:
    """Writes the hidden states of ``layers`` of a model folder for all cuts of a manifest.

    Shards that are there already stay; returns the number of cuts that were written. Cuts that are
    shorter than a frame, or cannot be read (at most 1 %), are left out. Raises ``RunFolderError``
    if ``out`` holds something else, ``ConfigError`` for a layer that the model does not have,
    ``ManifestError`` for ids that Lhotse would not find again, and what reading models, manifests
    and audio raises.
    """
    features = ModelLayers(model, layers)
    cuts = Cuts.open(manifest)
    _check_ids(cuts)
    settings = FeatureSettings(features.name, features.layers, hash_manifest(manifest), dtype)
    _claim(out, settings)
    shards = _missing_shards(out, np.flatnonzero(cuts.frames > 0))
    if not shards:
        return 0
    batches = extract(cuts.select(np.concatenate(list(shards.values()))), features, "features")
    ids, states = next(batches, ([], []))
    written = 0
    for number, places in shards.items():
        members = {cut.id: cut for cut in cuts.select(places)}
        with ShardWriter(out, number, settings) as shard:
            while ids and ids[0] in members:  # no batch is of two shards
                for cut_id, layers_of_cut in zip(ids, states):
                    shard.write(members[cut_id], layers_of_cut)
                written += len(ids)
                ids, states = next(batches, ([], []))
    return written


class ShardWriter:
    """Writes the cuts of one shard and their features; the files appear when all is written."""

    def __init__(self, out: Path, number: int, settings: FeatureSettings) -> None:
        self._out, self._number, self._settings = out, number, settings
        self._cuts: list[MonoCut] = []
        self._stack = ExitStack()

    def __enter__(self) -> ShardWriter:
        folder = tempfile.TemporaryDirectory(dir=self._out, prefix=".tmp-shard-")
        self._folder = Path(self._stack.enter_context(folder))
        self._tars = [
            TarWriter(str(self._folder / f"layer_{layer}.tar"), shard_size=None)
            for layer in self._settings.layers
        ]
        return self

    def write(self, cut: MonoCut, layers: Sequence[Tensor]) -> None:
        """Adds a cut and its frames, [T, D] for each layer."""
        self._cuts.append(cut)
        for tar, frames in zip(self._tars, layers):
            stream = io.BytesIO()
            np.save(stream, frames.numpy().astype(self._settings.dtype), allow_pickle=False)
            tar.write(f"{cut.id}.npy", stream)
            described = io.BytesIO(json.dumps(_manifest(cut, frames)).encode())
            tar.write(f"{cut.id}.json", described, count=False)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            for tar in self._tars:
                tar.close()
            if kind is None and self._cuts:
                for layer in self._settings.layers:
                    name = f"layer_{layer}.{self._number:06d}.tar"
                    os.replace(self._folder / f"layer_{layer}.tar", self._out / SHAR / name)
                save_cuts(self._cuts, _cuts_file(self._out, self._number))


def _manifest(cut: MonoCut, frames: Tensor) -> dict[str, Any]:
    """What Lhotse wants to know about the frames [T, D] of a cut.

    Lhotse's own ``ArrayTarWriter`` says that they begin with the recording, not with the cut.
    """
    array = Array(storage_type=SHAR, storage_path="", storage_key="", shape=list(frames.shape))
    shift = 1 / FRAME_RATE
    described = TemporalArray(array, temporal_dim=0, frame_shift=shift, start=cut.start)
    return dict(described.to_dict())


def _missing_shards(out: Path, places: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """The places of the cuts of each shard that is not there yet, by its number."""
    shards = np.split(places, range(SORTED_TOGETHER, len(places), SORTED_TOGETHER))
    return {
        number: members
        for number, members in enumerate(shards)
        if len(members) and not _cuts_file(out, number).is_file()
    }


def _check_ids(cuts: Cuts) -> None:
    """Lhotse finds features by the path in the tar, which is no longer the id where that has "//",
    "./" or a "/" at its end. Raises ``ManifestError`` for the first."""
    for cut_id in cuts.ids():
        file = PurePosixPath(f"{cut_id}.npy")
        if (file.suffix, str(file.parent / file.stem)) != (".npy", cut_id):
            raise ManifestError(
                f"{cuts.path}: cut {cut_id!r}: Lhotse cannot read features of an id that is no "
                "plain path; give ids without '//', './' and '/' at the end."
            )


def _cuts_file(out: Path, number: int) -> Path:
    return out / SHAR / f"cuts.{number:06d}.jsonl.gz"


def _claim(out: Path, settings: FeatureSettings) -> None:
    """Makes ``out`` a folder of such features. Raises ``RunFolderError`` if it holds others."""
    file, wanted = out / SETTINGS, asdict(settings)
    if file.is_file():
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        found = found if isinstance(found, dict) else {}
        changed = [key for key, value in wanted.items() if found.get(key) != value]
        if changed:
            raise RunFolderError(
                f"{out}: holds features with other settings ({', '.join(changed)}); choose another "
                "folder, or remove this one."
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunFolderError(f"{out}: exists and holds no features; choose another folder.")
    (out / SHAR).mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(wanted, indent=2) + "\n")
