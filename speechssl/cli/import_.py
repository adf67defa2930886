"""``speechssl import``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(name="import", short_help="Write a model folder from another project's checkpoint.")
@click.argument("source")
@click.argument("model_dir", type=click.Path(path_type=Path))
def command(source: str, model_dir: Path) -> None:
    """Write the model folder MODEL_DIR from SOURCE, a checkpoint of Hugging Face transformers.

    SOURCE is a folder that save_pretrained wrote (config.json, model.safetensors or
    pytorch_model.bin, for recognisers vocab.json), or a name on the hub. Supported are wav2vec 2.0
    and HuBERT: encoders, wav2vec 2.0 for pretraining, and CTC recognisers. Nothing in the files is
    executed. Where transformers is installed, both sides compute the same recordings, and nothing
    is written unless they agree; the result is in MODEL_DIR/certificate.json.

    \b
    Example:
      speechssl import facebook/wav2vec2-base models/wav2vec2-base
      speechssl import downloads/hubert-large-ls960-ft models/hubert-large
    """
    from speechssl.interop.transformers.reading import import_transformers

    certificate, notes = import_transformers(source, model_dir)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    click.echo(certificate.summary(), err=True)
    click.echo(str(model_dir))
