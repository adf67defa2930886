"""Pretraining goes on from a model, and large models are fine-tuned by adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from speechssl.cli.main import group
from speechssl.clustering import LabelConfig, label
from speechssl.config import read_yaml, write_yaml
from speechssl.data.targets import TargetsMeta, codebook_path
from speechssl.files import sha256
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder
from speechssl.models.folder import (
    load_ctc,
    load_encoder,
    load_model_folder,
    load_objective_weights,
    save_model_folder,
)
from speechssl.objectives import build_objective
from speechssl.objectives.base import EXTRA_STATE, Objective, RunClock
from speechssl.training.continuing import check_targets, continued_settings, take_heads
from speechssl.training.recipe import encoder_settings
from speechssl.training.run_folder import RunFolder
from tests.training.conftest import MICRO_MODEL

STILL = ["optimizer.lr=1e-9", "training.updates=1", "training.validate_every=1"]
"""A run in which nothing moves."""


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(group, [str(a) for a in arguments])


def continued(folder: Path, recipe: Path, objective: dict[str, object]) -> Path:
    """The recipe with that objective and nothing about the model."""
    path = folder / "continued.yaml"
    path.write_text(write_yaml({**read_yaml(recipe), "model": {}, "objective": objective}))
    return path


def contrastive_model(path: Path) -> dict[str, torch.Tensor]:
    """A model folder as importing a wav2vec 2.0 checkpoint leaves it, with sizes of its own."""
    torch.manual_seed(3)
    config = encoder_settings(MICRO_MODEL)
    settings = {
        "kind": "contrastive",
        "entries": 6,
        "codeword_size": 12,
        "projection_size": 10,
        "distractors": 5,
    }
    heads = build_objective(settings, config).state_dict()
    info = {"imported": {"from": "transformers"}, "recipe": {"objective": settings}}
    save_model_folder(path, Encoder(config), objective=heads, info=info)
    return heads


def test_heads_and_their_settings_come_along(
    corpus_copy: Path, pretrain_recipe: Path, tmp_path: Path
) -> None:
    heads = contrastive_model(tmp_path / "model")
    recipe = continued(tmp_path, pretrain_recipe, {"kind": "contrastive", "temperature_start": 0.5})
    exp = tmp_path / "exp"
    result = cli("pretrain", recipe, corpus_copy, exp, "--init", tmp_path / "model", *STILL)
    assert result.exit_code == 0, result.output
    settings = RunFolder(exp).description()["recipe"]["objective"]
    assert (settings["entries"], settings["temperature_start"]) == (6, 0.5)
    after = load_objective_weights(exp / "model")
    assert after.keys() == heads.keys()
    for name, value in heads.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-5)
    before = load_encoder(tmp_path / "model").state_dict()
    for name, value in load_encoder(exp / "model").state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-5)

    result = cli("pretrain", recipe, corpus_copy, tmp_path / "scratch")
    assert result.exit_code == 2
    assert "or start from a model with --init" in result.output


def targets_of(codebook: str, features: str = "mfcc") -> TargetsMeta:
    return TargetsMeta(codebook, "", features, None, 8, 50)


def taken(objective: Objective, kind: str, init: Path, targets: TargetsMeta | None) -> set[str]:
    """The heads that changed when those of ``init`` were taken over."""
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    take_heads(objective, kind, init, targets)
    given = load_objective_weights(init)
    after = objective.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert all(torch.equal(after[name], given[name]) for name in changed)
    return changed


def test_the_clock_starts_anew(tmp_path: Path) -> None:
    """What moves from update to update would else stand still until the new run is as far."""
    config, kind = encoder_settings(MICRO_MODEL), {"kind": "vq_vae", "entries": 8}
    before = build_objective(kind, config)
    assert isinstance(before, RunClock)
    before.fraction = 1.0
    info = {"recipe": {"objective": kind}}
    save_model_folder(tmp_path, Encoder(config), objective=before.state_dict(), info=info)
    after = build_objective(kind, config)
    assert isinstance(after, RunClock)
    take_heads(after, "vq_vae", tmp_path, None)
    assert after.fraction is None
    own, theirs = after.state_dict(), before.state_dict()
    assert all(torch.equal(own[n], theirs[n]) for n in own if not n.endswith(EXTRA_STATE))


def test_another_size_of_a_head_starts_new(tmp_path: Path) -> None:
    contrastive_model(tmp_path / "model")
    settings = continued_settings(tmp_path / "model", {"kind": "contrastive", "entries": 7})
    assert (settings["entries"], settings["codeword_size"]) == (7, 12)
    objective = build_objective(settings, encoder_settings(MICRO_MODEL))
    heads = taken(objective, "contrastive", tmp_path / "model", None)
    linear = ("project_context", "project_target")
    assert heads == {f"{name}.{part}" for name in linear for part in ("weight", "bias")}


def test_another_objective_takes_the_encoder_alone(tmp_path: Path) -> None:
    contrastive_model(tmp_path / "model")
    settings = continued_settings(tmp_path / "model", {"kind": "clusters"})
    assert settings == {"kind": "clusters"}
    objective = build_objective(settings, encoder_settings(MICRO_MODEL), 8)
    assert taken(objective, "clusters", tmp_path / "model", targets_of("a")) == set()
    save_model_folder(tmp_path / "bare", Encoder(encoder_settings(MICRO_MODEL)))
    assert taken(objective, "clusters", tmp_path / "bare", targets_of("a")) == set()


@pytest.mark.parametrize(
    ("known", "found", "same"), [("a", "a", True), ("a", "b", False), (None, "b", True)]
)
def test_cluster_embeddings_belong_to_their_codebook(
    known: str | None, found: str, same: bool, tmp_path: Path
) -> None:
    """An imported model does not say which codebook it had."""
    torch.manual_seed(3)
    config = encoder_settings(MICRO_MODEL)
    settings = {"kind": "clusters", "projection_size": 10}
    heads = build_objective(settings, config, 8).state_dict()
    info = {"recipe": {"objective": settings}, **({"codebook": known} if known else {})}
    save_model_folder(tmp_path / "model", Encoder(config), objective=heads, info=info)
    objective = build_objective(settings, config, 8)
    found_heads = taken(objective, "clusters", tmp_path / "model", targets_of(found))
    assert ("cluster_embeddings" in found_heads) == same
    assert "project_context.weight" in found_heads


def test_targets_of_the_model_itself_are_best(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    contrastive_model(tmp_path / "model")
    own = sha256(tmp_path / "model" / "model.safetensors")
    check_targets(tmp_path / "model", targets_of("a", own))
    check_targets(tmp_path / "model", None)
    assert caplog.text == ""
    check_targets(tmp_path / "model", targets_of("a", "mfcc"))
    assert "were not made with" in caplog.text


def test_a_run_keeps_the_codebook_that_it_was_trained_on(
    corpus_copy: Path, pretrain_recipe: Path, tmp_path: Path
) -> None:
    label(corpus_copy, "mfcc", ["train", "dev"], LabelConfig(clusters=8))
    exp = tmp_path / "exp"
    run = ["pretrain", pretrain_recipe, corpus_copy, exp, "--targets", "mfcc", *STILL]
    assert cli(*run).exit_code == 0
    codebook = sha256(codebook_path(corpus_copy, "mfcc"))
    assert load_model_folder(exp / "model").info["codebook"] == codebook


def test_a_recipe_of_another_size_is_refused(
    corpus_copy: Path, pretrain_recipe: Path, tmp_path: Path
) -> None:
    contrastive_model(tmp_path / "model")
    recipe = continued(tmp_path, pretrain_recipe, {"kind": "contrastive"})
    result = cli(
        "pretrain", recipe, corpus_copy, tmp_path / "exp", "--init", tmp_path / "model",
        "model.dim=64",
    )  # fmt: skip
    assert result.exit_code == 2
    assert "has shape" in result.output
    assert not (tmp_path / "exp").exists()


def test_adapters_are_merged_into_a_plain_model(
    corpus_copy: Path, finetune_recipe: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    encoder = Encoder(encoder_settings(MICRO_MODEL))
    save_model_folder(tmp_path / "large", encoder)
    exp = tmp_path / "exp"
    adapters = ["finetune.adapter_rank=4", "finetune.freeze_encoder=0", "optimizer.lr=1e-2"]
    arguments = [finetune_recipe, corpus_copy, exp, "--init", tmp_path / "large", *adapters]
    result = cli("finetune", *arguments)
    assert result.exit_code == 0, result.output
    weights = RunFolder(exp).load_weights(8)
    assert weights["model.encoder.layers.0.attention.query.parametrizations.weight.0.up"].any()

    model, _ = load_ctc(exp / "model")
    before, after = encoder.state_dict(), model.encoder.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    linear = {n for n, module in encoder.named_modules() if isinstance(module, nn.Linear)}
    assert changed == {f"{name}.weight" for name in linear if name.startswith("layers.")}
    loaded = load_model_folder(exp / "model")
    assert isinstance(loaded.model, CTCModel)


def test_adapters_where_they_make_no_sense(
    corpus_copy: Path, finetune_recipe: Path, tmp_path: Path
) -> None:
    save_model_folder(tmp_path / "large", Encoder(encoder_settings(MICRO_MODEL)))
    adapters = "finetune.adapter_rank=4"
    for init, more, message in (
        ("none", [], "adapters need a pretrained encoder"),
        (tmp_path / "large", ["training.data_parallel=fsdp"], "set it to ddp"),
        (tmp_path / "large", ["finetune.adapter_rank=-1"], "adapter_rank must be 0 or more"),
    ):
        exp = tmp_path / "exp"
        result = cli("finetune", finetune_recipe, corpus_copy, exp, "--init", init, adapters, *more)
        assert result.exit_code == 2
        assert message in result.output
        assert not exp.exists()
