#!/usr/bin/env python3
"""Prepares LibriSpeech: English audiobooks, 960 hours of them for training, 16 kHz."""

from __future__ import annotations

from pathlib import Path

import click
from lhotse.recipes.librispeech import download_librispeech, prepare_librispeech

from speechssl.data.lhotse_corpus import NamedCorpus, corpus_command, run_recipe, utterances
from speechssl.data.utterance import Listing
from speechssl.errors import ConfigError

CORPUS = NamedCorpus(
    name="LibriSpeech",
    size="1,000 hours of 2,484 speakers in seven parts: train-clean-100 (6 GB), train-clean-360 "
    "(23 GB), train-other-500 (30 GB), and dev and test, clean and other, 5 hours (0.3 GB) each.",
    rights="CC BY 4.0 (Panayotov, Chen, Povey and Khudanpur, 2015; LibriVox recordings).",
    home="https://www.openslr.org/12",
    layout="train-clean-100/, dev-clean/ and so on, with SPEAKER/CHAPTER/*.flac and *.trans.txt",
)

PARTS = {
    "train": ("train-clean-100", "train-clean-360", "train-other-500", "train-clean-5"),
    "dev": ("dev-clean", "dev-other", "dev-clean-2"),
    "test": ("test-clean", "test-other"),
}
"""The parts that a split may have; the last of train and of dev are Mini LibriSpeech."""


def download(where: Path, **parts: str | None) -> Path:
    wanted = [p for s in PARTS for p in (parts[s] if parts[s] is not None else "").split(",") if p]
    if not wanted:
        raise ConfigError("--download needs the parts that you want: --train, --dev or --test.")
    return download_librispeech(where, dataset_parts=wanted)


@corpus_command(
    CORPUS,
    "python tools/prepare_librispeech.py data/ls100 --corpus ~/LibriSpeech "
    "--train train-clean-100 --dev dev-other --test test-clean",
    download,
    "--train, --dev and --test say which parts make a split, with commas between them; without "
    "them all parts that are there are taken, and '' takes none.",
)
@click.option("--train", metavar="PARTS", help="As train-clean-100,train-clean-360.")
@click.option("--dev", metavar="PARTS", help="As dev-other.")
@click.option("--test", metavar="PARTS", help="As test-clean.")
def main(folder: Path, jobs: int, **wanted: str | None) -> Listing:
    chosen = {split: choose(folder, split, wanted[split]) for split in PARTS}
    listing = Listing(notes=[f"{split}: {', '.join(parts)}" for split, parts in chosen.items()])
    parts = [part for named in chosen.values() for part in named]
    manifests, listing.rejected = run_recipe(
        CORPUS, folder, prepare_librispeech, folder, dataset_parts=parts or "auto", num_jobs=jobs
    )
    for split, named in chosen.items():
        for part in named:
            listing.utterances += utterances(manifests[part], split, "en")
    return listing


def choose(folder: Path, split: str, wanted: str | None) -> list[str]:
    """The parts of a split. Raises ``ConfigError`` for one that is not there."""
    present = [part for part in PARTS[split] if (folder / part).is_dir()]
    if wanted is None:
        return present
    parts = [part for part in wanted.split(",") if part]
    for part in parts:
        if part not in present:
            raise ConfigError(
                f"--{split}: {folder} has no part {part!r} for {split}; it has "
                f"{', '.join(present) or 'none'}."
            )
    return parts


if __name__ == "__main__":
    main()
