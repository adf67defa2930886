"""The vectors of every layer for chosen utterances or frames, on disk: memory is one layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from speechssl.data.index import Cuts
from speechssl.extraction import LogMelFeatures, ModelLayers, extract
from speechssl.probing.labels import Labelled

Matrix = NDArray[np.float32]


class ProbedLayers:
    """Log-mels, which a layer should beat, and all layers of a model."""

    def __init__(self, model: Path) -> None:
        self._mels = LogMelFeatures()
        self._model = ModelLayers(model)
        self.names = ["log-mel", *map(str, self._model.layers)]
        self.widths = [self._mels.dim, *[self._model.dim] * len(self._model.layers)]
        self.model_hash = self._model.name

    def __call__(self, waveforms: list[Tensor]) -> list[list[Tensor]]:
        """[S] waveforms -> for each its layers, [T, D] each, in the order of ``names``."""
        pairs = zip(self._mels(waveforms), self._model(waveforms))
        return [[mels, *layers] for mels, layers in pairs]


@dataclass(frozen=True)
class Vectors:
    """N examples as each layer sees them."""

    labels: NDArray[np.str_]
    """[N]"""

    utterances: NDArray[np.int64]
    """[N] the number of the utterance that an example is from, without gaps."""

    files: list[Path]
    """One for each layer."""

    rows: NDArray[np.int64]
    """[N] where the examples are in the files."""

    def layers(self) -> Iterator[Matrix]:
        """[N, D] of one layer after the other, each read when it is due."""
        for file in self.files:
            yield np.load(file, mmap_mode="r")[self.rows]


def compute_vectors(
    cuts: Cuts, items: Sequence[Labelled], layers: ProbedLayers, folder: Path, what: str
) -> Vectors:
    """Writes what every layer says about ``items`` to ``folder``.

    An utterance is the mean of its frames, as in SUPERB (Yang et al. 2021, arXiv 2105.01051).
    Unreadable cuts are left out, at most 1 %; more raise ``AudioError``.
    """
    sizes = [len(item.labels) for item in items]
    ends = np.cumsum(sizes)
    owners = np.repeat(np.arange(len(items)), sizes)
    numbers = {item.cut_id: number for number, item in enumerate(items)}
    files = [folder / f"{what}-{name}.npy" for name in layers.names]
    arrays = [
        np.lib.format.open_memmap(file, "w+", np.float32, (int(ends[-1]), width))
        for file, width in zip(files, layers.widths)
    ]
    found = np.zeros(len(items), bool)
    places = np.array(sorted(item.place for item in items))
    for ids, recordings in extract(cuts.select(places), layers, f"features of {what}"):
        for cut_id, states in zip(ids, recordings):
            number = numbers[cut_id]
            item, end = items[number], ends[number]
            for array, frames in zip(arrays, states):
                array[end - sizes[number] : end] = _chosen(frames, item)
            found[number] = True
    rows = np.flatnonzero(found[owners])
    labels = np.array([label for item in items for label in item.labels])[rows]
    return Vectors(labels, (np.cumsum(found) - 1)[owners[rows]], files, rows)


def _chosen(frames: Tensor, item: Labelled) -> Matrix:
    """The vectors of ``item``, [1, D] or [len(labels), D], from its ``frames`` [T, D]."""
    states: Matrix = frames.numpy()
    return states.mean(0, keepdims=True) if item.frames is None else states[item.frames]
