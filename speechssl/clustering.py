"""k-means targets for cluster prediction: one codebook for all splits, and its quality.

1. ``features``        cuts -> frames: MFCC (first iteration), or a layer of a model (further ones)
2. ``fit_codebook``    a sample of frames -> centroids (scikit-learn's mini-batch k-means)
3. ``assign``          every frame -> its nearest centroid
4. ``quality``         frames per cluster, perplexity, and purity where alignments are known

Source: HuBERT (Hsu et al. 2021, arXiv 2106.07447), sections II-B and IV-B.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torchaudio.compliance.kaldi
import torchaudio.functional
from lhotse import CutSet
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from speechssl.config import require
from speechssl.data.audio import cut_samples
from speechssl.data.batch import collate
from speechssl.data.loading import BatchLoader, CutLoader, sorted_batches
from speechssl.data.manifest import cuts_path, load_cuts
from speechssl.data.targets import FrameTargets, TargetsMeta, codebook_path, targets_path
from speechssl.errors import TargetsError
from speechssl.files import atomic_path, sha256, write_text
from speechssl.frames import FRAME_RATE, HOP_SAMPLES, SAMPLE_RATE, min_samples, num_frames
from speechssl.models.encoder import Encoder
from speechssl.models.folder import load_encoder

logger = logging.getLogger("speechssl")

MFCC_HOP_SAMPLES = HOP_SAMPLES // 2
"""MFCC and their differences are computed every 10 ms; every second one is a frame of ours."""

BATCH_SECONDS = 120.0
"""Seconds of audio that a model labels in one forward pass."""


@dataclass(frozen=True)
class LabelConfig:
    """What to cluster, and into how many clusters."""

    clusters: int
    features: Literal["mfcc", "model"] = "mfcc"
    model: Path | None = None
    layer: int | None = None
    seed: int = 0
    fit_hours: float = 5.0
    """Hours of audio, drawn at random, whose frames the centroids are fitted to; memory."""

    def __post_init__(self) -> None:
        require(2 <= self.clusters <= 65_535, "clusters", "between 2 and 65535", self.clusters)
        require(self.fit_hours > 0, "fit_hours", "positive", self.fit_hours)
        if self.features == "model":
            require(self.model is not None, "model", "a model folder", self.model)
            require(self.layer is not None, "layer", "the number of a layer", self.layer)


class MfccFeatures:
    """39 numbers per frame: 13 MFCC with first and second differences, normalised per recording.

    Mean and variance of each number are set to 0 and 1 over the recording, which takes away the
    microphone and some of the speaker.
    """

    name = "mfcc"
    layer = None

    def __call__(self, waveforms: list[Tensor]) -> list[Tensor]:
        """[S] waveforms -> [T, 39] frames each, T as ``num_frames`` says."""
        return [self._one(waveform) for waveform in waveforms]

    def _one(self, waveform: Tensor) -> Tensor:
        mfcc = torchaudio.compliance.kaldi.mfcc(
            waveform[None],
            sample_frequency=SAMPLE_RATE,
            frame_shift=1000 * MFCC_HOP_SAMPLES / SAMPLE_RATE,
            use_energy=False,
        ).T  # [13, 2T or 2T - 1]
        first = torchaudio.functional.compute_deltas(mfcc)
        second = torchaudio.functional.compute_deltas(first)
        frames = torch.cat([mfcc, first, second]).T[::2]  # [T, 39]
        return (frames - frames.mean(0)) / (frames.std(0, correction=0) + 1e-5)


class LayerFeatures:
    """The output of one transformer layer of a model folder's encoder."""

    def __init__(self, model: Path, layer: int) -> None:
        self.encoder: Encoder = load_encoder(model).eval()
        layers = self.encoder.config.layers
        require(0 <= layer <= layers, "layer", f"between 0 and {layers}", layer)
        self.name = sha256(model / "model.safetensors")
        self.layer = layer
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder.to(self.device)

    @torch.inference_mode()
    def __call__(self, waveforms: list[Tensor]) -> list[Tensor]:
        """[S] waveforms -> [T, D] frames each, in one padded forward pass."""
        batch = collate(waveforms)
        batch.to(self.device)
        hidden = self.encoder.hidden_states(batch.waveforms, batch.lengths, self.layer)
        counts = num_frames(batch.lengths).tolist()
        return [frames[:count].float().cpu() for frames, count in zip(hidden, counts)]


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
    settings already there, only missing splits are labelled. Raises ``TargetsError`` where other
    targets of that name are in the way, ``ManifestError`` and ``AudioError`` for bad cuts.
    """
    codebook_file = codebook_path(data_dir, name)
    manifests = {split: load_cuts(cuts_path(data_dir, split)) for split in splits}
    features = make_features(config)
    settings = {
        **asdict(config),
        "model": None if config.features == "mfcc" else features.name,
        "fitted_on": sha256(cuts_path(data_dir, splits[0])),
    }
    if not (codebook_file.exists() and not overwrite and _same(codebook_file, settings)):
        centroids = fit_codebook(manifests[splits[0]], features, config)
        _save_codebook(codebook_file, centroids, settings)
        for split in splits:
            targets_path(data_dir, split, name).unlink(missing_ok=True)
    codebook = load_codebook(codebook_file)
    meta = TargetsMeta(
        codebook=sha256(codebook_file),
        features=features.name,
        layer=features.layer,
        clusters=len(codebook),
        frame_rate=FRAME_RATE,
    )
    report: dict[str, Any] = {"name": name, **settings, "splits": {}}
    for split, cuts in manifests.items():
        path = targets_path(data_dir, split, name)
        targets = FrameTargets.load(path) if path.is_file() else None
        if targets is None or targets.meta != meta:
            targets = label_cuts(cuts, features, codebook, meta, split)
            targets.save(path)
        targets.check((cut for cut in cuts if cut.id in targets), path, codebook_file)
        report["splits"][split] = quality(targets, cuts)
    write_text(data_dir / f"targets-{name}.report.json", json.dumps(report, indent=2) + "\n")
    draw_usage(data_dir, name, splits)
    return report


def fit_codebook(
    cuts: CutSet, features: MfccFeatures | LayerFeatures, config: LabelConfig
) -> Tensor:
    """Centroids [K, D] float32 fitted to the frames of randomly drawn cuts.

    Raises ``TargetsError`` when there are fewer frames than clusters.
    """
    from sklearn.cluster import MiniBatchKMeans

    chosen = _draw_cuts(cuts, config.fit_hours, config.seed)
    frames = np.concatenate([f.numpy() for _, f in extract(chosen, features, "frames for k-means")])
    if len(frames) < config.clusters:
        raise TargetsError(
            f"{len(frames)} frames are too few for {config.clusters} clusters; use fewer clusters "
            f"or more audio."
        )
    kmeans = MiniBatchKMeans(
        n_clusters=config.clusters,
        init="k-means++",
        batch_size=min(10_000, len(frames)),
        max_iter=100,
        n_init=5,
        reassignment_ratio=0.0,
        random_state=config.seed,
    ).fit(frames)
    return torch.from_numpy(kmeans.cluster_centers_.astype(np.float32))


def assign(frames: Tensor, codebook: Tensor) -> Tensor:
    """The nearest centroid of each frame: [T, D] and [K, D] -> [T] int64.

    |f - c|^2 = |f|^2 - 2 f.c + |c|^2, of which |f|^2 does not matter.
    """
    return (codebook.square().sum(1) - 2 * frames @ codebook.T).argmin(1)


def label_cuts(
    cuts: CutSet,
    features: MfccFeatures | LayerFeatures,
    codebook: Tensor,
    meta: TargetsMeta,
    what: str,
) -> FrameTargets:
    """Labels every cut of a split; unreadable ones are left out (at most 1 %)."""
    labels = {
        cut_id: assign(frames, codebook).numpy().astype(np.uint16)
        for cut_id, frames in extract(list(cuts), features, f"labels of {what}")
    }
    order = [cut.id for cut in cuts if cut.id in labels]
    return FrameTargets.from_labels(meta, {cut_id: labels[cut_id] for cut_id in order})


def extract(
    cuts: list[Any], features: MfccFeatures | LayerFeatures, what: str
) -> Iterator[tuple[str, Tensor]]:
    """(cut id, frames [T, D]) of every readable cut, longest cuts first, with progress."""
    usable = [cut for cut in cuts if cut_samples(cut) >= min_samples(1)]
    loader = BatchLoader(CutLoader(), total_cuts=len(usable))
    plan = ((batch, 0) for batch in sorted_batches(usable, BATCH_SECONDS))
    hours = sum(cut.duration for cut in usable) / 3600
    with tqdm(total=round(hours, 3), unit="h", desc=what, disable=None) as bar:
        for batch in loader.load(plan):
            waveforms = [w[:n] for w, n in zip(batch.waveforms, batch.lengths.tolist())]
            yield from zip(batch.ids, features(waveforms))
            bar.update(round(batch.audio_seconds / 3600, 6))
    loader.close()


def quality(targets: FrameTargets, cuts: CutSet) -> dict[str, Any]:
    """Frames per cluster, perplexity, and purities where cuts carry phone alignments."""
    clusters = targets.meta.clusters
    usage = np.bincount(targets.values, minlength=clusters)
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
    pairs = [p for cut in cuts if cut.id in targets for p in _aligned(cut, targets[cut.id])]
    if pairs:
        result.update(purity(pairs))
    return result


def purity(pairs: list[tuple[str, int]]) -> dict[str, float]:
    """Agreement of (unit, cluster) pairs, one per frame (HuBERT, section IV-F).

    ``cluster_purity``: share of frames whose unit's best cluster is theirs; ``phone_purity``:
    share whose cluster's best unit is theirs; ``pnmi``: information about the unit that the
    cluster gives, I(unit; cluster) / H(unit).
    """
    units = sorted({unit for unit, _ in pairs})
    rows = {unit: i for i, unit in enumerate(units)}
    joint = np.zeros((len(units), 1 + max(cluster for _, cluster in pairs)))
    for unit, cluster in pairs:
        joint[rows[unit], cluster] += 1 / len(pairs)
    by_unit, by_cluster = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    nonzero = joint > 0
    mutual = (joint[nonzero] * np.log((joint / (by_unit @ by_cluster + 1e-30))[nonzero])).sum()
    entropy = -(by_unit * np.log(by_unit)).sum()
    return {
        "aligned_frames": len(pairs),
        "phone_purity": round(float(joint.max(0).sum()), 4),
        "cluster_purity": round(float(joint.max(1).sum()), 4),
        "pnmi": round(float(mutual / entropy) if entropy > 0 else 0.0, 4),
    }


def draw_usage(data_dir: Path, name: str, splits: list[str]) -> Path:
    """Draws the share of frames of each cluster, largest first, one line per split."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for split in splits:
        targets = FrameTargets.load(targets_path(data_dir, split, name))
        usage = np.sort(np.bincount(targets.values, minlength=targets.meta.clusters))[::-1]
        axes.plot(100 * usage / usage.sum(), label=f"{split} ({usage.sum():,} frames)")
    axes.axhline(100 / targets.meta.clusters, color="grey", linestyle=":", label="all equal")
    axes.set(
        xlabel="cluster, by size",
        ylabel="share of frames (%)",
        title=f"Cluster targets {name!r}",
        ylim=(0, None),
    )
    axes.legend()
    path = data_dir / f"targets-{name}.png"
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)
    return path


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


def _same(path: Path, settings: dict[str, Any]) -> bool:
    """Whether the codebook at ``path`` has these settings. Raises ``TargetsError`` if not."""
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
    return True


def _draw_cuts(cuts: CutSet, hours: float, seed: int) -> list[Any]:
    """Random cuts of about ``hours`` hours, the same for the same seed."""
    pool = sorted(cuts, key=lambda cut: str(cut.id))
    random.Random(seed).shuffle(pool)
    chosen, seconds = [], 0.0
    for cut in pool:
        if seconds >= hours * 3600:
            break
        chosen.append(cut)
        seconds += cut.duration
    return chosen


def _aligned(cut: Any, labels: Tensor) -> Iterator[tuple[str, int]]:
    """(unit, cluster) of the frames that a ``phone`` alignment of the cut covers."""
    for supervision in cut.supervisions:
        for item in (supervision.alignment or {}).get("phone", []):
            start = supervision.start + item.start
            first = max(0, round(start * FRAME_RATE))
            last = min(len(labels), round((start + item.duration) * FRAME_RATE))
            for frame in range(first, last):
                yield item.symbol, int(labels[frame])
