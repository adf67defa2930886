#!/usr/bin/env python3
"""Prepares one language of Multilingual LibriSpeech: audiobooks in eight languages, 16 kHz."""

from __future__ import annotations

from pathlib import Path

import click
from lhotse.recipes.mls import prepare_mls

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

CORPUS = NamedCorpus(
    name="Multilingual LibriSpeech",
    size="English 44,660 hours for training, German 1,967, Dutch 1,554, French 1,077, Spanish 918, "
    "Italian 247, Portuguese 161, Polish 104; 2 to 16 hours each of dev and test.",
    rights="CC BY 4.0 (Pratap et al., 2020; LibriVox recordings).",
    home="https://www.openslr.org/94",
    layout="mls_german/ or mls_german_opus/ with metainfo.txt, train/transcripts.txt, train/audio/",
)

CODES = {
    "dutch": "nl",
    "english": "en",
    "french": "fr",
    "german": "de",
    "italian": "it",
    "polish": "pl",
    "portuguese": "pt",
    "spanish": "es",
}

ADDRESS = "https://dl.fbaipublicfiles.com/mls"


def download(where: Path, language: str) -> Path:
    fetch_archives([f"{ADDRESS}/mls_{language}_opus.tar.gz"], where)
    return where


@corpus_command(
    CORPUS,
    "python tools/prepare_mls.py data/mls_de --language german --corpus ~/mls",
    download,
    "--download fetches the opus files, which are a quarter of the size of flac.",
)
@click.option("--language", type=click.Choice(list(CODES)), required=True, help="Which to prepare.")
def main(folder: Path, jobs: int, language: str) -> Listing:
    names = (f"mls_{language}", f"mls_{language}_opus")
    if folder.name in names:
        folder = folder.parent
    name = next((name for name in names if (folder / name).is_dir()), names[0])
    require_files(CORPUS, folder, f"{name}/metainfo.txt", *(f"{name}/{s}" for s in SPLITS))
    with linked({name: folder / name}) as only:
        manifests, missing = run_recipe(
            CORPUS, folder, prepare_mls, only, opus=name.endswith("opus"), num_jobs=jobs
        )
        listing = Listing(rejected=missing)
        for split in SPLITS:
            part = manifests[language][split]
            listing.utterances += utterances(part, split, CODES[language])
    return listing


if __name__ == "__main__":
    main()
