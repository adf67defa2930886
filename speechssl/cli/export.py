"""``speechssl export``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from speechssl.cli._folders import conversion_once, model_folder_once, overwrite_option


@click.command(short_help="Write a model for use here or in other projects.")
@click.argument("source", metavar="EXP_OR_MODEL", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "target",
    default="speechssl",
    show_default=True,
    metavar="speechssl|transformers|torchaudio|...",
    help="A model folder, or another project's form of it (hf is short for transformers).",
)
@click.option(
    "--checkpoint",
    default="best",
    show_default=True,
    metavar="best|last|UPDATE",
    help="Which checkpoint of a run, of those that it keeps.",
)
@overwrite_option
def command(source: Path, out: Path, target: str, checkpoint: str, overwrite: bool) -> None:
    """Write the folder OUT from a checkpoint of a run, finished or not, or, to another project,
    from a model folder.

    With --to transformers, OUT loads with AutoModel, Wav2Vec2ForCTC, ...: weights, settings,
    preprocessor, for recognisers the tokenizer, and a model card. With --to torchaudio, OUT has
    weights, torchaudio.json with what builds their network, and a model card. With --to fairseq,
    OUT has checkpoint.pt and the dictionary. These three have encoders with the waveform frontend
    and plain transformer layers; others (recipes/*_tiny.yaml) are refused. With --to fairseq2, OUT
    has an asset card and weights: its models load by name with FAIRSEQ2_USER_ASSET_DIR=OUT,
    whatever the encoder. Where the other project is installed, both sides compute the same
    recordings, and nothing is written unless they agree.

    \b
    Example:
      speechssl export exp/finetune exp/finetune-last --checkpoint last
      speechssl finetune recipes/ctc_imported.yaml data exp/imported --init models/wav2vec2-base
      speechssl export exp/imported/model hub/my-recogniser --to transformers
    """
    from speechssl.interop.projects import load_project
    from speechssl.training.run_folder import RECIPE_FILE

    if target != "speechssl":
        load_project(target)
    if not (checkpoint in ("best", "last") or checkpoint.isdecimal()):
        raise click.BadParameter(f"expected best, last or a number, found {checkpoint!r}")
    once = model_folder_once if target == "speechssl" else conversion_once
    once(out, overwrite)
    if target == "speechssl":
        _export_run(source, checkpoint, out)
    elif (source / RECIPE_FILE).is_file():
        with tempfile.TemporaryDirectory() as temporary:
            model_dir = Path(temporary) / "model"
            _export_run(source, checkpoint, model_dir)
            _export_to(target, model_dir, out, source)
    else:
        _export_to(target, source, out, source)
    click.echo(str(out))


def _export_run(exp: Path, checkpoint: str, model_dir: Path) -> None:
    from speechssl.training.finetuning import export_finetuned
    from speechssl.training.pretraining import export_pretrained
    from speechssl.training.run_folder import RunFolder

    folder = RunFolder(exp)
    choice = int(checkpoint) if checkpoint.isdecimal() else checkpoint
    export = export_pretrained if folder.description()["kind"] == "pretrain" else export_finetuned
    export(folder, choice, model_dir)  # type: ignore[arg-type]


def _export_to(target: str, model_dir: Path, out: Path, source: Path) -> None:
    """Exports the model; messages name ``source``, which the user has given."""
    from speechssl.errors import SpeechSSLError
    from speechssl.files import atomic_folder
    from speechssl.interop.projects import load_project

    try:
        with atomic_folder(out) as fresh:
            certificate, notes = load_project(target).export_model(model_dir, fresh)
    except SpeechSSLError as error:
        raise type(error)(str(error).replace(str(model_dir), str(source))) from None
    for note in notes:
        click.echo(f"note: {note.replace(str(model_dir), str(source))}", err=True)
    click.echo(certificate.summary(), err=True)
