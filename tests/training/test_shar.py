"""Training from Lhotse Shar alone is training from the manifest that it was made from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import soundfile
import torch
from click.testing import CliRunner

from speechssl.cli.main import group
from speechssl.data.corpus import write_corpus
from speechssl.data.shards import write_shards
from speechssl.data.utterance import Utterance
from speechssl.training.run_folder import RunFolder
from tests.conftest import WORDS, speak


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A corpus of 16-bit recordings at 16 kHz, of which Shar loses nothing, in both forms."""
    utterances = []
    for number, word in enumerate(WORDS):
        audio = tmp_path / "audio" / f"{number}.wav"
        audio.parent.mkdir(exist_ok=True)
        soundfile.write(audio, *speak(f"{word} {WORDS[number - 3]}"))
        utterances.append(Utterance(audio.stem, audio, word))
    splits = {"train": utterances[:6], "dev": utterances[6:]}
    write_corpus(tmp_path / "data", splits, corpus="toy")
    write_shards(tmp_path / "data")
    return tmp_path / "data"


def cli(*arguments: object) -> str:
    result = CliRunner().invoke(group, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def weights(exp: Path) -> dict[str, torch.Tensor]:
    folder = RunFolder(exp)
    return folder.load_weights(folder.choose("last"))


def valid_losses(exp: Path) -> list[float]:
    lines = (exp / "metrics" / "valid.jsonl").read_text().splitlines()
    assert lines, "dev was found and validated on"
    return [json.loads(line)["loss"] for line in lines]


def test_two_updates_are_the_same(data: Path, pretrain_recipe: Path, tmp_path: Path) -> None:
    short = ["--targets", "mfcc", "training.updates=2", "training.validate_every=2"]
    cli("label", data, "--name", "mfcc", "--clusters", 8)
    cli("pretrain", pretrain_recipe, data, tmp_path / "plain", *short)
    for manifest in data.glob("*/cuts.jsonl.gz*"):
        manifest.unlink()
    shutil.rmtree(tmp_path / "audio")
    moved = data.rename(tmp_path / "moved")

    cli("pretrain", pretrain_recipe, moved, tmp_path / "shar", *short)
    expected, found = weights(tmp_path / "plain"), weights(tmp_path / "shar")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert valid_losses(tmp_path / "plain") == valid_losses(tmp_path / "shar")

    assert "train: " in cli("label", moved, "--name", "again", "--clusters", 8)
    assert sorted(moved.glob("dev/*again*")), "dev is found too"
    assert "utterances       6" in cli("info", moved)
    assert "utterances       2" in cli("info", moved / "dev" / "shar")
