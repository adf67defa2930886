"""``speechssl doctor``, ``--on-collapse`` and reference curves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut, Recording

from speechssl.config import to_dict, write_yaml
from speechssl.models.presets import encoder_config
from speechssl.training.curves import read_metrics
from speechssl.training.recipe import PretrainRecipe, load_recipe
from speechssl.training.reference import copy_reference, read_reference, reference_path
from speechssl.training.run_folder import RunFolder

MICRO = {
    "model": {
        "preset": "tiny",
        "dim": 16,
        "layers": 1,
        "heads": 2,
        "ffn_dim": 32,
        "position_kernel": 8,
        "position_groups": 2,
    },
    "objective": {"kind": "reconstruction"},
    "data": {"batch_seconds": 4, "forward_seconds": 4, "max_seconds": 4, "threads": 1},
    "training": {"updates": 8, "log_every": 1, "validate_every": 4},
}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipes" / "micro.yaml"
    path.parent.mkdir()
    path.write_text(write_yaml(MICRO))
    return path


@pytest.fixture
def silence(tmp_path):
    """A DATA_DIR whose recordings hold nothing."""
    cuts = []
    for number in range(4):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, np.zeros(16_000 + 800 * number, np.float32), 16_000)
        recording = Recording.from_file(path)
        cuts.append(MonoCut(path.stem, 0.0, recording.duration, 0, recording=recording))
    (tmp_path / "data" / "train").mkdir(parents=True)
    CutSet.from_cuts(cuts).to_file(tmp_path / "data" / "train" / "cuts.jsonl.gz")
    return tmp_path / "data"


def test_a_run_on_silence_is_stopped_and_explained(speechssl, recipe, silence, tmp_path):
    exp = tmp_path / "exp"
    reference_path(recipe).parent.mkdir()
    reference_path(recipe).write_text(json.dumps({"init": True, "recipe": {}}) + "\n")
    stop = ["pretrain", recipe, silence, exp, "--on-collapse", "stop"]
    result = speechssl(*stop)
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "update 1: silent data: 100% of the recordings are silent" in line
    assert f"check the audio of data (it is {silence})" in line
    assert [row["silence_share"] for row in read_metrics(exp, "train")] == [1.0]
    assert (exp / "reference.jsonl").is_file(), "each run has the reference of its recipe"

    result = speechssl("doctor", exp)
    assert result.exit_code == 1, result.output
    assert "since update 1: silent data: 100%" in result.stdout
    assert (exp / "curves.png").stat().st_size > 20_000

    result = speechssl(*stop[:-1], "warn")
    assert result.exit_code == 0, result.output
    said = [line for line in result.stderr.splitlines() if line.startswith("doctor:")]
    assert len(said) == 1, "a symptom is told once"
    assert read_metrics(exp, "train")[-1]["Step"] == 8


def make_run(exp: Path, recipe: Path, batch_seconds: float = 4.0, updates: int = 8) -> Path:
    """The folder of a healthy run with the settings of ``recipe``, as training leaves it."""
    overrides = [f"data.batch_seconds={batch_seconds}"]
    settings = to_dict(load_recipe(PretrainRecipe, recipe, overrides))
    changes = {name: value for name, value in MICRO["model"].items() if name != "preset"}
    description = {
        "kind": "pretrain",
        "data": "data",
        "init": None,
        "seed": 0,
        "encoder": to_dict(encoder_config("tiny", changes)),
        "recipe": settings,
    }
    RunFolder(exp).claim(description)
    (exp / "metrics").mkdir()
    rows = [
        {"Step": step, "loss": 1.0 - 0.05 * step, "loss_trivial": 1.0, "grad_norm": 1 / 3}
        for step in range(1, updates + 1)
    ]
    lines = [json.dumps(row) for row in rows]
    (exp / "metrics" / "train.jsonl").write_text("\n".join([*lines, '{"Step": 9, "lo']))
    return exp


def test_a_healthy_run(speechssl, recipe, tmp_path):
    result = speechssl("doctor", make_run(tmp_path / "exp", recipe))
    assert result.exit_code == 0, result.output
    assert "update 8 of 8\nnothing is wrong\n" in result.stdout
    assert "sick" in result.stdout.splitlines()[0]
    states = [line.split()[-1] for line in result.stdout.split("\n\n")[0].splitlines()[1:]]
    assert states == ["well"] * len(states)


def test_a_reference_is_kept_with_the_recipe_and_drawn_behind_its_runs(
    speechssl, fails, recipe, tmp_path
):
    model = make_run(tmp_path / "model", recipe)
    assert speechssl("doctor", model, "--save-reference", recipe).exit_code == 0
    kept = reference_path(recipe)
    assert kept == recipe.parent / "reference" / "micro.jsonl"
    header, *rows = map(json.loads, kept.read_text().splitlines())
    assert header["recipe"]["objective"] == {"kind": "reconstruction"}
    assert rows[-1] == {
        "split": "train", "Step": 8, "grad_norm": 0.3333, "loss": 0.6, "loss_trivial": 1.0
    }  # fmt: skip
    assert "exists" in fails("doctor", model, "--save-reference", recipe)

    exp = make_run(tmp_path / "exp", recipe, batch_seconds=8.0)
    assert speechssl("doctor", exp).exit_code == 0
    alone = (exp / "curves.png").read_bytes()
    copy_reference(recipe, exp)
    reference = read_reference(exp)
    assert [row["Step"] for row in reference["train"]] == [0.5 * step for step in range(1, 9)]
    assert speechssl("doctor", exp).exit_code == 0
    assert (exp / "curves.png").read_bytes() != alone

    header["encoder"]["layers"] = 2
    (exp / "reference.jsonl").write_text(json.dumps(header) + "\n")
    assert read_reference(exp) is None, "another encoder is no reference"


def test_what_cannot_be_a_reference(speechssl, fails, recipe, tmp_path):
    other = make_run(tmp_path / "other", recipe, batch_seconds=8.0)
    message = fails("doctor", other, "--save-reference", recipe)
    assert "different: data.batch_seconds" in message
    short = make_run(tmp_path / "short", recipe, updates=5)
    assert "is not finished (8 updates)" in fails("doctor", short, "--save-reference", recipe)
    assert not reference_path(recipe).exists()
    assert "is not a run folder" in fails("doctor", tmp_path)
    (short / "metrics" / "train.jsonl").unlink()
    assert "has no reports yet" in fails("doctor", short)
