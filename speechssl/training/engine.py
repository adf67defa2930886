"""Training on fairseq2's engine: the only file that builds its recipes.

A ``Job`` says what is trained on what; ``train`` runs it, with the units of ``units``.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from fairseq2.checkpoint import CheckpointError
from fairseq2.checkpoint.manager import CheckpointStateNotValidError
from fairseq2.composition import register_model_family
from fairseq2.datasets import DataReader
from fairseq2.error import OperationalError
from fairseq2.metrics import format_as_float
from fairseq2.metrics.recorders import MetricDescriptor, MetricRecorder
from fairseq2.nn.fsdp import FSDPWrapper
from fairseq2.recipe import Recipe, RecipeContext
from fairseq2.recipe.config import (
    POLYNOMIAL_DECAY_LR,
    TRI_STAGE_LR,
    AdamWConfig,
    CommonSection,
    CompileOptions,
    GangSection,
    GradAccumulationConfig,
    LRSchedulerSection,
    MixedPrecisionConfig,
    ModelSection,
    OptimizerSection,
    PolynomialDecayLRConfig,
    RegimeSection,
    TrainerSection,
    TriStageLRConfig,
)
from fairseq2.recipe.run import run as run_recipe
from fairseq2.runtime.dependency import DependencyContainer
from fairseq2.task import Task
from torch import nn

from speechssl.data.batch import SpeechBatch
from speechssl.data.index import Cuts
from speechssl.data.loading import CutLoader
from speechssl.errors import ConfigError, RunFolderError
from speechssl.models.encoder import EncoderConfig, TransformerLayer
from speechssl.objectives.teacher import EncoderTeacher
from speechssl.training.console import echo, hide_library_warnings, quiet_console
from speechssl.training.metrics import (
    ConsoleRecorder,
    DoctorRecorder,
    OnCollapse,
)
from speechssl.training.reader import TrainReader, ValidationReader
from speechssl.training.recipe import (
    DataConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from speechssl.training.run_folder import RunFolder
from speechssl.training.stopping import StopSignals
from speechssl.training.units import Unit, ValidationUnit

FAMILY = "speechssl"

LOST_PEER = re.compile("gloo/transport.*(closed by peer|reset by peer|Broken pipe|Timed out)")
"""What gloo says where a process that this one computes with is there no more, or does not answer.
(NCCL ends the process itself.)"""

PLAIN_NAMES = (
    "loss",
    "accuracy",
    "grad_norm",
    "lr",
    "data_epoch",
    "data_time",
    "compute_time",
    "lapse_time",
    "total_time",
    "wall_time",
)
"""Metrics that fairseq2 would write under display names of its own; files keep these."""


@dataclass
class Job:
    """One training run."""

    exp: Path
    """The run's folder."""

    build_model: Callable[[], nn.Module]
    """Returns the module, a ``units.Trainable``; called once per process, seeded."""

    train_cuts: Cuts
    train_loader: CutLoader
    dev_cuts: Cuts | None
    dev_loader: CutLoader | None
    data: DataConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    training: TrainingConfig
    seed: int
    score: str
    """The validation metric that picks the best checkpoint; smaller is better."""

    static_graph: bool = True
    """Whether every parameter gets a gradient in every update."""

    on_collapse: OnCollapse = "warn"
    """What happens when the doctor finds that the run has failed."""

    observer: MetricRecorder | None = None
    """Gets the reports in place of console and doctor."""


def train(job: Job) -> None:
    """Runs ``job`` from its last checkpoint to its end.

    Raises ``RunFolderError`` where a checkpoint cannot be read or written, another process is
    training in the folder or one of this run is lost, ``CollapseError`` where the run has failed
    and is to stop then, and ``KeyboardInterrupt``, once there is a checkpoint, on Ctrl-C and
    SIGTERM.
    """
    if is_main_process():
        folder = RunFolder(job.exp)
        with folder.alone():
            folder.note_start()
            _train(job)
    else:
        _train(job)


def _train(job: Job) -> None:
    interactive = sys.stderr.isatty()
    hide_library_warnings()
    stop = StopSignals(
        job.exp,
        saved_every=job.training.validate_every,
        speaks=is_main_process(),
    )
    try:
        with stop.noted():
            run_recipe(
                SpeechRecipe(job, stop),
                engine_config(job),
                job.exp,
                no_rich=not interactive,
                no_progress=not interactive,
            )
    except Exception as error:
        if (explained := _explained(error, job.exp)) is None:
            raise
        raise explained from error


