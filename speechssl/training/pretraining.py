"""Pretraining: an encoder and one objective, on cuts without labels.

1. recipe + overrides       -> ``PretrainRecipe``
2. cuts (+ frame targets)   -> checked, before the first update
3. encoder + objective      -> ``PretrainModel``
4. ``engine.train``         -> checkpoints
5. ``export_pretrained``    -> model folder with the encoder and the objective's heads
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from fairseq2.metrics.recorders import MetricRecorder
from torch import Tensor, nn

from speechssl.config import build, to_dict
from speechssl.data.batch import SpeechBatch
from speechssl.data.index import Cuts
from speechssl.data.loading import CutLoader
from speechssl.data.manifest import cuts_path
from speechssl.data.targets import FrameTargets, codebook_path, targets_path
from speechssl.errors import ConfigError, ManifestError
from speechssl.files import sha256
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.models.folder import WEIGHTS, load_encoder, save_model_folder
from speechssl.objectives import build_objective, load_objective
from speechssl.objectives.base import Loss, Objective
from speechssl.objectives.teacher import Teacher
from speechssl.training.augment import change_speed
from speechssl.training.continuing import check_targets, continued_settings, take_heads
from speechssl.training.engine import Job, check_training, is_main_process, train
from speechssl.training.metrics import MetricPairs, OnCollapse, loss_metrics
from speechssl.training.recipe import (
    DataConfig,
    FinetuneRecipe,
    PretrainRecipe,
    TrainingConfig,
    encoder_settings,
    load_recipe,
)
from speechssl.training.reference import copy_reference, draw_run
from speechssl.training.run_folder import CONTENTS, LEXICON, RunFolder

logger = logging.getLogger("speechssl")


class PretrainModel(nn.Module):
    """An encoder and the objective that trains it, on recordings at the speeds drawn."""

    def __init__(
        self, encoder: Encoder, objective: Objective, speeds: Sequence[float] = ()
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.objective = objective
        self.speeds = speeds

    def forward(self, batch: SpeechBatch) -> Loss:
        """The objective's loss of a batch."""
        if self.training and self.speeds:
            batch = change_speed(batch, self.speeds)
        loss: Loss = self.objective(self.encoder, batch)
        return loss

    def set_progress(self, fraction: float) -> None:
        """Passes the share of the run that is done on to the objective: schedules, teacher."""
        self.objective.before_update(self.encoder, fraction)

    def evaluate(self, batch: SpeechBatch) -> MetricPairs:
        """The loss and its metrics, as (sum, count)."""
        return loss_metrics(self(batch))


def pretrain(
    recipe_path: Path,
    data_dir: Path,
    exp: Path,
    *,
    targets: str | None = None,
    seed: int = 0,
    init: Path | None = None,
    overrides: Sequence[str] = (),
    on_collapse: OnCollapse = "warn",
    observer: MetricRecorder | None = None,
) -> Path:
    """Pretrains (or goes on pretraining) in ``exp``; returns the model folder.

    ``init`` is a model folder to start from in place of random weights, with its heads where the
    objective is the same (``training/continuing.py``). ``on_collapse`` and ``observer`` are those
    of the ``Job``. Raises a ``SpeechSSLError`` for a bad recipe,
    manifest, targets, init folder or output folder, and ``CollapseError`` where ``on_collapse`` is
    "stop" and the doctor finds that the run has failed.
    """
    recipe = load_recipe(PretrainRecipe, recipe_path, overrides, targets=targets)
    if init is not None:
        settings = continued_settings(init, recipe.objective)
        recipe = dataclasses.replace(recipe, objective=settings)
    config = first_config(recipe.model, init)
    check_training(recipe.training, recipe.data, config)
    folder = RunFolder(exp)
    splits = _read_splits(data_dir, recipe)
    meta = None if splits["train"][1] is None else splits["train"][1].meta
    clusters = None if meta is None else meta.clusters
    manifest_hash = splits["train"][0].manifest_hash
    description = describe("pretrain", recipe, config, data_dir, manifest_hash, seed, init)
    if meta is not None:
        description["codebook"] = meta.codebook
    folder.check(description)
    check_sharding(recipe.training, build_objective(recipe.objective, config, clusters))
    if init is not None:
        check_targets(init, meta)
    folder.claim(description)
    copy_reference(recipe_path, exp)

    def build_model() -> PretrainModel:
        objective = build_objective(recipe.objective, config, clusters)
        if init is not None:
            take_heads(objective, recipe.objective["kind"], init, meta)
        return PretrainModel(first_encoder(recipe.model, init), objective, recipe.speeds)

    train_cuts, train_targets = splits["train"]
    dev_cuts, dev_targets = splits.get("dev", (None, None))
    data = recipe.data
    train(
        Job(
            exp=exp,
            build_model=build_model,
            train_cuts=train_cuts,
            train_loader=CutLoader(
                targets=train_targets, max_seconds=data.max_seconds, cache_gb=data.cache_gb
            ),
            dev_cuts=dev_cuts,
            dev_loader=CutLoader(
                targets=dev_targets, max_seconds=data.max_seconds, cache_gb=data.cache_gb / 4
            ),
            data=data,
            optimizer=recipe.optimizer,
            schedule=recipe.schedule,
            training=recipe.training,
            seed=seed,
            score="loss",
            static_graph=config.layer_drop == 0 and config.frontend_gradient > 0,
            on_collapse=on_collapse,
            observer=observer,
        )
    )
    if is_main_process():
        draw_run(exp)
        export_pretrained(folder, "last", folder.model)
    return folder.model


