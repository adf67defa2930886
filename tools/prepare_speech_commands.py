#!/usr/bin/env python3
"""Prepares Google Speech Commands: single English words of one second, 16 kHz.

The recordings of noise alone are left out. Test is the published test set: the ten commands, and
other words.
"""

from __future__ import annotations

from pathlib import Path

import click
from lhotse.recipes.speechcommands import download_speechcommands, prepare_speechcommands

from speechssl.data.lhotse_corpus import (
    NamedCorpus,
    corpus_command,
    require_files,
    run_recipe,
    utterances,
)
from speechssl.data.utterance import Listing

CORPUS = NamedCorpus(
    name="Speech Commands",
    size="Version 2: 105,829 recordings of 35 words by 2,618 speakers, 29 hours (2.4 GB); version "
    "1: 64,727 of 30 words.",
    rights="CC BY 4.0 (Google; Warden, 2018).",
    home="https://www.tensorflow.org/datasets/catalog/speech_commands",
    layout="speech_commands_v0.02/ (WORD/*.wav, testing_list.txt, validation_list.txt) and "
    "speech_commands_test_set_v0.02/",
)


def download(where: Path, version: str) -> Path:
    return download_speechcommands(version, where)


@corpus_command(
    CORPUS, "python tools/prepare_speech_commands.py data/sc --download ~/corpora", download
)
@click.option(
    "--version",
    type=click.Choice(["1", "2"]),
    default="2",
    show_default=True,
    help="Of the corpus.",
)
def main(folder: Path, jobs: int, version: str) -> Listing:
    main_part = f"speech_commands_v0.0{version}"
    require_files(
        CORPUS,
        folder,
        *(f"{main_part}/{which}_list.txt" for which in ("testing", "validation")),
        f"speech_commands_test_set_v0.0{version}",
    )
    manifests, missing = run_recipe(CORPUS, folder, prepare_speechcommands, version, folder)
    listing = Listing(rejected=missing)
    for part, split in (("train", "train"), ("valid", "dev"), ("test", "test")):
        listing.utterances += [u for u in utterances(manifests[part], split, "en") if u.text]
    return listing


if __name__ == "__main__":
    main()