def _explained(error: Exception, exp: Path) -> BaseException | None:
    """``RunFolderError`` where the user can mend what ended the run in ``exp``."""
    causes = list(_causes(error))
    if isinstance(error, CheckpointError):
        return RunFolderError(
            f"{exp}: the checkpoint at update {error.step_nr} cannot be restored ({error}); "
            f"remove checkpoints/step_{error.step_nr} to go back to the one before."
        )
    if any(LOST_PEER.search(str(cause)) for cause in causes):
        if not is_main_process():
            return SystemExit(1)  # one line is enough
        return RunFolderError(
            f"{exp}: another process of the run has ended (see what it says) or has not answered "
            f"in time; mend that, then give the same command to go on from the last checkpoint."
        )
    refused = next((cause for cause in causes if isinstance(cause, OSError)), None)
    if refused and isinstance(error, (OperationalError, CheckpointStateNotValidError)):
        return RunFolderError(
            f"{exp}: cannot be written to ({refused.strerror or refused}); the last complete "
            f"checkpoint is kept. Mend that, then give the same command to go on."
        )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """``error`` and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@dataclass
class ModelDescription:
    """Written beside the checkpoints; the model itself is built by the job."""

    description: str = "see recipe.yaml in the run's folder"


@dataclass
class EngineConfig:
    """fairseq2's sections, filled from the job by ``engine_config``."""

    model: ModelSection = field(default_factory=lambda: ModelSection(family=FAMILY))
    gang: GangSection = field(default_factory=GangSection)
    trainer: TrainerSection = field(default_factory=TrainerSection)
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    lr_scheduler: LRSchedulerSection = field(default_factory=LRSchedulerSection)
    regime: RegimeSection = field(default_factory=RegimeSection)
    common: CommonSection = field(default_factory=CommonSection)


def engine_config(job: Job) -> EngineConfig:
    """The job's settings in fairseq2's words."""
    training, optimizer = job.training, job.optimizer
    precision = MixedPrecisionConfig(
        mode="auto" if training.precision == "bf16" else "off", dtype=torch.bfloat16
    )
    return EngineConfig(
        # Batches differ in size: one compilation for all sizes.
        model=ModelSection(
            family=FAMILY, compile=training.compile, compile_options=CompileOptions(dynamic=True)
        ),
        trainer=TrainerSection(
            data_parallelism=training.data_parallel,
            mixed_precision=precision,
            # fairseq2 0.8.1 calls a method for this that torch's FSDP does not have.
            grad_accumulation=GradAccumulationConfig(no_sync=training.data_parallel == "ddp"),
            max_grad_norm=training.max_grad_norm,
        ),
        optimizer=OptimizerSection(
            config=AdamWConfig(
                lr=optimizer.lr,
                betas=optimizer.betas,
                eps=optimizer.eps,
                weight_decay=optimizer.weight_decay,
                impl="fused",
            )
        ),
        lr_scheduler=_lr_scheduler(job.schedule, optimizer, training.updates),
        regime=RegimeSection(
            num_steps=training.updates,
            validate_every_n_steps=training.validate_every if job.dev_cuts else None,
            score_metric=job.score if job.dev_cuts else None,
            checkpoint_every_n_steps=training.validate_every,
            keep_last_n_checkpoints=training.keep_last,
            keep_best_n_checkpoints=training.keep_best if job.dev_cuts else None,
            publish_metrics_every_n_steps=training.log_every,
        ),
        common=CommonSection(seed=job.seed, no_sweep_dir=True),
    )


def _lr_scheduler(
    schedule: ScheduleConfig, optimizer: OptimizerConfig, updates: int
) -> LRSchedulerSection:
    if schedule.kind == "tri_stage":
        decay = 1.0 - schedule.warmup - schedule.hold
        return LRSchedulerSection(
            name=TRI_STAGE_LR,
            config=TriStageLRConfig(
                stage_ratio=(schedule.warmup, schedule.hold, decay),
                start_lr_scale=0.01,
                final_lr_scale=schedule.final_scale,
            ),
        )
    return LRSchedulerSection(
        name=POLYNOMIAL_DECAY_LR,
        config=PolynomialDecayLRConfig(
            num_warmup_steps=min(round(schedule.warmup * updates), updates - 1),
            final_lr=schedule.final_scale * optimizer.lr,
        ),
    )


