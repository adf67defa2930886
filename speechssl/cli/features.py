"""``speechssl features``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Write the features of chosen layers of a model.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("cuts", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--layers",
    required=True,
    metavar="N,N,...",
    help="Transformer layers, from 1; 0 is the input of the first.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="How numbers are stored; float16 halves the disk.",
)
def command(model: Path, cuts: Path, out: Path, layers: str, dtype: str) -> None:
    """Write the hidden states of the encoder in the folder MODEL for all CUTS to the folder OUT.

    Each cut gets an array [T, D] per layer, 50 frames a second. OUT/shar is in Lhotse's Shar
    format, numpy arrays in tar files, which Lhotse reads with the cuts:

    \b
      for cut in lhotse.CutSet.from_shar(in_dir="features/shar"):
          frames = cut.load_layer_4()

    Given again, the command goes on where it was interrupted. Disk, in megabytes: hours times
    dimensions times layers times 0.72 (float16: 0.36).

    \b
    Example:
      speechssl features exp/pretrain/model data/train/cuts.jsonl.gz features --layers 0,4,6
    """
    from speechssl.errors import ConfigError
    from speechssl.feature_shards import SHAR, write_features

    try:
        numbers = [int(layer) for layer in layers.split(",")]
    except ValueError:
        raise ConfigError(f"--layers must be numbers with commas, not {layers!r}.") from None
    written = write_features(model, cuts, out, numbers, dtype=dtype)  # type: ignore[arg-type]
    click.echo(f"{written} cuts written, layers {', '.join(map(str, numbers))} -> {out / SHAR}")
