"""``speechssl decode``: hypotheses for every cut of a manifest."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from speechssl.cli._decoding import decoder_options
from speechssl.cli._options import batch_seconds_option, device_option, write_once

if TYPE_CHECKING:
    from speechssl.decoding.settings import DecodingSettings


@click.command(short_help="Transcribe all cuts of a manifest.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("cuts", type=click.Path(path_type=Path))
@click.argument("hypotheses", metavar="HYPS.jsonl", type=click.Path(path_type=Path))
@decoder_options
@click.option("--nbest", type=click.IntRange(min=1), help="Also write so many readings, scored.")
@batch_seconds_option
@device_option
@click.option("--allow-unknown", is_flag=True, help="Accept transcripts the model cannot spell.")
@click.option("--overwrite", is_flag=True, help="Replace HYPS.jsonl if it exists.")
def command(
    model: Path,
    cuts: Path,
    hypotheses: Path,
    batch_seconds: float | None,
    device: str,
    allow_unknown: bool,
    overwrite: bool,
    nbest: int | None,
    decoding: DecodingSettings,
) -> None:
    """Transcribe every cut in CUTS with the recogniser in the folder MODEL.

    CUTS is a cuts.jsonl.gz or a folder in Lhotse Shar, as data/test/shar.

    HYPS.jsonl gets one line per cut, in the order of CUTS: {"id", "text", "reference" (if the
    cut has a transcript), "seconds", "confidence"}, and with --nbest "nbest": [{"text", "score"},
    ...], best first. A recording that cannot be read is left out and named; the others are written,
    and the exit status is 2.

    Decoding is greedy unless an option asks for a beam search. A language model of words (see
    `speechssl lm`) lets only its own words be written, hotwords excepted, and with
    --open-vocabulary all others as they are spelled; one of characters lets any be. `speechssl
    tune-decoding` finds the weights.

    \b
    Example:
      speechssl decode exp/finetune/model data/test/cuts.jsonl.gz exp/finetune/hyps.jsonl
      speechssl score exp/finetune/hyps.jsonl
      speechssl decode exp/finetune/model data/test/cuts.jsonl.gz exp/finetune/lm.hyps.jsonl \\
        --decoding exp/decoding.yaml --hotwords names.txt --nbest 10
    """
    from dataclasses import replace

    from speechssl.data.manifest import load_cuts
    from speechssl.decoding.cuts import check_references, decode_cuts
    from speechssl.decoding.settings import make_decoder
    from speechssl.decoding.transcriber import Transcriber
    from speechssl.errors import AudioError
    from speechssl.hypotheses import write_hypotheses

    write_once(hypotheses, overwrite)
    manifest = load_cuts(cuts)
    transcriber = Transcriber(model, device=device, batch_seconds=batch_seconds)
    settings = decoding if nbest is None else replace(decoding, nbest=nbest)
    transcriber.decoder = make_decoder(settings, transcriber.tokens)
    if not allow_unknown:
        check_references(manifest, transcriber.tokens)
    began = time.perf_counter()
    results, bad = decode_cuts(transcriber, manifest, nbest=settings.nbest)
    elapsed = time.perf_counter() - began
    for reason in bad.values():
        click.echo(f"skipped: {reason}", err=True)
    if results:
        write_hypotheses(hypotheses, results)
        seconds = sum(result.seconds or 0 for result in results)
        click.echo(
            f"{len(results)} cuts, {seconds / 60:.1f} minutes of audio in {elapsed:.1f} s "
            f"({seconds / elapsed:.0f} times real time) -> {hypotheses}"
        )
    if bad:
        raise AudioError(
            f"{len(bad)} of {len(bad) + len(results)} recordings could not be read (named above) "
            f"and are missing from {hypotheses}; repair them, or remove them from {cuts}."
        )
