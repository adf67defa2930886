"""Times the data path: opening a large manifest, starting, resuming deep in an epoch, and padding.

    python -m tools.bench.data_path WORK --cuts 1000000 --corpus data/an4

1. writes a manifest of that many cuts into WORK, all of one generated recording
2. opens it without an index and with one; starts; resumes at the end of a late epoch: each in a
   process of its own, until the first update is read, with the peak of its memory
3. padding, filling and mixing of batches: the lengths of ``--corpus`` and LibriSpeech-like ones
4. seconds of audio per second that ``--corpus`` is read with, from the files and from memory
"""

from __future__ import annotations

import gzip
import json
import resource
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import soundfile
from numpy.typing import NDArray
from tqdm import tqdm

from speechssl.cli.main import OneLineErrors
from speechssl.data.batch import Places
from speechssl.data.index import Cuts, index_path
from speechssl.data.loading import CutLoader, epoch_batches
from speechssl.data.manifest import cuts_path
from speechssl.files import atomic_path
from speechssl.frames import SAMPLE_RATE
from speechssl.tables import table
from speechssl.training.reader import TrainReader
from speechssl.training.recipe import DataConfig

RECORDING_SECONDS = 17.5

WORDS = ("the", "of", "and", "in", "he", "that", "was", "his", "with", "had", "as", "for", "about")

SIMILAR = 0.05
"""Cuts whose lengths differ by at most this share could as well share a batch."""

LIBRISPEECH = DataConfig(batch_seconds=87.5, forward_seconds=87.5, max_seconds=15.6)
"""How recipes/clusters_base.yaml makes batches, in one process."""

AN4 = DataConfig(batch_seconds=20, forward_seconds=20, max_seconds=20)
"""How recipes/ctc_tiny.yaml makes batches."""

STAGES = ("imports", "index", "open", "start", "resume")


@click.command(cls=OneLineErrors, help=__doc__.split("\n")[0] if __doc__ else None)
@click.argument("work", type=click.Path(path_type=Path, file_okay=False))
@click.option("--cuts", "count", default=1_000_000, show_default=True, help="Cuts to generate.")
@click.option("--corpus", type=click.Path(path_type=Path), help="A DATA_DIR of real recordings.")
@click.option("--stage", type=click.Choice(STAGES), hidden=True, help="One step, in this process.")
def main(work: Path, count: int, corpus: Path | None, stage: str | None) -> None:
    """\b
    Example:
      python -m tools.bench.data_path /tmp/data_path --corpus data/an4
    """
    if stage is not None:
        click.echo(json.dumps(run_stage(stage, work)))
        return
    write_manifest(work, count)
    rows = [("step", "seconds", "peak memory, GB")]
    for name in STAGES:
        result = json.loads(
            subprocess.run(
                [sys.executable, "-m", "tools.bench.data_path", str(work), "--stage", name],
                check=True,
                stdout=subprocess.PIPE,
            ).stdout
        )
        rows.append((name, f"{result['seconds']:.2f}", f"{result['peak_memory_gb']:.2f}"))
    click.echo(f"{count:,} cuts; seconds without those of the imports, memory with theirs")
    click.echo(table(rows))
    lengths = {"LibriSpeech-like": (librispeech_like(28_000), LIBRISPEECH)}
    if corpus is not None:
        lengths[corpus.name] = (Cuts.open(cuts_path(corpus, "train")).durations, AN4)
    names = ("lengths", "cuts", "batch, s", "padding %", "filled %", "met again %", "by chance %")
    rows = [names]
    for name, (seconds, data) in lengths.items():
        shares = batch_shares(np.minimum(seconds, data.max_seconds), data)
        numbers = (f"{100 * share:.2f}" for share in shares)
        rows.append((name, f"{len(seconds)}", f"{data.forward_seconds:g}", *numbers))
    click.echo(table(rows))
    if corpus is not None:
        for name, speed in reading_speed(corpus).items():
            click.echo(f"{name}: {speed:,.0f} s of audio per second, {AN4.threads} threads")


def write_manifest(work: Path, count: int) -> Path:
    """Writes ``count`` cuts (about 700 bytes each) of one recording; keeps what is there."""
    path = cuts_path(work, "train")
    if path.is_file() and len(Cuts.open(path)) == count:
        return path
    audio = work / "recording.wav"
    work.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).normal(0, 0.1, round(RECORDING_SECONDS * SAMPLE_RATE))
    soundfile.write(audio, noise.astype(np.float32), SAMPLE_RATE)
    rng = np.random.default_rng(1)
    with atomic_path(path) as temporary, gzip.open(temporary, "wt", compresslevel=6) as stream:
        for number, seconds in enumerate(tqdm(librispeech_like(count), "writing", disable=None)):
            text = " ".join(rng.choice(WORDS, size=1 + int(2.7 * seconds)).tolist())
            cut = _cut(f"{number % 2500:04d}-{number // 2500:06d}-{number:07d}", seconds, text)
            cut["recording"]["sources"][0]["source"] = str(audio.resolve())
            stream.write(json.dumps(cut) + "\n")
    return path


