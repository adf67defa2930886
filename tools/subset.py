#!/usr/bin/env python3
"""Takes the transcribed training data, or a few minutes of it, out of a prepared corpus.

A few minutes are random but fixed by the seed, and shared evenly among the speakers. Dev and test
keep all that is transcribed.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict, deque
from heapq import heappop, heappush
from pathlib import Path

import click
from lhotse import MonoCut

from speechssl.cli._options import seed_option
from speechssl.cli.main import OneLineErrors
from speechssl.data.corpus import check_output, write_splits
from speechssl.data.corpus_report import summarize
from speechssl.data.manifest import (
    cut_text,
    cuts_path,
    hash_manifest,
    hours,
    load_cuts,
    require_corpus,
)
from speechssl.errors import ManifestError, RunFolderError


@click.command(
    cls=OneLineErrors,
    epilog="\b\nExample:\n  python tools/subset.py data/an4 data/an4_10min --minutes 10 --seed 0",
    help="Writes a corpus OUT with about --minutes of the transcribed train split of DATA_DIR, or "
    "with all that is transcribed, and the same dev and test splits.",
)
@click.argument("data_dir", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), help="Without it: all transcribed."
)
@seed_option("Decides which minutes.")
@click.option("--overwrite", is_flag=True, help="Replace another corpus in OUT.")
def main(data_dir: Path, out: Path, minutes: float | None, seed: int, overwrite: bool) -> None:
    if out.resolve() == data_dir.resolve():
        raise RunFolderError(f"{out}: is the corpus itself; name another folder for the subset.")
    require_corpus(data_dir)
    cuts = [cut for cut in load_cuts(cuts_path(data_dir, "train")) if cut_text(cut)]
    if not cuts:
        raise ManifestError(f"{data_dir}: train has no transcripts; prepare the corpus with some.")
    chosen = cuts if minutes is None else choose(cuts, minutes, seed, str(data_dir))
    held = {s: cuts_path(data_dir, s) for s in ("dev", "test") if cuts_path(data_dir, s).exists()}
    content = [repr([cut.to_dict() for cut in chosen]), *map(hash_manifest, held.values())]
    fingerprint = hashlib.sha256("\n".join(content).encode()).hexdigest()
    if check_output(out, fingerprint, overwrite):
        click.echo(f"{out}: already this subset; nothing to do.")
        return
    splits = {"train": chosen}
    for split, path in held.items():
        splits[split] = [cut for cut in load_cuts(path) if cut_text(cut)]
    how_much = "what is transcribed" if minutes is None else f"{minutes:g} minutes (seed {seed})"
    title = f"{how_much} of {data_dir.name}"
    report = summarize(title, splits, fingerprint)
    write_splits(out, splits, report)
    click.echo(report.short(), nl=False)


def choose(cuts: list[MonoCut], minutes: float, seed: int, where: str = "train") -> list[MonoCut]:
    """About ``minutes`` of ``cuts``, in their order: always from the speaker with least so far.

    Raises ``ManifestError`` if there are not that many minutes, or too few for one utterance.
    """
    if hours(cuts) * 60 < minutes:
        raise ManifestError(
            f"{where}: train has {hours(cuts) * 60:.1f} minutes with transcripts, fewer than "
            f"{minutes:g}; ask for less."
        )
    rng = random.Random(seed)
    queues: dict[str, deque[MonoCut]] = defaultdict(deque)
    for cut in rng.sample(cuts, len(cuts)):
        queues[str(cut.supervisions[0].speaker)].append(cut)
    chosen: set[str] = set()
    missing = minutes * 60
    turns = [(0.0, place, queue) for place, queue in enumerate(queues.values())]
    while turns:
        taken, place, queue = heappop(turns)
        cut = queue.popleft()
        if cut.duration / 2 < missing:  # closer with it than without it
            chosen.add(cut.id)
            taken += cut.duration
            missing -= cut.duration
        if queue:
            heappush(turns, (taken, place, queue))
    if not chosen:
        raise ManifestError(
            f"{where}: no utterance of train is as short as {minutes:g} minutes; ask for more."
        )
    return [cut for cut in cuts if cut.id in chosen]


if __name__ == "__main__":
    main()
