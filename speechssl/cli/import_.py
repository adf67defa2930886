"""``speechssl import``."""

from __future__ import annotations

from pathlib import Path

import click

from speechssl.cli._folders import model_folder_once, overwrite_option


@click.command(name="import", short_help="Write a model folder from another project's checkpoint.")
@click.argument("source")
@click.argument("model_dir", type=click.Path(path_type=Path))
@click.option(
    "--from",
    "project",
    metavar="PROJECT",
    help="transformers, torchaudio, ...; found out from SOURCE where it is not given.",
)
@overwrite_option
def command(source: str, model_dir: Path, project: str | None, overwrite: bool) -> None:
    """Write the model folder MODEL_DIR from SOURCE, another project's checkpoint: a wav2vec 2.0,
    HuBERT, WavLM or data2vec encoder, with heads of pretraining or a CTC head where it has them.

    \b
    SOURCE of
      transformers  a folder that save_pretrained wrote (config.json, weights, for recognisers
                    vocab.json), or a name on the Hugging Face hub
      torchaudio    the name of a pipeline (HUBERT_BASE), its file, or weights beside
                    torchaudio.json, which says what built the network
      fairseq       a checkpoint.pt of wav2vec 2.0 or HuBERT, for recognisers dict.ltr.txt
                    beside it
      fairseq2      an asset card of wav2vec2 or wav2vec2_asr: its name, its .yaml file, or the
                    folder with it

    Nothing in the files is executed. Where the other project is installed, both sides compute the
    same recordings, and nothing is written unless they agree; the result is in
    MODEL_DIR/certificate.json.

    \b
    Example:
      speechssl import facebook/wav2vec2-base models/wav2vec2-base
      speechssl import downloads/wavlm-large models/wavlm-large
      speechssl import HUBERT_ASR_LARGE models/hubert-large-asr
    """
    from speechssl.errors import CheckpointError
    from speechssl.interop.projects import find_project, load_project
    from speechssl.models.folder import is_model_folder

    if is_model_folder(Path(source)):
        raise CheckpointError(f"{source}: is a model folder already; use it as it is.")
    model_folder_once(model_dir, overwrite)
    found = find_project(source) if project is None else load_project(project)
    certificate, notes = found.import_model(source, model_dir)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    click.echo(certificate.summary(), err=True)
    click.echo(str(model_dir))