def _cut(name: str, seconds: float, text: str) -> dict[str, Any]:
    span = {"id": name, "recording_id": name, "start": 0.0, "duration": seconds, "channel": 0}
    return {
        "id": name,
        "start": 0.0,
        "duration": seconds,
        "channel": 0,
        "supervisions": [{**span, "text": text, "language": "English", "speaker": name[:4]}],
        "recording": {
            "id": name,
            "sources": [{"type": "file", "channels": [0], "source": ""}],
            "sampling_rate": SAMPLE_RATE,
            "num_samples": round(RECORDING_SECONDS * SAMPLE_RATE),
            "duration": RECORDING_SECONDS,
            "channel_ids": [0],
        },
        "type": "MonoCut",
    }


def librispeech_like(count: int) -> NDArray[np.float64]:
    """[count] seconds distributed as in LibriSpeech's training sets: mean 12, median 13.6.

    Recordings were cut at pauses to at most about 16 s, hence the peak of two thirds of them
    near 14.5 s; the rest is spread over shorter lengths.
    """
    rng = np.random.default_rng(0)
    peak = 14.9 - np.abs(rng.normal(0, 1.0, count)) + rng.normal(0, 0.7, count)
    rest = rng.uniform(1.5, 13.5, count)
    seconds = np.where(rng.random(count) < 0.68, peak, rest).clip(1.3, 17)
    whole: NDArray[np.float64] = np.round(seconds * SAMPLE_RATE) / SAMPLE_RATE
    return whole


def run_stage(stage: str, work: Path) -> dict[str, float]:
    """Seconds and peak memory of one step, in this process, which holds all that training needs."""
    import speechssl.training.pretraining  # noqa: F401

    path = cuts_path(work, "train")
    if stage == "index":
        index_path(path).unlink(missing_ok=True)
    began = time.perf_counter()
    if stage != "imports":
        cuts = Cuts.open(path)
    if stage in ("start", "resume"):
        reader = TrainReader(cuts, CutLoader(), LIBRISPEECH, seed=0, rank=0, world=1)
        if stage == "resume":
            late = len(cuts) * 12 // 88  # seven eighths of the epoch's batches
            reader.load_state_dict({"epoch": 7, "batch": late * 7 // 8})
        next(reader)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kilobytes
    return {"seconds": seconds, "peak_memory_gb": peak}


def batch_shares(
    seconds: NDArray[np.float64], data: DataConfig, epochs: int = 4
) -> tuple[float, float, float, float]:
    """Shares of padding, of the batches' seconds that are filled (padding included), of pairs of
    cuts in one batch that meet again in the next epoch, and of those that would by chance.

    By chance: if the company of each cut were drawn anew from all cuts of similar length.
    """
    plans = [
        epoch_batches(
            seconds,
            batch_seconds=data.forward_seconds,
            length_noise=data.length_noise,
            seed=0,
            epoch=epoch,
        )
        for epoch in range(epochs)
    ]
    padded = [sum(seconds[b].max() * len(b) for b in plan) for plan in plans]
    padding = 1 - epochs * seconds.sum() / sum(padded)
    filled = sum(padded) / (sum(map(len, plans)) * data.forward_seconds)
    pairs = [_pairs(plan, len(seconds)) for plan in plans]
    again = np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in pairwise(pairs)])
    ordered = np.sort(seconds)
    similar = np.searchsorted(ordered, seconds * (1 + SIMILAR), "right")
    similar -= np.searchsorted(ordered, seconds * (1 - SIMILAR), "left")
    company = np.concatenate([np.full(len(b), len(b) - 1) for b in plans[0]])
    others = np.maximum(similar[np.concatenate(plans[0])] - 1, company)
    chance = (company * company / np.maximum(others, 1)).sum() / max(1, company.sum())
    return float(padding), float(filled), float(again), float(chance)


def _pairs(plan: list[Places], count: int) -> NDArray[np.int64]:
    """A number for each pair of cuts that share a batch."""
    found = []
    for batch in plan:
        first, second = np.triu_indices(len(batch), 1)
        ordered = np.sort(batch)
        found.append(ordered[first] * count + ordered[second])
    return np.concatenate(found)


def reading_speed(corpus: Path) -> dict[str, float]:
    """Seconds of audio per second of an epoch from the files, and of one from the cache."""
    cuts = Cuts.open(cuts_path(corpus, "train"))
    reader = TrainReader(cuts, CutLoader(cache_gb=2.0), AN4, seed=0, rank=0, world=1)
    speeds = {}
    for name in ("from the files", "from memory"):
        began, seconds = time.perf_counter(), 0.0
        while seconds < cuts.hours * 3600:
            seconds += sum(batch.audio_seconds for batch in next(reader))
        speeds[name] = seconds / (time.perf_counter() - began)
    return speeds


if __name__ == "__main__":
    main()
