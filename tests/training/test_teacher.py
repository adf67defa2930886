"""Real runs of objectives with a teacher: resuming, sharing between processes, exporting."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from speechssl.config import read_yaml, write_yaml
from speechssl.errors import ConfigError
from speechssl.objectives import build_objective
from speechssl.training.pretraining import check_sharding
from speechssl.training.recipe import TrainingConfig
from tests.contracts.toys import toy_encoder
from tests.training.test_pretraining import (
    assert_close_weights,
    cli,
    losses,
    refuses,
    run_processes,
    weights,
)

EXACT = "training.precision=fp32"


@pytest.fixture
def recipe(pretrain_recipe: Path) -> Path:
    """DinoSR on a micro encoder, with a teacher and codebooks that remember some updates."""
    values = read_yaml(pretrain_recipe)
    values["objective"] = {
        "kind": "online_clusters",
        "entries": 8,
        "codebook_horizon": 0.5,
        "teacher": {"horizon_start": 0.5, "horizon_end": 2.0},
    }
    path = pretrain_recipe.with_name("online_clusters.yaml")
    path.write_text(write_yaml(values))
    return path


def test_a_resumed_run_has_the_same_teacher(
    corpus_copy: Path, recipe: Path, tmp_path: Path
) -> None:
    exp = tmp_path / "exp"
    arguments = ["pretrain", recipe, corpus_copy, exp, EXACT, "training.keep_last=2"]
    assert cli(*arguments).exit_code == 0
    unbroken, curve = weights(exp), losses(exp)
    shutil.rmtree(exp / "checkpoints" / "step_8")
    assert cli(*arguments).exit_code == 0
    again = weights(exp)
    assert again.keys() == unbroken.keys()
    assert losses(exp) == pytest.approx(curve, rel=1e-5)
    for name, value in unbroken.items():
        torch.testing.assert_close(again[name], value, rtol=1e-4, atol=1e-5, msg=name)

    teacher = [name for name in unbroken if name.startswith("objective.teacher.")]
    layer = "layers.0.feed_forward.expand.weight"
    assert f"objective.teacher.model.{layer}" in teacher
    apart = unbroken[f"objective.teacher.model.{layer}"] - unbroken[f"encoder.{layer}"]
    assert float(apart.abs().max()) > 0
    exported = load_file(exp / "model" / "model.safetensors")
    assert not any("teacher" in name for name in exported)
    assert "objective.codebooks.totals" in exported


def test_two_processes_have_one_teacher_and_one_codebook(
    corpus_copy: Path, recipe: Path, tmp_path: Path
) -> None:
    runs = {number: tmp_path / str(number) for number in (1, 2)}
    for number, exp in runs.items():
        arguments = ["pretrain", str(recipe), str(corpus_copy), str(exp), EXACT]
        run_processes(number, [*arguments, "training.updates=4"])
    assert losses(runs[2]) == pytest.approx(losses(runs[1]), rel=1e-5)
    assert_close_weights(runs[2], weights(runs[1]))


def test_a_teacher_cannot_be_sharded(corpus_copy: Path, recipe: Path, tmp_path: Path) -> None:
    arguments = ["pretrain", recipe, corpus_copy, tmp_path / "exp"]
    refuses(cli(*arguments, "training.data_parallel=fsdp"), "teacher", "set it to ddp")
    assert not (tmp_path / "exp").exists()


def test_only_a_teacher_is_in_the_way_of_sharding() -> None:
    sharded, encoder = TrainingConfig(data_parallel="fsdp"), toy_encoder()
    check_sharding(sharded, build_objective({"kind": "contrastive"}, encoder))
    simsiam = {"kind": "two_views", "target": "stop_gradient"}
    check_sharding(sharded, build_objective(simsiam, encoder))
    for kind in ("distillation", "online_clusters", "two_views"):
        objective = build_objective({"kind": kind}, encoder)
        check_sharding(TrainingConfig(), objective)
        with pytest.raises(ConfigError, match="fsdp cannot train"):
            check_sharding(sharded, objective)
