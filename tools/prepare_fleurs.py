#!/usr/bin/env python3
"""Prepares one language of FLEURS: sentences of Wikipedia read aloud, the same in 102 languages."""

from __future__ import annotations

from pathlib import Path

import click
from lhotse.recipes.fleurs import prepare_single_fleurs_language
from lhotse.utils import resumable_download

from speechssl.data.lhotse_corpus import (
    NamedCorpus,
    corpus_command,
    fetch_archives,
    linked,
    require_files,
    run_recipe,
    utterances,
)
from speechssl.data.manifest import SPLITS
from speechssl.data.utterance import Listing
from speechssl.errors import ManifestError

CORPUS = NamedCorpus(
    name="FLEURS",
    size="About 10 hours of training data, 1 of dev and 3 of test in each of 102 languages "
    "(1 to 2 GB each), 16 kHz.",
    rights="CC BY 4.0 (Google; Conneau et al., 2022).",
    home="https://huggingface.co/datasets/google/fleurs",
    layout="LANGUAGE/train.tsv and LANGUAGE/audio/train/*.wav (as the archives unpack), or "
    "metadata/LANGUAGE/train.tsv and LANGUAGE/train/*.wav (as Lhotse downloads); also dev, test",
)

ADDRESS = "https://huggingface.co/datasets/google/fleurs/resolve/main/data"


def download(where: Path, language: str) -> Path:
    for split in SPLITS:
        (where / language).mkdir(parents=True, exist_ok=True)
        table = f"{language}/{split}.tsv"
        resumable_download(f"{ADDRESS}/{table}", filename=where / table)
        fetch_archives([f"{ADDRESS}/{language}/audio/{split}.tar.gz"], where / language / "audio")
    return where


@corpus_command(
    CORPUS, "python tools/prepare_fleurs.py data/sw --language sw_ke --download ~/fleurs", download
)
@click.option("--language", required=True, help="Code of the language, as sw_ke or cmn_hans_cn.")
def main(folder: Path, jobs: int, language: str) -> Listing:
    require_files(CORPUS, folder, language)
    places = {}
    for split in SPLITS:
        audio = (f"{language}/audio/{split}", f"{language}/{split}")
        tables = (f"{language}/{split}.tsv", f"metadata/{language}/{split}.tsv")
        places[f"{language}/{split}"] = first(folder, audio)
        places[f"metadata/{language}/{split}.tsv"] = first(folder, tables)
    with linked(places) as folder_for_lhotse:
        manifests, missing = run_recipe(
            CORPUS,
            folder,
            prepare_single_fleurs_language,
            folder_for_lhotse / language,
            language=language,
            num_jobs=jobs,
        )
        listing = Listing(rejected=missing)
        for split in SPLITS:
            listing.utterances += utterances(manifests[split], split, language)
    return listing


def first(folder: Path, names: tuple[str, ...]) -> Path:
    """The first of ``names`` that is in ``folder``. Raises ``ManifestError`` if none is."""
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise ManifestError(
        f"{folder}: is not FLEURS (neither {names[0]} nor {names[1]} is there); give the folder "
        f"that holds {CORPUS.layout}."
    )


if __name__ == "__main__":
    main()
