"""``speechssl pseudo-label``: self-training's transcripts of untranscribed recordings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from speechssl.cli._decoding import decoder_options
from speechssl.cli._options import batch_seconds_option, device_option

if TYPE_CHECKING:
    from speechssl.decoding.settings import DecodingSettings


@click.command(short_help="Let a recogniser transcribe its own training data.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data_dir", type=click.Path(path_type=Path))
@click.argument("transcribed_dir", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--keep",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=0.9,
    show_default=True,
    help="Share of the recordings to keep, the most confident ones.",
)
@decoder_options
@batch_seconds_option
@device_option
@click.option("--overwrite", is_flag=True, help="Replace another corpus in OUT.")
def command(
    model: Path,
    data_dir: Path,
    transcribed_dir: Path,
    out: Path,
    keep: float,
    batch_seconds: float | None,
    device: str,
    overwrite: bool,
    decoding: DecodingSettings,
) -> None:
    """Transcribe the untranscribed recordings of the corpus DATA_DIR with the recogniser MODEL, to
    fine-tune on them too.

    OUT becomes a corpus: its train split is that of TRANSCRIBED_DIR and the train recordings of
    DATA_DIR that TRANSCRIBED_DIR does not have, with what MODEL reads in them; its dev and test
    are those of TRANSCRIBED_DIR. A language model makes the readings much better; its weights are
    tuned on dev (`speechssl tune-decoding`). OUT/confidence.png shows what was kept.

    Fine-tune on OUT from the pretrained encoder, not from MODEL (Xu et al. 2020).

    \b
    Example:
      speechssl lm            data_10min/train/cuts.jsonl.gz words.arpa
      speechssl tune-decoding exp/finetune/model data_10min/dev/cuts.jsonl.gz decoding.yaml \\
        --lm words.arpa
      speechssl pseudo-label  exp/finetune/model data data_10min data_pseudo \\
        --decoding decoding.yaml
      speechssl finetune      recipes/ctc_tiny.yaml data_pseudo exp/second \\
        --init exp/pretrain/model
    """
    from speechssl.data.manifest import require_corpus
    from speechssl.decoding.cuts import decode_cuts
    from speechssl.decoding.settings import make_decoder
    from speechssl.decoding.transcriber import Transcriber
    from speechssl.pseudo_labels import (
        draw_confidences,
        require_new,
        select_confident,
        untranscribed_cuts,
        write_pseudo_labelled,
    )

    for folder in (data_dir, transcribed_dir):
        require_corpus(folder)
    require_new(out, overwrite)
    cuts = untranscribed_cuts(data_dir, transcribed_dir)
    transcriber = Transcriber(model, device=device, batch_seconds=batch_seconds)
    transcriber.decoder = make_decoder(decoding, transcriber.tokens)
    hypotheses, bad = decode_cuts(transcriber, cuts)
    for reason in bad.values():
        click.echo(f"left out: {reason}", err=True)
    selection = select_confident(hypotheses, keep)
    report = write_pseudo_labelled(
        out, transcribed_dir, cuts, selection, labeller=str(model), overwrite=overwrite
    )
    draw_confidences(selection, out / "confidence.png")
    click.echo(report, nl=False)
    least = selection.kept[-1].confidence or 0.0
    click.echo(
        f"kept {len(selection.kept)} of {len(hypotheses)} readings, those of confidence "
        f"{least:.2f} and more -> {out}"
    )
