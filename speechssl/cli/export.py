"""``speechssl export``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click


@click.command(short_help="Write a model for use here or in other projects.")
@click.argument("source", metavar="EXP_OR_MODEL", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "target",
    type=click.Choice(["speechssl", "hf"]),
    default="speechssl",
    show_default=True,
    help="A model folder, or a folder for Hugging Face transformers.",
)
@click.option(
    "--checkpoint",
    default="best",
    show_default=True,
    metavar="best|last|UPDATE",
    help="Which checkpoint of a run.",
)
def command(source: Path, out: Path, target: str, checkpoint: str) -> None:
    """Write the folder OUT from a checkpoint of a run, finished or not, or from a model folder.

    With --to hf, OUT loads with transformers (AutoModel, Wav2Vec2ForCTC, ...): weights, settings,
    preprocessor, for recognisers the tokenizer, and a model card. Where transformers is installed,
    both sides compute the same recordings, and nothing is written unless they agree.

    \b
    Example:
      speechssl export exp/pretrain exp/pretrain-early --checkpoint 500
      speechssl export exp/finetune/model hub/my-recogniser --to hf
    """
    from speechssl.training.run_folder import RECIPE_FILE

    if not (checkpoint in ("best", "last") or checkpoint.isdigit()):
        raise click.BadParameter(f"expected best, last or a number, found {checkpoint!r}")
    if target == "speechssl":
        _export_run(source, checkpoint, out)
    elif (source / RECIPE_FILE).is_file():
        with tempfile.TemporaryDirectory() as temporary:
            model_dir = Path(temporary) / "model"
            _export_run(source, checkpoint, model_dir)
            _export_transformers(model_dir, out)
    else:
        _export_transformers(source, out)
    click.echo(str(out))


def _export_run(exp: Path, checkpoint: str, model_dir: Path) -> None:
    from speechssl.training.finetuning import export_finetuned
    from speechssl.training.pretraining import export_pretrained
    from speechssl.training.run_folder import RunFolder

    folder = RunFolder(exp)
    choice = int(checkpoint) if checkpoint.isdigit() else checkpoint
    export = export_pretrained if folder.description()["kind"] == "pretrain" else export_finetuned
    export(folder, choice, model_dir)  # type: ignore[arg-type]


def _export_transformers(model_dir: Path, out: Path) -> None:
    from speechssl.interop.transformers.writing import export_transformers

    certificate, notes = export_transformers(model_dir, out)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    click.echo(certificate.summary(), err=True)
