"""``speechssl plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from speechssl.training.plan import Plan


@click.command(short_help="Say what a training run will cost, before it is started.")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("data_dir", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[SETTING=VALUE]...")
@click.option("--targets", help="Name of the frame targets, as for pretrain.")
@click.option(
    "--init",
    metavar="MODEL",
    help="Model folder to start from, as for pretrain and finetune; without it, new weights.",
)
@click.option(
    "--batch-seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Plan with another batch, and settings that fit it.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes (GPUs) that will share the work.",
)
@click.option(
    "--seconds-per-update",
    type=click.FloatRange(min=0, min_open=True),
    help="Time of an update, known from elsewhere, in place of measuring it here.",
)
def command(
    recipe: Path,
    data_dir: Path,
    overrides: tuple[str, ...],
    targets: str | None,
    init: str | None,
    batch_seconds: float | None,
    processes: int,
    seconds_per_update: float | None,
) -> None:
    """Say what pretraining or fine-tuning as RECIPE says on the cuts in DATA_DIR will cost.

    Updates, epochs, hours of audio and parameters follow from recipe and data. Time and memory are
    measured: a few real updates on real batches, in a process of its own, which leaves nothing
    behind. Validation, checkpoints and communication between processes come on top.

    With --batch-seconds the learning rate is scaled with the square root of the batch, and the
    updates so that the run sees the same hours of audio; what to pass on to pretrain or finetune is
    printed.

    \b
    Example:
      speechssl plan recipes/clusters_tiny.yaml data --targets mfcc
      speechssl plan recipes/ctc_tiny.yaml data --init exp/pretrain/model
      speechssl plan recipes/contrastive_base.yaml data --batch-seconds 720 --processes 8
    """
    from dataclasses import replace

    from speechssl.data.manifest import require_corpus
    from speechssl.training import plan as planning

    require_corpus(data_dir)
    start = None if init in (None, "none") else Path(str(init))
    run = planning.Run(recipe, data_dir, overrides, targets, start)
    if batch_seconds is not None:
        recipe_before = run.load()
        settings = planning.rescale(recipe_before, batch_seconds)
        pass_on = planning.as_overrides(settings)
        run = replace(run, overrides=(*overrides, *pass_on))
        ratio = batch_seconds / recipe_before.data.batch_seconds
        _show(
            batch=f"{batch_seconds:g} s in place of {recipe_before.data.batch_seconds:g} s",
            **{
                "learning rate": f"{recipe_before.optimizer.lr:g} x sqrt({ratio:.4g}) = "
                f"{settings['optimizer.lr']:g} (arXiv 2402.13723)",
                "pass on": " ".join(pass_on),
            },
        )
    outlook = planning.plan(run, processes=processes, seconds_per_update=seconds_per_update)
    _show_audio(outlook)
    if seconds_per_update is None:
        click.echo("measuring a few updates ...", err=True)
        measured = planning.measure(run, processes)
        outlook = planning.plan(run, processes=processes, measured=measured)
        gpu = f", {measured.gpu_memory / 1e9:.2f} GB on the GPU" if measured.gpu_memory else ""
        _show(
            measured=f"{measured.updates} updates of {measured.passes} forward passes, median "
            f"{measured.seconds:.3g} s ({planning.machine()})",
            **{"peak memory": f"{measured.memory / 1e9:.2f} GB{gpu}, each process"},
        )
    _show_time(outlook)


def _show_audio(plan: Plan) -> None:
    """What follows from recipe and data."""
    shared = f", {plan.passes // plan.processes} on each of {plan.processes} processes"
    _show(
        updates=f"{plan.updates:,} of {plan.batch_seconds:.1f} s of audio in {plan.passes} forward "
        f"passes{shared if plan.processes > 1 else ''}",
        epochs=f"{plan.epochs:.1f} of {plan.corpus_hours:.3g} hours",
        **{"hours of audio": f"{plan.hours:.3g}"},
        parameters=f"{plan.parameters:,}",
    )


def _show_time(plan: Plan) -> None:
    assert plan.seconds_per_update is not None
    minutes = round(plan.updates * plan.seconds_per_update / 60)
    speed = plan.batch_seconds / plan.seconds_per_update
    _show(
        time=f"{minutes // 60}:{minutes % 60:02d} h, {plan.seconds_per_update:.3g} s per update, "
        f"{speed:.0f} s of audio per second"
    )


def _show(**lines: str) -> None:
    for name, text in lines.items():
        click.echo(f"{name:<14}  {text}")
