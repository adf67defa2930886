"""What a run will cost, before it is started.

1. recipe + overrides (+ another batch)  -> the settings that will train; ``rescale``
2. settings + cuts                       -> updates, epochs, hours of audio, parameters
3. a few real updates in a new process   -> seconds per update, peak memory; ``measure``
"""

from __future__ import annotations

import math
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from fairseq2.metrics.recorders import MetricRecorder
from torch import nn

from speechssl.data.index import Cuts
from speechssl.data.loading import epoch_batches
from speechssl.data.manifest import cuts_path
from speechssl.data.targets import FrameTargets, targets_path
from speechssl.models.adapters import add_adapters
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder
from speechssl.objectives import build_objective
from speechssl.training.continuing import continued_settings
from speechssl.training.finetuning import finetune
from speechssl.training.pretraining import first_config, pretrain, targets_name, usable_cuts
from speechssl.training.recipe import (
    FinetuneRecipe,
    PretrainRecipe,
    load_recipe,
    read_with_parents,
)
from speechssl.training.tokens import make_tokens

WARM_UPDATES = 2
"""Updates that are not timed: the first ones fill caches."""

TIMED_UPDATES = 5

MEASURED_PASSES = 2
"""Forward passes per measured update, at most; an update of more takes proportionally longer."""

Recipe = PretrainRecipe | FinetuneRecipe


@dataclass(frozen=True)
class Run:
    """What ``speechssl pretrain`` or ``finetune`` would be given."""

    recipe: Path
    data: Path
    overrides: tuple[str, ...] = ()
    targets: str | None = None
    init: Path | None = None
    seed: int = 0

    def load(self) -> Recipe:
        """The recipe with its overrides. Raises ``ConfigError`` where it is not sound."""
        if self.pretrains:
            return load_recipe(PretrainRecipe, self.recipe, self.overrides, targets=self.targets)
        return load_recipe(FinetuneRecipe, self.recipe, self.overrides, targets=self.targets)

    @property
    def pretrains(self) -> bool:
        """Whether the recipe has an objective; one without is for fine-tuning."""
        return "objective" in read_with_parents(self.recipe)


@dataclass(frozen=True)
class Measured:
    """What a few updates cost on this machine, in one process."""

    seconds: float
    """Median time of an update."""

    updates: int
    """How many were timed."""

    passes: int
    """Forward passes of each."""

    memory: int
    """Most bytes that the process held, Python and libraries included."""

    gpu_memory: int
    """Most bytes reserved on the GPU; 0 without one."""


@dataclass(frozen=True)
class Plan:
    """What the run will see and cost."""

    updates: int
    batch_seconds: float
    """Seconds of audio in an update, as the batches come out."""

    passes: int
    """Forward passes per update, over all processes."""

    processes: int
    epochs: float
    hours: float
    """Hours of audio seen, over all epochs."""

    corpus_hours: float
    parameters: int
    """Those that are trained, heads included."""

    seconds_per_update: float | None
    """None where it was neither measured nor given."""

    measured: Measured | None


def plan(
    run: Run,
    *,
    processes: int = 1,
    seconds_per_update: float | None = None,
    measured: Measured | None = None,
) -> Plan:
    """What ``run`` costs on ``processes`` processes.

    The time per update is ``seconds_per_update`` where it is given, else that of ``measured``,
    shared evenly among the processes. Raises ``ConfigError`` where they cannot share an update.
    """
    recipe = run.load()
    passes, passes_each = recipe.data.num_forwards(), recipe.data.forwards_each(processes)
    cuts = usable_cuts(Cuts.open(cuts_path(run.data, "train")), recipe.data, "train")
    if not run.pretrains:  # fine-tuning leaves out what has no transcript
        cuts = cuts.transcribed()
    seconds = np.minimum(cuts.durations, recipe.data.max_seconds)
    if not run.pretrains:  # and what pretraining crops
        seconds = seconds[cuts.durations <= recipe.data.max_seconds]
    batches = epoch_batches(
        seconds,
        batch_seconds=recipe.data.forward_seconds,
        length_noise=recipe.data.length_noise,
        seed=run.seed,
        epoch=0,
    )
    per_pass = float(seconds.sum()) / len(batches)
    updates = recipe.training.updates
    if seconds_per_update is None and measured is not None:
        seconds_per_update = measured.seconds * passes_each / measured.passes
    return Plan(
        updates=updates,
        batch_seconds=per_pass * passes,
        passes=passes,
        processes=processes,
        epochs=updates * passes / len(batches),
        hours=updates * passes * per_pass / 3600,
        corpus_hours=float(seconds.sum()) / 3600,
        parameters=sum(p.numel() for p in build_model(run, recipe, cuts).parameters()),
        seconds_per_update=seconds_per_update,
        measured=measured,
    )


