"""``speechssl finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from speechssl.cli._options import seed_option
from speechssl.cli._training import on_collapse_option, one_voice

if TYPE_CHECKING:
    from speechssl.training.metrics import OnCollapse


@click.command(short_help="Train a recogniser on transcripts.")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("data_dir", type=click.Path(path_type=Path))
@click.argument("exp", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[SETTING=VALUE]...")
@click.option(
    "--init",
    required=True,
    metavar="MODEL|none",
    help="Model folder whose encoder to start from; none trains the same network from scratch.",
)
@seed_option("Seed of the head, batches and masks.")
@on_collapse_option
@one_voice()
def command(
    recipe: Path,
    data_dir: Path,
    exp: Path,
    overrides: tuple[str, ...],
    init: str,
    seed: int,
    on_collapse: OnCollapse,
) -> None:
    """Fine-tune an encoder with a CTC head as RECIPE says on the transcribed cuts in DATA_DIR.

    Tokens are the characters of the training transcripts; with finetune.tokens=bpe also frequent
    sequences of them, up to finetune.vocabulary tokens in all; with finetune.tokens=phones the
    phones of the pronouncing lexicon finetune.lexicon. An interrupted run goes on from its last
    checkpoint when the same command is given again; Ctrl-C and SIGTERM write one first. The
    finished model folder, the best checkpoint by WER on dev, is EXP/model.

    \b
    Example:
      speechssl finetune recipes/ctc_tiny.yaml data exp/finetune --init exp/pretrain/model
      speechssl finetune recipes/ctc_tiny.yaml data exp/scratch --init none optimizer.lr=1e-3
    """
    from speechssl.data.manifest import require_corpus
    from speechssl.training.engine import is_main_process
    from speechssl.training.finetuning import finetune

    require_corpus(data_dir)
    start = None if init == "none" else Path(init)
    model = finetune(
        recipe,
        data_dir,
        exp,
        init=start,
        seed=seed,
        overrides=overrides,
        on_collapse=on_collapse,
    )
    if is_main_process():
        click.echo(str(model))
