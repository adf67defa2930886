#!/usr/bin/env python3
"""Prepares Libri-Light: 60,000 hours of English audiobooks without transcripts, or the 10 minutes,
1 hour or 10 hours with transcripts on which its benchmark fine-tunes; 16 kHz."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import click
from lhotse.recipes.librilight import _prepare_subset
from lhotse.recipes.librispeech import prepare_librispeech

from speechssl.data.lhotse_corpus import (
    NamedCorpus,
    corpus_command,
    fetch_archives,
    join_segments,
    require_files,
    run_recipe,
    utterances,
)
from speechssl.data.utterance import Listing, Utterance, part_id
from speechssl.errors import ConfigError

CORPUS = NamedCorpus(
    name="Libri-Light",
    size="small (577 hours, 35 GB), medium (5,193 hours, 321 GB) and large (51,934 hours, 3 TB) "
    "without transcripts; 10 hours with transcripts (0.6 GB), taken from LibriSpeech's training "
    "data.",
    rights="LibriVox recordings in the public domain (Kahn et al., 2020); the sets with "
    "transcripts are LibriSpeech's, CC BY 4.0.",
    home="https://github.com/facebookresearch/libri-light/tree/main/data_preparation",
    layout="small/, medium/ or large/ with SPEAKER/BOOK/*.flac and *.json; or, for --limited, 1h/ "
    "and 9h/ (librispeech_finetuning)",
)

ADDRESS = "https://dl.fbaipublicfiles.com/librilight/data"

LIMITED = {"10min": ("1h/{fold}",), "1h": ("1h/[0-5]",), "10h": ("1h/[0-5]", "9h")}
"""The folders of a limited set. 1h/ holds six sets of 10 minutes; each holds clean/ and other/."""

SHORTEST, LONGEST = 2.0, 30.0
"""Seconds of the pieces into which the unlabelled recordings are cut."""


def download(where: Path, limited: str | None, subset: str, **_: object) -> Path:
    if limited is None:
        fetch_archives([f"{ADDRESS}/{subset}.tar"], where)
        return where
    fetch_archives([f"{ADDRESS}/librispeech_finetuning.tgz"], where)
    return where / "librispeech_finetuning"


@corpus_command(
    CORPUS,
    "python tools/prepare_librilight.py data/10min --limited 10min "
    "--corpus ~/librispeech_finetuning --librispeech ~/LibriSpeech",
    download,
    "Without --limited the recordings of --subset become train, in pieces of 2 to 30 s with speech "
    "(the times in the corpus's json files). With it train is a limited set, and dev and test come "
    "from LibriSpeech.",
)
@click.option(
    "--subset",
    type=click.Choice(["small", "medium", "large"]),
    default="small",
    show_default=True,
    help="The set without transcripts.",
)
@click.option("--limited", type=click.Choice(list(LIMITED)), help="The set with transcripts.")
@click.option(
    "--fold", type=click.IntRange(0, 5), default=0, show_default=True, help="Which 10 minutes."
)
@click.option(
    "--librispeech",
    type=click.Path(path_type=Path),
    help="Folder of LibriSpeech, for the dev and test splits of a limited set.",
)
@click.option("--dev", default="dev-other", show_default=True, help="Part of LibriSpeech.")
@click.option("--test", default="test-clean", show_default=True, help="Part of LibriSpeech.")
def main(
    folder: Path,
    jobs: int,
    subset: str,
    limited: str | None,
    fold: int,
    librispeech: Path | None,
    dev: str,
    test: str,
) -> Listing:
    if limited is None:
        return unlabelled(folder, subset, jobs)
    require_files(CORPUS, folder, "1h")
    patterns = [pattern.format(fold=fold) for pattern in LIMITED[limited]]
    parts = sorted(p for pattern in patterns for p in folder.glob(f"{pattern}/*") if p.is_dir())
    listing = Listing(notes=[f"train: {', '.join(str(p.relative_to(folder)) for p in parts)}"])
    add_parts(listing, folder, "train", [str(part.relative_to(folder)) for part in parts], jobs)
    if librispeech is not None:
        for split, part in (("dev", dev), ("test", test)):
            if not (librispeech / part).is_dir():
                raise ConfigError(f"--{split} {part}: {librispeech} has no such part.")
            add_parts(listing, librispeech, split, [part], jobs)
            listing.notes.append(f"{split}: {part} of LibriSpeech")
    return listing


def add_parts(listing: Listing, folder: Path, split: str, parts: list[str], jobs: int) -> None:
    """Adds folders in LibriSpeech's layout to a split."""
    manifests, missing = run_recipe(
        CORPUS, folder, prepare_librispeech, folder, dataset_parts=parts, num_jobs=jobs
    )
    listing.rejected += missing
    for part in parts:
        listing.utterances += utterances(manifests[part], split, "en")


def unlabelled(folder: Path, subset: str, jobs: int) -> Listing:
    """The stretches with speech of a subset, joined to pieces; all of them train."""
    require_files(CORPUS, folder, subset)
    # prepare_librilight itself insists on all three subsets.
    (recordings, supervisions), missing = run_recipe(
        CORPUS, folder, _prepare_subset, subset, folder, jobs
    )
    segments = defaultdict(list)
    for supervision in supervisions:
        segments[supervision.recording_id].append(supervision)
    listing = Listing(rejected=missing)
    for recording in recordings:
        heard = segments[recording.id]
        for start, end in join_segments([(s.start, s.end) for s in heard], SHORTEST, LONGEST):
            listing.utterances.append(
                Utterance(
                    part_id(recording.id, start, end),
                    Path(recording.sources[0].source).resolve(),
                    speaker=heard[0].speaker,
                    language="en",
                    start=start,
                    duration=end - start,
                    recording=recording.id,
                    split="train",
                )
            )
    return listing


if __name__ == "__main__":
    main()