def build_model(run: Run, recipe: Recipe, cuts: Cuts) -> nn.Module:
    """The model that the run trains, without values: on the meta device. Raises ``ConfigError``
    where its objective needs targets and none are named."""
    config = first_config(recipe.model, run.init)
    with torch.device("meta"):
        encoder = Encoder(config)
        if isinstance(recipe, FinetuneRecipe):
            if rank := recipe.finetune.adapter_rank:
                add_adapters(encoder, rank, recipe.finetune.adapter_scale)
            return CTCModel(encoder, len(make_tokens(recipe.finetune, cuts.texts())))
        clusters = None
        if (name := targets_name(recipe, run.data)) is not None:
            clusters = FrameTargets.load(targets_path(run.data, "train", name)).meta.clusters
        objective = recipe.objective
        if run.init is not None:
            objective = continued_settings(run.init, objective)
        return nn.ModuleList([encoder, build_objective(objective, config, clusters)])


def rescale(recipe: Recipe, batch_seconds: float) -> dict[str, Any]:
    """The settings that another batch asks for, by their dotted names.

    The learning rate goes with the square root of the batch, and the updates with its inverse, so
    that the run sees the same hours of audio, on which quality mainly depends (Vaessen and van
    Leeuwen 2024, arXiv 2402.13723). Reports and validations keep their shares of the run.
    """
    data, training = recipe.data, recipe.training
    ratio = batch_seconds / data.batch_seconds
    every = max(1, round(training.log_every / ratio))
    settings: dict[str, Any] = {
        "data.batch_seconds": batch_seconds,
        "optimizer.lr": float(f"{recipe.optimizer.lr * math.sqrt(ratio):.4g}"),
        "training.updates": max(1, round(training.updates / ratio)),
        "training.log_every": every,
        "training.validate_every": every * (training.validate_every // training.log_every),
    }
    if batch_seconds < data.forward_seconds:
        settings["data.forward_seconds"] = batch_seconds
    return settings


def as_overrides(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the training commands take them: ``name=value``."""
    return [
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in settings.items()
    ]


def measure(run: Run, processes: int = 1, limit_seconds: float = 60.0) -> Measured:
    """Trains ``run`` for a few updates in a new process and a folder that is then removed.

    Real batches, the recipe's precision, all of training but validation and checkpoints. Starts no
    further update after ``limit_seconds``. Raises the ``SpeechSSLError`` that training raises.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(_measure, run, processes, limit_seconds).result()


def machine() -> str:
    """What the measuring process computes on, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


class _EnoughError(Exception):
    """Ends the run that is measured."""


class _Stopwatch(MetricRecorder):
    """Times the updates of a run that reports each, and ends it when it has seen enough."""

    def __init__(self, limit_seconds: float) -> None:
        self._seconds: list[float] = []
        self.gpu_memory = 0
        self._end = time.monotonic() + limit_seconds

    @property
    def timed(self) -> list[float]:
        """Seconds of the updates after the first ``WARM_UPDATES``; of all, where there are none."""
        return self._seconds[WARM_UPDATES:] or self._seconds

    def record_metric_values(
        self, category: str, values: Mapping[str, object], step_nr: int | None = None
    ) -> None:
        if category != "train":
            return
        self._seconds.append(float(str(values["lapse_time"])))
        if torch.cuda.is_available():
            self.gpu_memory = max(self.gpu_memory, torch.cuda.max_memory_reserved())
        if len(self._seconds) == WARM_UPDATES + TIMED_UPDATES or time.monotonic() > self._end:
            raise _EnoughError

    def close(self) -> None:
        pass


def _measure(run: Run, processes: int, limit_seconds: float) -> Measured:
    """``measure`` in its new process, which says nothing on the console."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    recipe = run.load()
    passes = min(MEASURED_PASSES, max(1, recipe.data.num_forwards() // processes))
    overrides: Sequence[str] = [
        *run.overrides,
        f"data.batch_seconds={passes * recipe.data.forward_seconds}",
        "training.log_every=1",
        f"training.validate_every={recipe.training.updates}",
    ]
    watch = _Stopwatch(limit_seconds)
    shared: dict[str, Any] = {"seed": run.seed, "overrides": overrides, "observer": watch}
    with tempfile.TemporaryDirectory() as folder:
        exp = Path(folder) / "exp"
        try:
            if run.pretrains:
                where = (run.recipe, run.data, exp)
                pretrain(*where, targets=run.targets, init=run.init, **shared)
            else:
                finetune(run.recipe, run.data, exp, init=run.init, **shared)
        except _EnoughError:
            pass
    unit = 1 if sys.platform == "darwin" else 1024
    return Measured(
        seconds=median(watch.timed),
        updates=len(watch.timed),
        passes=passes,
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        gpu_memory=watch.gpu_memory,
    )
