"""The corpus that data loading reads: the user's, or generated files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
from lhotse import CutSet, MonoCut, Recording

from speechssl.data.manifest import load_cuts
from speechssl.frames import SAMPLE_RATE
from tools.bench.cases import Case


def prepare_corpus(case: Case, folder: Path, cuts: Path | None) -> Case:
    """Writes ``folder/corpus/cuts.jsonl.gz``; returns the case with the lengths of those cuts.

    ``cuts`` is a manifest, or None to generate FLAC files of the case's lengths. Raises
    ``ManifestError`` where the manifest cannot be read.
    """
    corpus = folder / "corpus"
    corpus.mkdir()
    if cuts is None:
        chosen = CutSet.from_cuts([_generate(corpus, i, s) for i, s in enumerate(case.seconds)])
    else:
        chosen = load_cuts(cuts)
    chosen.to_file(corpus / "cuts.jsonl.gz")
    return replace(case, seconds=tuple(cut.duration for cut in chosen))


def _generate(folder: Path, number: int, seconds: float) -> MonoCut:
    """A recording of noise that swells and fades, about as hard to decode as speech."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(number).standard_normal(len(time))
    samples = 0.05 * (1.1 + np.sin(8 * time)) * np.convolve(noise, np.ones(4) / 4, "same")
    path = folder / f"{number:05d}.flac"
    soundfile.write(path, samples.astype(np.float32), SAMPLE_RATE)
    recording = Recording.from_file(path)
    return MonoCut(path.stem, 0.0, recording.duration, 0, recording=recording)
