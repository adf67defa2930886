"""k-means targets for cluster prediction: one codebook for all splits, and its quality.

1. ``extract``         cuts -> frames: MFCC (first iteration), or a layer of a model (further ones);
                       see ``speechssl.extraction``
2. ``FrameSample``     the frames -> as many, drawn at random, as the memory allows
3. ``fit_kmeans``      sampled frames -> centroids
4. ``assign``          every frame -> its nearest centroid
5. ``quality``         frames per cluster, perplexity, and purity where alignments are known

Frames are computed when they are needed, for the sample and again for the labels, and never all
kept: memory is the sample and a few batches, whatever the hours.

Source: HuBERT (Hsu et al. 2021, arXiv 2106.07447), sections II-B and IV-B.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from speechssl.config import require
from speechssl.data.alignments import aligned_units
from speechssl.data.index import Cuts
from speechssl.data.manifest import cuts_path
from speechssl.data.targets import (
    FrameTargets,
    TargetsMeta,
    codebook_path,
    targets_path,
    write_targets,
)
from speechssl.errors import TargetsError
from speechssl.extraction import (
    FRAMES_TOGETHER,
    LayerFeatures,
    MfccFeatures,
    draw_places,
    extract,
)
from speechssl.files import atomic_path, sha256, write_text
from speechssl.frames import FRAME_RATE

INIT_FRAMES = 20_000
"""Sampled frames, or 16 a cluster if that is more, among which k-means++ looks for the first
centroids; among all of them it takes longer than k-means itself and finds no better ones."""

ROUND_ITERATIONS = 10
"""Iterations of k-means between two looks at the error."""

MAX_ROUNDS = 10
"""Rounds after which k-means stops in any case."""

MIN_GAIN = 1e-3
"""k-means stops when the error falls by a smaller share in a round."""


@dataclass(frozen=True)
class LabelConfig:
    """What to cluster, and into how many clusters."""

    clusters: int
    features: Literal["mfcc", "model"] = "mfcc"
    model: Path | None = None
    layer: int | None = None
    seed: int = 0
    fit_hours: float = 100.0
    """Hours of audio, drawn at random, from whose frames the sample for k-means is drawn; time."""
    fit_mb: float = 250.0
    """Megabytes of sampled frames that k-means is fitted to; memory."""

    def __post_init__(self) -> None:
        require(2 <= self.clusters <= 65_535, "clusters", "between 2 and 65535", self.clusters)
        require(self.fit_hours > 0, "fit_hours", "positive", self.fit_hours)
        require(0 < self.fit_mb < math.inf, "fit_mb", "positive", self.fit_mb)
        if self.features == "model":
            require(self.model is not None, "model", "a model folder", self.model)
            require(self.layer is not None, "layer", "the number of a layer", self.layer)
        else:
            require(self.layer is None, "layer", "left out without a model", self.layer)


def make_features(config: LabelConfig) -> MfccFeatures | LayerFeatures:
    """The feature extractor that ``config`` names. Raises ``ConfigError``, ``ModelFolderError``."""
    if config.features == "mfcc":
        return MfccFeatures()
    assert config.model is not None
    assert config.layer is not None
    return LayerFeatures(config.model, config.layer)


def label(
    data_dir: Path, name: str, splits: list[str], config: LabelConfig, *, overwrite: bool = False
) -> dict[str, Any]:
    """Fits one codebook on train and writes the targets of every split; returns the report.

    The first of ``splits`` is the one that the codebook is fitted on. With a codebook of the same
    settings already there, only splits that are missing or have another manifest are labelled.
    Raises ``TargetsError`` where other targets of that name are in the way, ``ManifestError`` and
    ``AudioError`` for bad cuts.
    """
    codebook_file = codebook_path(data_dir, name)
    manifests = {split: Cuts.open(cuts_path(data_dir, split)) for split in splits}
    features = make_features(config)
    settings = {
        **asdict(config),
        "model": None if config.features == "mfcc" else features.name,
        "fitted_on": manifests[splits[0]].manifest_hash,
    }
    if codebook_file.exists() and not overwrite:
        _check_settings(codebook_file, settings)
    else:
        centroids = fit_codebook(manifests[splits[0]], features, config)
        _save_codebook(codebook_file, centroids, settings)
        for split in splits:
            targets_path(data_dir, split, name).unlink(missing_ok=True)
    codebook = load_codebook(codebook_file)
    report: dict[str, Any] = {"name": name, **settings, "splits": {}}
    usage = {}
    for split, cuts in manifests.items():
        path = targets_path(data_dir, split, name)
        meta = TargetsMeta(
            codebook=sha256(codebook_file),
            manifest=cuts.manifest_hash,
            features=features.name,
            layer=features.layer,
            clusters=len(codebook),
            frame_rate=FRAME_RATE,
        )
        if not (path.is_file() and FrameTargets.load(path).meta == meta):
            write_targets(path, meta, label_cuts(cuts, features, codebook, f"labels of {split}"))
        targets = FrameTargets.load(path)
        usage[split] = targets.usage()
        report["splits"][split] = quality(targets, cuts, usage[split])
    write_text(data_dir / f"targets-{name}.report.json", json.dumps(report, indent=2) + "\n")
    draw_usage(data_dir / f"targets-{name}.png", name, usage)
    return report


def fit_codebook(cuts: Cuts, features: MfccFeatures | LayerFeatures, config: LabelConfig) -> Tensor:
    """Centroids [K, D] float32, fitted to a random sample of the frames of randomly drawn cuts.

    Raises ``TargetsError`` when there are fewer frames than clusters.
    """
    chosen = cuts.select(draw_places(cuts, config.fit_hours, config.seed))
    sample = FrameSample(config.fit_mb, config.seed)
    for _, frames in extract(chosen, features, "frames for k-means"):
        sample.add(torch.cat(frames).numpy())
    if len(sample.frames) < config.clusters:
        raise TargetsError(
            f"{len(sample.frames)} frames are too few for {config.clusters} clusters; use fewer "
            f"clusters, more audio, or more memory (fit_mb)."
        )
    return torch.from_numpy(fit_kmeans(sample.frames, config.clusters, config.seed))


class FrameSample:
    """A sample of a stream of frames, drawn uniformly, in at most ``megabytes`` of memory.

    Reservoir sampling (Vitter 1985, algorithm R): the first frames fill the sample, and frame
    number n after them replaces a random one with probability size / n.
    """

    def __init__(self, megabytes: float, seed: int) -> None:
        self._bytes = int(megabytes * 1e6)
        self._rng = np.random.default_rng(seed)
        self._rows: NDArray[np.float32] = np.empty((0, 0), np.float32)
        self.seen = 0

    @property
    def frames(self) -> NDArray[np.float32]:
        """[min(size, seen), D]"""
        return self._rows[: self.seen]

    def add(self, frames: NDArray[np.float32]) -> None:
        """Takes the next frames [T, D] of the stream; D is the same in all calls."""
        if self.seen == 0:
            width = frames.shape[1]
            self._rows = np.empty((self._bytes // (4 * width), width), np.float32)
        numbers = np.arange(self.seen, self.seen + len(frames))
        draws = (self._rng.random(len(frames)) * (numbers + 1)).astype(np.int64)
        places = np.where(numbers < len(self._rows), numbers, draws)
        kept = places < len(self._rows)
        self._rows[places[kept]] = frames[kept]  # of frames with one place, the last stays
        self.seen += len(frames)


def fit_kmeans(frames: NDArray[np.float32], clusters: int, seed: int) -> NDArray[np.float32]:
    """Centroids [K, D] of frames [N, D], N >= K; changes ``frames`` by rounding errors.

    Lloyd's algorithm from a k-means++ start (Arthur and Vassilvitskii 2007). A cluster that loses
    its last frame gets the one farthest from its centroid.
    """
    from sklearn.cluster import KMeans, kmeans_plusplus

    rng = np.random.default_rng(seed)
    candidates = min(len(frames), max(INIT_FRAMES, 16 * clusters))
    some = frames[np.sort(rng.choice(len(frames), candidates, replace=False))]
    centroids, _ = kmeans_plusplus(some, clusters, random_state=seed)
    error = math.inf
    with tqdm(total=MAX_ROUNDS * ROUND_ITERATIONS, desc="k-means", disable=None) as bar:
        for _ in range(MAX_ROUNDS):
            kmeans = KMeans(
                clusters,
                init=centroids,
                n_init=1,
                max_iter=ROUND_ITERATIONS,
                tol=0,
                copy_x=False,
                random_state=seed,
            ).fit(frames)
            centroids = kmeans.cluster_centers_
            bar.update(ROUND_ITERATIONS)
            bar.set_postfix({"error per frame": f"{kmeans.inertia_ / len(frames):.4f}"})
            if kmeans.inertia_ > (1 - MIN_GAIN) * error:
                break
            error = kmeans.inertia_
    return np.asarray(centroids, np.float32)


def assign(frames: Tensor, codebook: Tensor) -> Tensor:
    """The nearest centroid of each frame: [T, D] and [K, D] -> [T] int64.

    |f - c|^2 = |f|^2 - 2 f.c + |c|^2, of which |f|^2 does not matter.
    """
    squares = codebook.square().sum(1)
    return torch.cat(
        [
            torch.addmm(squares, some, codebook.T, alpha=-2).argmin(1)
            for some in torch.split(frames, FRAMES_TOGETHER)
        ]
    )


def label_cuts(
    cuts: Cuts, features: MfccFeatures | LayerFeatures, codebook: Tensor, what: str
) -> Iterator[tuple[str, NDArray[np.uint16]]]:
    """(cut id, clusters [T]) of every cut; unreadable ones are left out (at most 1 %)."""
    for ids, frames in extract(cuts, features, what):
        clusters = assign(torch.cat(frames), codebook).numpy().astype(np.uint16)
        ends = np.cumsum([len(part) for part in frames])
        yield from zip(ids, np.split(clusters, ends[:-1]))


def quality(targets: FrameTargets, cuts: Cuts, usage: NDArray[np.int64]) -> dict[str, Any]:
    """Frames per cluster, perplexity, and purities where cuts carry phone alignments.

    ``usage`` [K] are the frames of each cluster.
    """
    shares = usage[usage > 0] / usage.sum()
    result: dict[str, Any] = {
        "cuts": len(targets),
        "frames": int(usage.sum()),
        "frames_per_cluster": {
            "min": int(usage.min()),
            "median": float(np.median(usage)),
            "max": int(usage.max()),
        },
        "empty_clusters": int((usage == 0).sum()),
        "perplexity": round(float(np.exp(-(shares * np.log(shares)).sum())), 2),
    }
    counts = count_aligned(targets, cuts)
    if counts.sum() > 0:
        result.update(purity(counts))
    return result


def count_aligned(targets: FrameTargets, cuts: Cuts) -> NDArray[np.int64]:
    """[units, K] frames of each unit of the cuts' ``phone`` alignments in each cluster."""
    counts: dict[str, NDArray[np.int64]] = {}
    for cut in tqdm(cuts, desc="alignments", unit="cut", delay=2, disable=None):
        units = list(aligned_units(cut, "phone"))
        if not units or cut.id not in targets:
            continue
        clusters = targets[cut.id].numpy()
        for symbol, first, stop in units:
            row = counts.setdefault(symbol, np.zeros(targets.meta.clusters, np.int64))
            np.add.at(row, clusters[first:stop], 1)
    return np.array([counts[unit] for unit in sorted(counts)], np.int64)


