#!/usr/bin/env python3
"""Prepares CMU AN4: spoken names, addresses, letters and numbers, 16 kHz, about 70 minutes.

The official test set becomes the test split and is never trained on; the dev split is cut from
the official training set by speaker. Rights: Carnegie Mellon University, 1991; free to use,
modify and redistribute with its notice (the LICENSE file of the corpus).
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import tempfile
import urllib.error
from pathlib import Path

import click

from speechssl.cli.main import OneLineErrors
from speechssl.data.corpus import download_file, write_corpus
from speechssl.data.normalization import normalize_text
from speechssl.data.splitting import hold_out
from speechssl.data.utterance import Rejected, Utterance
from speechssl.errors import ManifestError

ARCHIVE = "https://github.com/cmusphinx/an4/archive/refs/heads/master.tar.gz"
"""The public repository of the corpus."""

RIGHTS = "Carnegie Mellon University, 1991; free with its notice, see LICENSE in the corpus."

DEV_SPEAKERS = 0.1
"""Share of the training speakers that become the dev split."""


@click.command(
    cls=OneLineErrors,
    epilog="\b\nExample:\n  python tools/prepare_an4.py data/an4 --corpus ~/corpora/an4",
    help="Writes OUT/{train,dev,test}/cuts.jsonl.gz for CMU AN4 and a report.",
)
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--corpus",
    type=click.Path(path_type=Path),
    help="The folder of the corpus, with etc/ and wav/; without it AN4 is downloaded.",
)
@click.option(
    "--download",
    type=click.Path(path_type=Path),
    help="Where the download is kept (default: OUT/download).",
)
@click.option("--overwrite", is_flag=True, help="Replace another corpus in OUT.")
def main(out: Path, corpus: Path | None, download: Path | None, overwrite: bool) -> None:
    folder = corpus if corpus is not None else fetch(download or out / "download")
    train, bad_train = read_part(folder, "train")
    test, bad_test = read_part(folder, "test")
    dev_speakers = sorted(hold_out((u.speaker or "" for u in train), DEV_SPEAKERS))
    splits = {
        "train": [u for u in train if u.speaker not in dev_speakers],
        "dev": [u for u in train if u.speaker in dev_speakers],
        "test": test,
    }
    write_corpus(
        out,
        splits,
        corpus="CMU AN4",
        rights=RIGHTS,
        rejected=bad_train + bad_test,
        notes=[f"dev: the speakers {' '.join(dev_speakers)} of the official training set"],
        overwrite=overwrite,
    )


def read_part(folder: Path, part: str) -> tuple[list[Utterance], list[Rejected]]:
    """The recordings that etc/an4_<part>.fileids lists, with their transcripts.

    A line of fileids is ``an4_clstk/<speaker>/<id>``; a line of the transcription is
    ``<s> HELLO </s> (<id>)``. Recordings without a transcript are rejected. Raises
    ``ManifestError`` if the folder is not AN4.
    """
    texts = {}
    for line in _read(folder, f"etc/an4_{part}.transcription"):
        match = re.fullmatch(r"(.*)\(([^()\s]+)\)", line)
        if match:
            texts[match[2]] = normalize_text(re.sub(r"</?s>", " ", match[1]), "en")
    utterances, rejected = [], []
    for line in _read(folder, f"etc/an4_{part}.fileids"):
        audio = folder / "wav" / f"{line}.wav"
        text = texts.get(audio.stem)
        if text:
            utterances.append(Utterance(audio.stem, audio, text, audio.parent.name, "en"))
        else:
            rejected.append(Rejected(line, "has no transcript"))
    return utterances, rejected


def _read(folder: Path, name: str) -> list[str]:
    try:
        text = (folder / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ManifestError(
            f"{folder}: is not the AN4 corpus ({name} is missing or unreadable); give the folder "
            "that holds etc/ and wav/, or leave --corpus out to download it."
        ) from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def fetch(cache: Path) -> Path:
    """Downloads and unpacks AN4 into ``cache`` unless it is there; returns its folder.

    Raises ``ManifestError`` if the network or the archive fails.
    """
    folder = cache / "an4"
    if folder.is_dir():
        return folder
    archive = cache / "an4.tar.gz"
    try:
        if not archive.exists():
            download_file(ARCHIVE, archive)
        unpack(archive, folder)
    except (urllib.error.URLError, tarfile.TarError, OSError, EOFError) as error:
        archive.unlink(missing_ok=True)
        raise ManifestError(
            f"{ARCHIVE}: cannot be downloaded or unpacked ({error}); fetch the repository "
            "yourself and give its folder with --corpus."
        ) from None
    return folder


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks an archive with one folder on top, which becomes ``folder``, all or nothing."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
        tops = [top for top in Path(temporary).iterdir() if top.is_dir()]
        if len(tops) != 1:
            raise tarfile.TarError("the archive does not hold one folder")
        shutil.move(os.fspath(tops[0]), folder)


if __name__ == "__main__":
    main()
