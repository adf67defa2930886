from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from speechssl.errors import ConfigError
from speechssl.models.presets import PRESETS
from speechssl.objectives import build_objective, load_objective
from speechssl.training.plan import Run
from speechssl.training.recipe import FinetuneRecipe, PretrainRecipe, encoder_settings, load_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted([*ROOT.glob("recipes/*.yaml"), *ROOT.glob("egs/*/conf/*.yaml")])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_recipe_that_we_ship_is_valid(path: Path) -> None:
    if path.stem.startswith("ctc"):
        finetune = load_recipe(FinetuneRecipe, path)
        assert finetune.model.get("preset") in PRESETS
    else:
        pretrain = load_recipe(PretrainRecipe, path)
        if path.stem.startswith("continued"):
            assert load_objective(pretrain.objective["kind"]) is not None
            with pytest.raises(ConfigError, match="--init"):
                encoder_settings(pretrain.model)
        else:
            with torch.device("meta"):
                build_objective(pretrain.objective, encoder_settings(pretrain.model), 100)


def test_a_recipe_for_the_other_command() -> None:
    with pytest.raises(ConfigError, match=r"clusters_tiny\.yaml: is a recipe to pretrain"):
        load_recipe(FinetuneRecipe, ROOT / "recipes/clusters_tiny.yaml")
    with pytest.raises(ConfigError, match=r"ctc_tiny\.yaml: is a recipe to fine-tune"):
        load_recipe(PretrainRecipe, ROOT / "recipes/ctc_tiny.yaml")


def test_a_child_holds_only_its_differences(tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text("optimizer: {lr: 1e-3, weight_decay: 0.1}\n")
    (tmp_path / "child.yaml").write_text("parent: parent.yaml\noptimizer: {lr: 2e-3}\n")
    recipe = load_recipe(PretrainRecipe, tmp_path / "child.yaml", ["training.updates=7"])
    assert recipe.optimizer.lr == 2e-3
    assert recipe.optimizer.weight_decay == 0.1
    assert recipe.training.updates == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimiser: {lr: 1e-3}", "did you mean 'optimizer'"),
        ("optimizer: {learning_rate: 1e-3}", "unknown setting 'learning_rate'"),
        ("optimizer: {lr: fast}", "expected a number, found 'fast'"),
        ("optimizer: {lr: -1}", "lr must be positive, but is -1"),
        ("training: {updates: 2.5}", "expected a whole number"),
        ("training: {updates: .inf}", "expected a whole number"),
        ("training: {precision: fp16}", "must be one of bf16, fp32"),
        ("training: {max_grad_norm: 0}", "max_grad_norm must be positive"),
        ("schedule: {warmup: 1}", "warmup must be from 0 to below 1"),
        ("schedule: {kind: tri_stage, final_scale: 0}", "final_scale must be positive"),
        ("schedule: {final_scale: -1}", "final_scale must be 0 or more"),
        ("data: {max_seconds: 100}", "max_seconds must be at most forward_seconds"),
        ("data: {max_seconds: 0.1}", "max_seconds must be at least min_seconds (0.4)"),
        ("data: {batch_seconds: .inf}", "batch_seconds must be positive"),
        ("data: {cache_gb: .inf}", "cache_gb must be 0 or more"),
        ("data: {threads: 0}", "threads must be at least 1"),
        ("optimizer: {lr: .inf}", "lr must be positive"),
        ("optimizer: {betas: [0.9, 1]}", "betas must be in [0, 1)"),
        ("optimizer: {eps: -1}", "eps must be 0 or more"),
        ("optimizer: {weight_decay: .nan}", "weight_decay must be 0 or more"),
        ("- a list", "expected a mapping"),
        ("model: {preset: tiny", "is not valid YAML"),
        ("parent: nowhere.yaml", "no such file"),
    ],
)
def test_a_bad_recipe_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text + "\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(PretrainRecipe, path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_override_names_the_nearest_setting(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("training: {updates: 3}\n")
    with pytest.raises(ConfigError, match="did you mean 'training'"):
        load_recipe(PretrainRecipe, path, ["trainign.updates=5"])
    with pytest.raises(ConfigError, match="expected setting=value"):
        load_recipe(PretrainRecipe, path, ["training.updates"])
    with pytest.raises(ConfigError, match="'\\[5' is no YAML value") as caught:
        load_recipe(PretrainRecipe, path, ["training.updates=[5"])
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="is a folder; give the path of a YAML file"):
        load_recipe(PretrainRecipe, tmp_path)


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("updates=5", "lacks its section; write training.updates=5."),
        ("layers=3", "lacks its section; write model.layers=3."),
        ("kind=tri_stage", "lacks its section; write schedule.kind=tri_stage."),
        ("keys=3", "unknown setting 'keys'"),
    ],
)
def test_an_override_without_its_section_is_told_where_it_belongs(
    tmp_path: Path, override: str, answer: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("training: {updates: 3}\n")
    with pytest.raises(ConfigError, match=re.escape(answer)):
        load_recipe(PretrainRecipe, path, [override])


@pytest.mark.parametrize("name", ["100", "null", "a #b"])
def test_targets_may_have_any_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("objective: {kind: clusters}\ndata: {targets: other, threads: 3}\n")
    for recipe in (
        load_recipe(PretrainRecipe, path, targets=name),
        Run(path, tmp_path, targets=name).load(),
    ):
        assert (recipe.data.targets, recipe.data.threads) == (name, 3)


def test_a_recipe_cannot_be_its_own_ancestor(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("parent: b.yaml\n")
    (tmp_path / "b.yaml").write_text("parent: a.yaml\n")
    with pytest.raises(ConfigError, match="its own parent"):
        load_recipe(PretrainRecipe, tmp_path / "a.yaml")
