#!/usr/bin/env python3
"""Prepares YesNo: one man says the Hebrew for yes or no eight times in each recording, 8 kHz.

Train and test are every other recording, as in Lhotse's recipe and Kaldi's; dev is three of train.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lhotse.recipes.yesno import download_yesno, prepare_yesno

from speechssl.data.lhotse_corpus import NamedCorpus, corpus_command, run_recipe, utterances
from speechssl.data.splitting import hold_out
from speechssl.data.utterance import Listing

CORPUS = NamedCorpus(
    name="YesNo",
    size="60 recordings of 6 s, 6 minutes (5 MB).",
    rights="free to use, made for Kaldi by a speaker who stays anonymous; its page has the terms.",
    home="https://www.openslr.org/1",
    layout="sixty files such as 0_1_1_0_1_0_0_1.wav (the folder waves_yesno)",
)

DEV_SHARE = 0.1


def download(where: Path) -> Path:
    return download_yesno(where)


@corpus_command(CORPUS, "python tools/prepare_yesno.py data/yesno --download ~/corpora", download)
def main(folder: Path, jobs: int) -> Listing:
    manifests, missing = run_recipe(CORPUS, folder, prepare_yesno, folder)
    # The transcripts are English words, so that is the language whose rules they keep.
    train = list(utterances(manifests["train"], "train", "en"))
    dev = hold_out((utterance.id for utterance in train), DEV_SHARE)
    listing = Listing(rejected=missing)
    listing.utterances += [replace(u, split="dev") if u.id in dev else u for u in train]
    listing.utterances += utterances(manifests["test"], "test", "en")
    return listing


if __name__ == "__main__":
    main()
