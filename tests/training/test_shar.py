"""Training from Lhotse Shar alone is training from the manifest that it was made from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from click.testing import CliRunner

from speechssl.cli.main import group
from speechssl.training.run_folder import RunFolder


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


def test_two_updates_are_the_same(shar_corpus: Path, pretrain_recipe: Path, tmp_path: Path) -> None:
    short = ["--targets", "mfcc", "training.updates=2", "training.validate_every=2"]
    cli("label", shar_corpus, "--name", "mfcc", "--clusters", 8)
    cli("pretrain", pretrain_recipe, shar_corpus, tmp_path / "plain", *short)
    for manifest in shar_corpus.glob("*/cuts.jsonl.gz*"):
        manifest.unlink()
    shutil.rmtree(tmp_path / "audio")
    moved = shar_corpus.rename(tmp_path / "moved")

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