def purity(counts: NDArray[np.int64]) -> dict[str, float]:
    """Agreement of units and clusters, from the [units, K] frames that have both (HuBERT, IV-F).

    ``cluster_purity``: share of frames whose unit's best cluster is theirs; ``phone_purity``:
    share whose cluster's best unit is theirs; ``pnmi``: information about the unit that the
    cluster gives, I(unit; cluster) / H(unit).
    """
    joint = counts[counts.sum(1) > 0] / counts.sum()
    by_unit, by_cluster = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    nonzero = joint > 0
    mutual = (joint[nonzero] * np.log(joint[nonzero] / (by_unit @ by_cluster)[nonzero])).sum()
    entropy = -(by_unit * np.log(by_unit)).sum()
    return {
        "aligned_frames": int(counts.sum()),
        "phone_purity": round(float(joint.max(0).sum()), 4),
        "cluster_purity": round(float(joint.max(1).sum()), 4),
        "pnmi": round(float(mutual / entropy) if entropy > 0 else 0.0, 4),
    }


def draw_usage(path: Path, name: str, usage: dict[str, NDArray[np.int64]]) -> None:
    """Draws the share of frames of each cluster, largest first, one line per split.

    ``usage`` holds, for each split, the frames [K] of each cluster.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for split, frames in usage.items():
        total = frames.sum()
        axes.plot(100 * np.sort(frames)[::-1] / max(1, total), label=f"{split} ({total:,} frames)")
    clusters = max(len(frames) for frames in usage.values())
    axes.axhline(100 / clusters, color="grey", linestyle=":", label="all equal")
    axes.set(
        xlabel="cluster, by size",
        ylabel="share of frames (%)",
        title=f"Cluster targets {name!r}",
        ylim=(0, None),
    )
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)


def load_codebook(path: Path) -> Tensor:
    """The centroids [K, D] of a codebook file. Raises ``TargetsError`` where it is none."""
    try:
        with safe_open(path, framework="pt") as stored:
            centroids: Tensor = stored.get_tensor("centroids")
            return centroids
    except (OSError, SafetensorError) as error:
        raise TargetsError(
            f"{path}: is not a codebook ({error}); label the corpus again."
        ) from None


def _save_codebook(path: Path, centroids: Tensor, settings: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        save_file({"centroids": centroids}, temporary, {"settings": json.dumps(settings)})


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Raises ``TargetsError`` where the codebook at ``path`` was made with other settings."""
    try:
        with safe_open(path, framework="pt") as stored:
            found = json.loads((stored.metadata() or {}).get("settings", "{}"))
    except (OSError, SafetensorError) as error:
        raise TargetsError(f"{path}: is not a codebook ({error}); remove it.") from None
    changed = [key for key, value in settings.items() if found.get(key) != value]
    if changed:
        raise TargetsError(
            f"{path}: was made with other settings ({', '.join(changed)}); choose another --name "
            f"or pass --overwrite."
        )
