"""A small corpus of generated recordings, shared by all tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from numpy.typing import NDArray

from speechssl.data.corpus import write_corpus
from speechssl.data.shards import write_shards
from speechssl.data.utterance import Utterance

WORDS = ("ada", "bede", "cafe", "dach", "eche", "fade", "gaba", "haha")
"""The words of the generated corpus; together they use eight letters."""

SPLITS = {"train": 12, "dev": 4, "test": 4}
"""Recordings in each split."""

SPEAKERS = {"anna": (210.0, 16_000), "boris": (120.0, 8_000)}
"""Pitch in Hz and samples per second of each speaker."""

LETTER_SECONDS = 0.08


def speak(text: str, speaker: str = "anna") -> tuple[NDArray[np.float32], int]:
    """A toy voice: each letter is a buzz with two resonances of its own, a space is silence.

    Returns the samples ([S] float32, within -1..1) and their rate. The same text and speaker
    always give the same samples, and the letters can be told apart, so a model can learn them.
    """
    pitch, rate = SPEAKERS[speaker]
    time = np.arange(round(LETTER_SECONDS * rate)) / rate
    rng = np.random.default_rng(len(text))
    pieces = []
    for letter in f" {text} ":
        first, second = _resonances(letter)
        harmonics = pitch * np.arange(1, int(0.45 * rate / pitch))
        gains = np.exp(-(((harmonics - first) / 120) ** 2))
        gains += 0.6 * np.exp(-(((harmonics - second) / 200) ** 2))
        buzz = (gains[:, None] * np.sin(2 * np.pi * harmonics[:, None] * time)).sum(0)
        loudness = 0.0 if letter == " " else 0.2
        pieces.append(loudness * buzz * np.hanning(len(time)))
    samples = np.concatenate(pieces)
    samples += 0.002 * rng.standard_normal(len(samples))
    return samples.clip(-1, 1).astype(np.float32), rate


def _resonances(letter: str) -> tuple[float, float]:
    place = ord(letter) % 8
    return 300 + 90 * place, 1300 + 250 * (place * 3 % 8)


def write_toy_corpus(data_dir: Path) -> Path:
    """Writes the generated corpus and returns its DATA_DIR; see the ``corpus`` fixture."""
    rng = np.random.default_rng(7)
    for split, count in SPLITS.items():
        cuts = []
        for number in range(count):
            speaker = sorted(SPEAKERS)[number % 2]
            text = " ".join(rng.choice(WORDS, size=rng.integers(2, 5)))
            path = data_dir / "audio" / f"{split}-{number:02d}-{speaker}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, *speak(text, speaker))
            cuts.append(_cut(path, text, speaker))
        folder = data_dir / split
        folder.mkdir()
        CutSet.from_cuts(cuts).to_file(folder / "cuts.jsonl.gz")
    return data_dir


def _cut(path: Path, text: str, speaker: str) -> MonoCut:
    recording = Recording.from_file(path)
    supervision = SupervisionSegment(
        id=path.stem,
        recording_id=recording.id,
        start=0.0,
        duration=recording.duration,
        text=text,
        speaker=speaker,
        language="en",
    )
    return MonoCut(
        id=path.stem,
        start=0.0,
        duration=recording.duration,
        channel=0,
        recording=recording,
        supervisions=[supervision],
    )


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DATA_DIR with 12 train, 4 dev and 4 test recordings of 0.6 to 2 s; do not write to it.

    Two speakers (one at 16 kHz, one at 8 kHz), transcripts of two to four toy words, language en.
    """
    return write_toy_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def shar_corpus(tmp_path: Path) -> Path:
    """A DATA_DIR with 16-bit recordings at 16 kHz, in Lhotse Shar, which loses nothing of them, and
    as ``cuts.jsonl.gz``: six words to train on and two for dev. The audio lies beside it."""
    utterances = []
    for number, word in enumerate(WORDS):
        audio = tmp_path / "audio" / f"{number}.wav"
        audio.parent.mkdir(exist_ok=True)
        soundfile.write(audio, *speak(f"{word} {WORDS[number - 3]}"))
        utterances.append(Utterance(f"Слово/{number}.x", audio, word))
    splits = {"train": utterances[:6], "dev": utterances[6:]}
    write_corpus(tmp_path / "data", splits, corpus="toy")
    write_shards(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def corpus_copy(corpus: Path, tmp_path: Path) -> Path:
    """A DATA_DIR of the test's own, to write targets to: the manifests of ``corpus``."""
    for split in SPLITS:
        shutil.copytree(corpus / split, tmp_path / "data" / split)
    return tmp_path / "data"