def export_pretrained(
    folder: RunFolder, checkpoint: Literal["best", "last"] | int, model_dir: Path
) -> Path:
    """Writes the model folder of one checkpoint: the encoder and the objective's heads. A teacher,
    which is as large as the encoder, stays in the checkpoint."""
    description = folder.description()
    step = folder.choose(checkpoint)
    config = build(EncoderConfig, description["encoder"], str(folder.path))
    encoder = Encoder(config)
    with torch.device("meta"):  # only the names of its parameters count
        objective = build_objective(description["recipe"]["objective"], config, num_clusters=2)
    weights = folder.load_weights(step, PretrainModel(encoder, objective))
    encoder.load_state_dict(_part(weights, "encoder."))
    heads = _part(weights, "objective.")
    save_model_folder(
        model_dir,
        encoder,
        objective={name: value for name, value in heads.items() if not name.startswith("teacher.")},
        info={"updates": step, **description},
    )
    return model_dir


def first_encoder(model: Mapping[str, Any], init: Path | None) -> Encoder:
    """The encoder that training starts from: a new one as a recipe's ``model`` section says, or
    that of the model folder ``init`` with the settings of that section (dropout and the like).

    Raises ``ModelFolderError`` where they ask for another shape than that of ``init``.
    """
    if init is None:
        return Encoder(encoder_settings(model))
    changes = {name: value for name, value in model.items() if name != "preset"}
    return load_encoder(init, encoder=changes)


def first_config(model: Mapping[str, Any], init: Path | None) -> EncoderConfig:
    """The configuration of ``first_encoder``, and what that raises."""
    return encoder_settings(model) if init is None else first_encoder(model, init).config


def check_sharding(training: TrainingConfig, objective: Objective) -> None:
    """Raises ``ConfigError`` where the objective cannot be trained as the recipe says."""
    teaches = any(isinstance(module, Teacher) for module in objective.modules())
    if training.data_parallel == "fsdp" and teaches:
        raise ConfigError(
            "training.data_parallel: fsdp cannot train an objective with a teacher, which averages "
            "whole weights where each process has a share of them; set it to ddp."
        )


def describe(
    kind: str,
    recipe: Any,
    config: EncoderConfig,
    data_dir: Path,
    manifest_hash: str,
    seed: int,
    init: Path | None,
) -> dict[str, Any]:
    """What a run is, in readable form; two runs are the same when their descriptions are, wherever
    the files lie (``run_folder.CONTENTS``)."""
    contents = {"data": manifest_hash}
    if init is not None:
        contents["init"] = sha256(init / WEIGHTS)
    lexicon = recipe.finetune.lexicon if isinstance(recipe, FinetuneRecipe) else None
    if lexicon is not None and Path(lexicon).is_file():  # else reading it says what is wrong
        contents[LEXICON] = sha256(lexicon)
    return {
        "kind": kind,
        "data": str(data_dir),
        "init": None if init is None else str(init),
        CONTENTS: contents,
        "seed": seed,
        "encoder": to_dict(config),
        "recipe": to_dict(recipe),
    }


def usable_cuts(cuts: Cuts, data: DataConfig, split: str) -> Cuts:
    """The cuts that are long enough. Raises ``ManifestError`` where none is."""
    kept = cuts.select(cuts.durations >= data.min_seconds)
    if len(kept) < len(cuts):
        logger.warning(
            "%s: left out %d cuts shorter than %g s", split, len(cuts) - len(kept), data.min_seconds
        )
    if len(kept) == 0:
        raise ManifestError(
            f"{split}: no cut is as long as data.min_seconds ({data.min_seconds} s); lower it or "
            f"use longer recordings."
        )
    return kept


def targets_name(recipe: PretrainRecipe, data_dir: Path) -> str | None:
    """The name of the frame targets in ``data_dir`` that the objective predicts; None if it needs
    none. Raises ``ConfigError`` where it does and the recipe names none."""
    kind = str(recipe.objective.get("kind") or "")
    if not load_objective(kind).needs_targets:
        return None
    if recipe.data.targets is None:
        raise ConfigError(
            f"objective {kind!r} needs frame targets; pass --targets NAME (`speechssl label "
            f"{data_dir} --name NAME` makes them)."
        )
    return recipe.data.targets


def _read_splits(
    data_dir: Path, recipe: PretrainRecipe
) -> dict[str, tuple[Cuts, FrameTargets | None]]:
    """Cuts and targets of train and (where there is one) dev, checked against each other."""
    name = targets_name(recipe, data_dir)
    splits: dict[str, tuple[Cuts, FrameTargets | None]] = {}
    for split in ("train", "dev"):
        path = cuts_path(data_dir, split)
        if split == "dev" and not path.exists():
            continue
        cuts = usable_cuts(Cuts.open(path), recipe.data, str(path))
        targets = None
        if name is not None:
            file = targets_path(data_dir, split, name)
            targets = FrameTargets.load(file)
            targets.check(cuts, file, codebook_path(data_dir, name))
        logger.info("%s: %d cuts, %.2f hours", split, len(cuts), cuts.hours)
        splits[split] = (cuts, targets)
    return splits


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
