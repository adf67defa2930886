"""A probe from beginning to end: ``probe``."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from speechssl.config import require
from speechssl.data.index import Cuts
from speechssl.decoding.transcriber import Transcriber
from speechssl.errors import ConfigError, RunFolderError
from speechssl.extraction import draw_places
from speechssl.files import write_text
from speechssl.frames import FRAME_RATE
from speechssl.probing.division import Division, divide, draw_division, given
from speechssl.probing.labels import Labelled, label_frames, label_utterances, repeated
from speechssl.probing.measures import cluster_purity, linear_probe, majority_accuracy
from speechssl.probing.report import ProbeReport, draw_report
from speechssl.probing.vectors import ProbedLayers, Vectors, compute_vectors

Task = Literal["speaker", "language", "keyword", "phone", "clusters"]

FRAME_SHARE = 0.1
"""Share of the frames of a cut that is drawn, so that frames come from many cuts."""


@dataclass(frozen=True)
class ProbeConfig:
    """What to probe, for what, and with how much data."""

    model: Path
    cuts: Path
    task: Task
    test: Path | None = None
    """Cuts to test on; without them a part of ``cuts`` is held out."""

    aligner: Path | None = None
    """phone, clusters: a recogniser whose alignment of the transcripts gives the labels."""

    keywords: tuple[str, ...] = ()
    """keyword: words or phrases to look for; without them the whole transcript is the label."""

    examples: int = 20_000
    """Most utterances or frames to learn from, and as many to test on."""

    clusters: int = 100
    """clusters: how many."""

    seed: int = 0

    def __post_init__(self) -> None:
        require(self.examples > 1, "examples", "at least 2", self.examples)
        if self.task == "clusters":
            sound = 2 <= self.clusters <= self.examples
            require(sound, "clusters", "2 to examples", self.clusters)
        if self.aligner is not None and self.task not in ("phone", "clusters"):
            raise ConfigError("an aligner is for the tasks phone and clusters alone.")
        if self.keywords and self.task != "keyword":
            raise ConfigError("keywords are for the task keyword alone.")


def probe(config: ProbeConfig, out: Path, *, overwrite: bool = False) -> ProbeReport:
    """Probes every layer and writes ``<out>/<task>.json`` and ``<out>/<task>.png``.

    Vectors of at most ``2 * examples`` utterances or frames lie in ``out`` meanwhile, one layer of
    them in memory. Raises ``RunFolderError`` if the report exists, ``ManifestError`` if the cuts
    lack the labels, and what reading cuts and models raises.
    """
    path = out / f"{config.task}.json"
    if path.exists() and not overwrite:
        raise RunFolderError(f"{path}: exists; give --overwrite to replace it, or another --out.")
    layers = ProbedLayers(config.model)
    cuts = Cuts.open(config.cuts)
    test_cuts = cuts if config.test is None else Cuts.open(config.test)
    division = draw_division(_divide(config, cuts, test_cuts), config.examples, config.seed)
    if config.task == "clusters":
        frames = sum(len(item.labels) for item in division.train)
        rule = f"at most {frames}, the frames to learn from"
        require(config.clusters <= frames, "clusters", rule, config.clusters)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".tmp-vectors-") as folder:
        known = compute_vectors(cuts, division.train, layers, Path(folder), "train")
        asked = compute_vectors(test_cuts, division.test, layers, Path(folder), "test")
        measured = _measure(config, layers.names, known, asked)
    report = ProbeReport(
        task=config.task,
        model=str(config.model),
        model_hash=layers.model_hash,
        cuts=str(config.cuts),
        test_cuts=None if config.test is None else str(config.test),
        aligner=None if config.aligner is None else str(config.aligner),
        keywords=list(config.keywords),
        seed=config.seed,
        split=division.how,
        units=_units(config),
        classes=len(set(known.labels.tolist())),
        train_utterances=int(known.utterances[-1]) + 1,
        train_examples=len(known.labels),
        test_utterances=int(asked.utterances[-1]) + 1,
        test_examples=len(asked.labels),
        majority=majority_accuracy(known, asked),
        clusters=config.clusters if config.task == "clusters" else None,
        layers=measured,
    )
    write_text(path, json.dumps(report.to_dict(), indent=2) + "\n")
    draw_report(path.with_suffix(".png"), report)
    return report


def _divide(config: ProbeConfig, cuts: Cuts, test_cuts: Cuts) -> Division:
    """Labels the cuts, and holds some out."""
    labelled = _label(config, cuts)
    if labelled[0].frames is None:
        labelled = repeated(labelled, cuts.path)
    if config.test is None:
        return divide(labelled, config.task)
    return given(labelled, _label(config, test_cuts), config.task)


def _label(config: ProbeConfig, cuts: Cuts) -> list[Labelled]:
    if config.task in ("speaker", "language", "keyword"):
        return label_utterances(cuts, config.task, config.keywords)
    aligner = None if config.aligner is None else Transcriber(config.aligner)
    hours = 2 * config.examples / FRAME_SHARE / FRAME_RATE / 3600
    return label_frames(cuts, draw_places(cuts, hours, config.seed), aligner)


def _measure(
    config: ProbeConfig, names: list[str], known: Vectors, asked: Vectors
) -> list[dict[str, Any]]:
    """The measures of each layer."""
    found = []
    pairs = zip(names, known.layers(), asked.layers())
    for name, train, test in tqdm(pairs, total=len(names), desc="probes", disable=None):
        if config.task == "clusters":
            measures = cluster_purity(train, test, asked, config.clusters, config.seed)
        else:
            measures = asdict(linear_probe(train, test, known, asked))
        found.append({"layer": name, **measures})
    return found


def _units(config: ProbeConfig) -> str:
    if config.task in ("phone", "clusters"):
        return "phones" if config.aligner is None else "characters"
    return f"{config.task}s"
