"""``speechssl pretrain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from speechssl.cli._options import seed_option
from speechssl.cli._training import on_collapse_option, one_voice

if TYPE_CHECKING:
    from speechssl.training.metrics import OnCollapse


@click.command(short_help="Train an encoder on untranscribed speech.")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("data_dir", type=click.Path(path_type=Path))
@click.argument("exp", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[SETTING=VALUE]...")
@click.option("--targets", help="Name of the frame targets, for objectives that predict them.")
@seed_option("Seed of weights, batches and masks.")
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    help="Start from this model folder: its encoder, and its heads if the objective is the same.",
)
@on_collapse_option
@one_voice()
def command(
    recipe: Path,
    data_dir: Path,
    exp: Path,
    overrides: tuple[str, ...],
    targets: str | None,
    seed: int,
    init: Path | None,
    on_collapse: OnCollapse,
) -> None:
    """Pretrain an encoder as RECIPE says on the cuts in DATA_DIR, in the folder EXP.

    An interrupted run goes on from its last checkpoint when the same command is given again; Ctrl-C
    and SIGTERM write one first. The finished model folder is EXP/model. On several GPUs or machines
    run it under torchrun; the recipe's batch stays the same.

    \b
    Example:
      speechssl pretrain recipes/clusters_tiny.yaml data exp/pretrain --targets mfcc \\
          training.updates=2000
    """
    from speechssl.data.manifest import require_corpus
    from speechssl.training.engine import is_main_process
    from speechssl.training.pretraining import pretrain

    require_corpus(data_dir)
    model = pretrain(
        recipe,
        data_dir,
        exp,
        targets=targets,
        seed=seed,
        init=init,
        overrides=overrides,
        on_collapse=on_collapse,
    )
    if is_main_process():
        click.echo(str(model))
