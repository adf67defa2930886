#!/usr/bin/env python3
"""Prepares one language of VoxPopuli: transcribed speeches in the European Parliament, 16 kHz.

The sessions last hours; each speech segment is a cut of its session, so nothing is copied.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from shutil import copyfile

import click
from lhotse.recipes.voxpopuli import ASR_LANGUAGES, download_voxpopuli, prepare_voxpopuli
from lhotse.utils import resumable_download

from speechssl.data.lhotse_corpus import (
    NamedCorpus,
    corpus_command,
    linked,
    require_files,
    run_recipe,
    utterances,
)
from speechssl.data.manifest import SPLITS
from speechssl.data.utterance import Listing

CORPUS = NamedCorpus(
    name="VoxPopuli",
    size="1,800 transcribed hours in 16 languages (English 543, German 282, French 211, ... "
    "Lithuanian 2), in recordings of whole sessions from 2009 to 2020.",
    rights="CC0 1.0 (Wang et al., 2021); the European Parliament's own terms for the recordings.",
    home="https://github.com/facebookresearch/voxpopuli",
    layout="raw_audios/original/YEAR/*.ogg (or raw_audios/LANGUAGE/) and asr_LANGUAGE.tsv.gz",
)

ADDRESS = "https://dl.fbaipublicfiles.com/voxpopuli/annotations/asr"


def download(where: Path, language: str) -> Path:
    """Fetches the sessions and then the table of segments, which tells that they are complete."""
    table = f"asr_{language}.tsv.gz"
    if not (where / table).exists():
        download_voxpopuli(where, subset="asr")
        resumable_download(f"{ADDRESS}/{table}", filename=where / table)
    return where


@corpus_command(
    CORPUS,
    "python tools/prepare_voxpopuli.py data/vp_hr --language hr --corpus ~/voxpopuli",
    download,
)
@click.option(
    "--language", type=click.Choice(list(ASR_LANGUAGES)), required=True, help="Which to prepare."
)
def main(folder: Path, jobs: int, language: str) -> Listing:
    table = f"asr_{language}.tsv.gz"
    require_files(CORPUS, folder, "raw_audios", table)
    sessions = folder / "raw_audios" / "original"
    if not sessions.is_dir():
        require_files(CORPUS, folder, f"raw_audios/{language}")
        sessions = folder / "raw_audios" / language
    place = f"raw_audios/{language}"  # where the recipe looks, whichever they are
    with linked({place: sessions}) as found, tempfile.TemporaryDirectory() as work:
        copyfile(folder / table, Path(work) / table)  # or else the recipe downloads it
        manifests, missing = run_recipe(
            CORPUS,
            folder,
            prepare_voxpopuli,
            found,
            output_dir=work,
            lang=language,
            num_jobs=jobs,
        )
        listing = Listing(rejected=missing)
        for split in SPLITS:
            listing.utterances += utterances(manifests[split], split, language)
    return listing


if __name__ == "__main__":
    main()
