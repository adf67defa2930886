"""``speechssl export``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Write a model folder from a run's checkpoint.")
@click.argument("exp", type=click.Path(path_type=Path))
@click.argument("model_dir", type=click.Path(path_type=Path))
@click.option(
    "--checkpoint",
    default="best",
    show_default=True,
    metavar="best|last|UPDATE",
    help="Which checkpoint.",
)
def command(exp: Path, model_dir: Path, checkpoint: str) -> None:
    """Write the model folder MODEL_DIR from a checkpoint of the run EXP, finished or not.

    \b
    Example:
      speechssl export exp/pretrain exp/pretrain-early --checkpoint 500
    """
    from speechssl.training.finetuning import export_finetuned
    from speechssl.training.pretraining import export_pretrained
    from speechssl.training.run_folder import RunFolder

    if not (checkpoint in ("best", "last") or checkpoint.isdigit()):
        raise click.BadParameter(f"expected best, last or a number, found {checkpoint!r}")
    folder = RunFolder(exp)
    choice = int(checkpoint) if checkpoint.isdigit() else checkpoint
    export = export_pretrained if folder.description()["kind"] == "pretrain" else export_finetuned
    click.echo(str(export(folder, choice, model_dir)))  # type: ignore[arg-type]