class SpeechRecipe(Recipe):
    """Plugs a ``Job`` into fairseq2."""

    def __init__(self, job: Job, stop: StopSignals) -> None:
        self.job = job
        self.stop = stop

    @property
    def config_kls(self) -> type[object]:
        return EngineConfig

    def has_static_autograd_graph(self, context: RecipeContext) -> bool:
        return self.job.static_graph

    def register(self, container: DependencyContainer) -> None:
        """Registers the model, the score, and the console line in place of the engine's log."""
        job = self.job
        quiet_console()
        register_model_family(
            container,
            FAMILY,
            nn.Module,
            ModelDescription,
            factory=lambda _: self._build_model(),
            supports_meta=False,
            compiler=compile_layers,
            fsdp_applier=shard_layers,
        )
        for name in {*PLAIN_NAMES, job.score}:
            descriptor = MetricDescriptor(name, name, 0, format_as_float, higher_better=False)
            container.collection.register_instance(MetricDescriptor, descriptor)
        observers = [job.observer] if job.observer else self._console_and_doctor()
        for observer in observers:  # after those that write files, which so have the last report
            container.collection.register_instance(
                MetricRecorder,  # type: ignore[type-abstract]
                observer,
            )

    def create_task(self, context: RecipeContext) -> Task:
        job, gangs = self.job, context.gangs
        model = context.get_model()
        if job.observer is None and is_main_process():
            echo(describe_start(model, job.training, gangs.device, gangs.dp.size))
        place = {"seed": job.seed, "rank": gangs.dp.rank, "world": gangs.dp.size}
        train_reader = TrainReader(job.train_cuts, job.train_loader, job.data, **place)
        unit = Unit(model, context.get_data_parallel_model(), train_reader, job.training.updates)
        valid_units: list[Any] = []
        valid_readers: list[DataReader[SpeechBatch]] = []
        if job.dev_cuts is not None and job.dev_loader is not None:
            valid_units.append(ValidationUnit(model))
            valid_readers.append(ValidationReader(job.dev_cuts, job.dev_loader, job.data, **place))
        trainer = context.create_trainer(unit, train_reader, valid_units, valid_readers)
        train_reader.before_update = lambda: self.stop.look(trainer, gangs.root)
        return trainer

    def _console_and_doctor(self) -> list[MetricRecorder]:
        job = self.job
        return [
            ConsoleRecorder(job.training.updates, echo),
            DoctorRecorder(job.exp, job.on_collapse, echo),
        ]

    def _build_model(self) -> nn.Module:
        torch.manual_seed(self.job.seed)
        return self.job.build_model()


def describe_start(
    model: nn.Module, training: TrainingConfig, device: torch.device, processes: int
) -> str:
    """The first line of a run: what is trained, how precisely and on what."""
    learnt = sum(weights.numel() for weights in model.parameters() if weights.requires_grad)
    where = "the CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)
    shared = f", {processes} processes" if processes > 1 else ""
    return f"training {learnt / 1e6:.1f} M parameters in {training.precision} on {where}{shared}"


def check_training(training: TrainingConfig, data: DataConfig, encoder: EncoderConfig) -> None:
    """Raises ``ConfigError`` where this machine, its processes or this encoder cannot do what is
    wanted. Called before the run's folder is written, which belongs to the recipe ever after."""
    data.forwards_each(int(os.environ.get("WORLD_SIZE", "1")))
    compiler = os.environ.get("CXX", "g++")
    if training.compile and shutil.which(compiler) is None:
        raise ConfigError(
            f"training.compile: needs a C++ compiler, and there is no {compiler!r} here; install "
            f"one (g++), name another in the environment variable CXX, or set compile to false."
        )
    if training.data_parallel == "fsdp" and encoder.layer_drop > 0:
        raise ConfigError(
            f"training.data_parallel: fsdp needs model.layer_drop=0 (it is {encoder.layer_drop}), "
            f"because all processes have to run the same layers at the same time."
        )


def transformer_layers(model: nn.Module) -> list[TransformerLayer]:
    """The layers that are compiled and sharded one by one."""
    return [module for module in model.modules() if isinstance(module, TransformerLayer)]


def compile_layers(model: nn.Module, **options: Any) -> None:
    """Compiles each transformer layer, in place; ``options`` are those of ``torch.compile``.

    Not those of an ``EncoderTeacher``: their hooks would not be called, for what is compiled for
    one layer serves all others, hooks or not.
    """
    teachers = [module for module in model.modules() if isinstance(module, EncoderTeacher)]
    left_out = {layer for teacher in teachers for layer in transformer_layers(teacher)}
    for layer in transformer_layers(model):
        if layer not in left_out:
            layer.compile(**options)  # type: ignore[no-untyped-call]


def shard_layers(model: nn.Module, granularity: str, wrapper: FSDPWrapper) -> nn.Module:
    """Makes each transformer layer one unit of FSDP, in place; the rest of the model is another."""
    layers = transformer_layers(model)
    for layer in layers:
        # The backward pass begins with the last layer: its weights stay gathered.
        wrapper(layer, reshard_after_forward=False if layer is layers[-1] else None)
    return model


def is_main_process() -> bool:
    """Whether this process writes the run's files: the first of those that torchrun started."""
    return int(os.environ.get("RANK", "0")) == 0
