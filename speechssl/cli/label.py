"""``speechssl label``."""

from __future__ import annotations

from pathlib import Path

import click

from speechssl.cli._options import seed_option


@click.command(short_help="Make cluster targets for the frames of a corpus.")
@click.argument("data_dir", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="What to call the targets.")
@click.option("--clusters", default=100, show_default=True, help="Number of clusters.")
@click.option(
    "--features",
    type=click.Choice(["mfcc", "model"]),
    default="mfcc",
    show_default=True,
    help="What to cluster: MFCC, or a layer of a model.",
)
@click.option("--model", type=click.Path(path_type=Path), help="Model folder, for model features.")
@click.option("--layer", type=int, help="Transformer layer of the model, from 1; 0 is its input.")
@click.option(
    "--splits",
    default="train,dev",
    show_default=True,
    help="Splits to label, with commas; k-means is fitted to the first.",
)
@seed_option("Seed of k-means.")
@click.option(
    "--fit-hours",
    default=100.0,
    show_default=True,
    help="Hours of the first split, at random, from which the frames for k-means are drawn.",
)
@click.option(
    "--fit-mb",
    default=250.0,
    show_default=True,
    help="Megabytes of frames that k-means is fitted to.",
)
@click.option("--overwrite", is_flag=True, help="Replace targets of that name.")
def command(
    data_dir: Path,
    name: str,
    clusters: int,
    features: str,
    model: Path | None,
    layer: int | None,
    splits: str,
    seed: int,
    fit_hours: float,
    fit_mb: float,
    overwrite: bool,
) -> None:
    """Cluster the frames of the corpus in DATA_DIR with k-means, one codebook for all splits.

    Writes DATA_DIR/<split>/targets-NAME.safetensors, the codebook, a report and a picture of how
    often each cluster is used. An interrupted run goes on with the splits that are missing. Memory
    does not depend on the hours of audio.

    \b
    Examples:
      speechssl label data --name mfcc --clusters 100
      speechssl label data --name second --features model --model exp/pretrain/model \\
          --layer 4 --clusters 200
    """
    from speechssl.clustering import LabelConfig, label
    from speechssl.data.manifest import cuts_path, require_corpus
    from speechssl.errors import ConfigError

    if "/" in name or name in ("", ".", ".."):
        raise ConfigError(f"--name {name!r}: is no name; give one without '/', as mfcc.")
    if model is not None:
        features = "model"
    config = LabelConfig(
        clusters=clusters,
        features=features,  # type: ignore[arg-type]
        model=model,
        layer=layer,
        seed=seed,
        fit_hours=fit_hours,
        fit_mb=fit_mb,
    )
    wanted = [split.strip() for split in splits.split(",") if split.strip()]
    if not wanted:
        raise click.BadParameter("expected names with commas", param_hint="--splits")
    require_corpus(data_dir, wanted[0])
    present = [s for s in wanted if s == wanted[0] or cuts_path(data_dir, s).exists()]
    report = label(data_dir, name, present, config, overwrite=overwrite)
    for split, numbers in report["splits"].items():
        usage = numbers["frames_per_cluster"]
        line = (
            f"{split}: {numbers['frames']} frames, {usage['min']} to {usage['max']} a cluster, "
            f"{numbers['empty_clusters']} empty, perplexity {numbers['perplexity']}"
        )
        if "pnmi" in numbers:
            line += f", purity {numbers['phone_purity']:.3f}, PNMI {numbers['pnmi']:.3f}"
        click.echo(line)
