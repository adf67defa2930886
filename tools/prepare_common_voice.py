#!/usr/bin/env python3
"""Prepares one language of Mozilla Common Voice: sentences read aloud by volunteers, mp3.

The tables are read here and not by Lhotse's recipe, which knows the columns of recent releases
only, stops at the first damaged clip, and starts a process per table.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import click

from speechssl.data.lhotse_corpus import NamedCorpus, corpus_command, require_files
from speechssl.data.manifest import SPLITS
from speechssl.data.normalization import normalize_text
from speechssl.data.utterance import Listing, Rejected, Utterance
from speechssl.errors import ManifestError

CORPUS = NamedCorpus(
    name="Common Voice",
    size="From minutes to thousands of hours in more than 100 languages, growing with every "
    "release.",
    rights="CC0 1.0 (Mozilla and volunteers); its terms forbid to identify speakers.",
    home="https://commonvoice.mozilla.org/datasets (downloading takes agreeing to its terms)",
    layout="train.tsv, dev.tsv, test.tsv and clips/, or one such folder per language",
)


@corpus_command(
    CORPUS,
    "python tools/prepare_common_voice.py data/sw --language sw --corpus ~/cv-corpus-17.0",
    about="Speakers of dev and test are in no other split, whatever is added to train.",
)
@click.option("--language", required=True, help="Code of the language, as sw or zh-CN.")
@click.option(
    "--validated", is_flag=True, help="Train on all validated clips, not the official train split."
)
@click.option(
    "--other", is_flag=True, help="Add the clips that nobody has checked, without transcripts."
)
def main(folder: Path, jobs: int, language: str, validated: bool, other: bool) -> Listing:
    if (folder / language).is_dir():
        folder = folder / language
    require_files(CORPUS, folder, "clips", *(f"{split}.tsv" for split in SPLITS))
    listing = Listing()
    held_out: set[str] = set()  # speakers and clips of dev and test
    for split in ("test", "dev"):
        for clip in read_table(folder, split, language, split, listing):
            listing.utterances.append(clip)
            held_out |= {clip.id, clip.speaker or clip.id}
    tables = ["train", *(["validated"] * validated), *(["other"] * other)]
    seen: set[str] = set()
    for table in tables:
        for clip in read_table(folder, table, language, "train", listing, text=table != "other"):
            if clip.id not in seen and not {clip.id, clip.speaker} & held_out:
                seen.add(clip.id)
                listing.utterances.append(clip)
    listing.notes.append(f"train: {' and '.join(f'{table}.tsv' for table in tables)}")
    return listing


def read_table(
    folder: Path, table: str, language: str, split: str, listing: Listing, text: bool = True
) -> Iterator[Utterance]:
    """The clips of ``<table>.tsv``; those whose sentence has no word go to ``listing.rejected``.

    Raises ``ManifestError`` if it is missing or no such table.
    """
    path = folder / f"{table}.tsv"
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
        for row in rows:
            sentence = normalize_text(row["sentence"] or "", language) if text else None
            if sentence == "":
                listing.rejected.append(
                    Rejected(Path(row["path"]).stem, f"sentence {row['sentence']!r} has no word")
                )
                continue
            clip = row["path"] if row["path"].endswith(".mp3") else f"{row['path']}.mp3"
            yield Utterance(
                Path(clip).stem,
                folder / "clips" / clip,
                sentence,
                row["client_id"] or None,
                language,
                split=split,
            )
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, AttributeError, TypeError) as error:
        problem = f"no column {error}" if isinstance(error, KeyError) else str(error)
        raise ManifestError(
            f"{path}: is not a table of Common Voice ({problem}); give the folder that holds "
            f"{CORPUS.layout}."
        ) from None


if __name__ == "__main__":
    main()
