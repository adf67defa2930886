#!/usr/bin/env python3
"""Prepares the Free Spoken Digit Dataset: English digits, one in each recording, 8 kHz.

Lhotse has no recipe for it. As its authors say, recordings 0 to 4 of each digit and speaker are
the test set; 5 to 9 are taken for dev. All six voices are in all splits.
"""

from __future__ import annotations

import re
from pathlib import Path

from speechssl.data.lhotse_corpus import NamedCorpus, corpus_command, fetch_archives, require_files
from speechssl.data.normalization import normalize_text
from speechssl.data.utterance import Listing, Rejected, Utterance

CORPUS = NamedCorpus(
    name="Free Spoken Digit Dataset",
    size="3,000 recordings of 6 speakers, about 20 minutes (15 MB).",
    rights="CC BY-SA 4.0 (Jackson et al., 2018).",
    home="https://github.com/Jakobovski/free-spoken-digit-dataset",
    layout="recordings/DIGIT_SPEAKER_NUMBER.wav",
)

ARCHIVE = f"{CORPUS.home}/archive/refs/heads/master.tar.gz"


def download(where: Path) -> Path:
    fetch_archives([ARCHIVE], where)
    return where / "free-spoken-digit-dataset-master"


@corpus_command(CORPUS, "python tools/prepare_fsdd.py data/fsdd --download ~/corpora", download)
def main(folder: Path, jobs: int) -> Listing:
    require_files(CORPUS, folder, "recordings")
    listing = Listing()
    for audio in sorted((folder / "recordings").glob("*.wav")):
        name = re.fullmatch(r"(\d)_(\w+)_(\d+)", audio.stem)
        if name is None:
            listing.rejected.append(Rejected(audio.stem, "is not named DIGIT_SPEAKER_NUMBER.wav"))
            continue
        digit, speaker, number = name[1], name[2], int(name[3])
        split = "test" if number < 5 else "dev" if number < 10 else "train"
        text = normalize_text(digit, "en")
        listing.utterances.append(Utterance(audio.stem, audio, text, speaker, "en", split=split))
    return listing


if __name__ == "__main__":
    main()
