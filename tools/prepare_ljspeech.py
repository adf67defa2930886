#!/usr/bin/env python3
"""Prepares LJ Speech: one woman reads seven English books, 22.05 kHz.

Its last chapter is the test split and the one before it dev, so that no text is in two splits.
"""

from __future__ import annotations

from pathlib import Path

from lhotse.recipes.ljspeech import download_ljspeech, prepare_ljspeech

from speechssl.data.lhotse_corpus import (
    NamedCorpus,
    corpus_command,
    require_files,
    run_recipe,
    utterances,
)
from speechssl.data.utterance import Listing

CORPUS = NamedCorpus(
    name="LJ Speech",
    size="24 hours, 13,100 clips of 1 to 10 s (2.6 GB).",
    rights="public domain (Keith Ito and Linda Johnson, 2017).",
    home="https://keithito.com/LJ-Speech-Dataset",
    layout="metadata.csv and wavs/",
)


def download(where: Path) -> Path:
    return download_ljspeech(where)


@corpus_command(
    CORPUS, "python tools/prepare_ljspeech.py data/lj --corpus ~/LJSpeech-1.1", download
)
def main(folder: Path, jobs: int) -> Listing:
    require_files(CORPUS, folder, "metadata.csv", "wavs")
    manifests, missing = run_recipe(CORPUS, folder, prepare_ljspeech, folder)
    listing = Listing(rejected=missing)
    chapters = sorted({s.id.split("-")[0] for s in manifests["supervisions"]})
    places = dict(zip(chapters[-2:], ("dev", "test")))
    for chapter in chapters:
        own = manifests["supervisions"].filter(lambda s, c=chapter: s.id.split("-")[0] == c)
        part = {"recordings": manifests["recordings"], "supervisions": own}
        split = places.get(chapter, "train")
        # The third column has numbers and abbreviations spelled out.
        listing.utterances += utterances(
            part, split, "en", lambda supervision: supervision.custom["normalized_text"]
        )
    listing.notes += [f"{split}: chapter {chapter}" for chapter, split in places.items()]
    return listing


if __name__ == "__main__":
    main()
