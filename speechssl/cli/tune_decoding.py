"""``speechssl tune-decoding``: the weights of a beam search, from development data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from speechssl.cli._decoding import search_options
from speechssl.cli._options import device_option, write_once

if TYPE_CHECKING:
    from speechssl.decoding.settings import DecodingSettings


@click.command(short_help="Find the weights of a beam search on dev data.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("cuts", type=click.Path(path_type=Path))
@click.argument("out", metavar="DECODING.yaml", type=click.Path(path_type=Path))
@search_options
@device_option
@click.option("--overwrite", is_flag=True, help="Replace DECODING.yaml and .png if they exist.")
def command(
    model: Path,
    cuts: Path,
    out: Path,
    device: str,
    overwrite: bool,
    decoding: DecodingSettings,
) -> None:
    """Find how to weigh the language model against the recogniser MODEL.

    Decodes CUTS (a cuts.jsonl.gz of development data) with many weights, writes the middle of those
    with about the lowest WER to DECODING.yaml, and draws the WER over the weights beside it
    (DECODING.png). The model hears the audio only once. Test data is refused: weights tuned on it
    would make its WER look better than the recogniser is.

    \b
    Example:
      speechssl lm data/train/cuts.jsonl.gz exp/words.arpa
      speechssl tune-decoding exp/finetune/model data/dev/cuts.jsonl.gz exp/decoding.yaml \\
        --lm exp/words.arpa --open-vocabulary
      speechssl decode exp/finetune/model data/test/cuts.jsonl.gz exp/test.hyps.jsonl \\
        --decoding exp/decoding.yaml
    """
    from speechssl.data.manifest import cut_text, load_cuts
    from speechssl.decoding.beam import BeamDecoder
    from speechssl.decoding.cuts import log_probs_of_cuts
    from speechssl.decoding.greedy import GreedyDecoder
    from speechssl.decoding.transcriber import Transcriber
    from speechssl.decoding.tuning import draw_trials, tune, word_error_rate
    from speechssl.errors import AudioError, ConfigError
    from speechssl.tables import percent, table

    if decoding.lm is None:
        raise ConfigError("there is nothing to weigh; give a language model with --lm.")
    split = cuts.resolve().parent.name
    if split == "test":
        raise ConfigError(f"{cuts}: is test data, which must not decide anything; give dev data.")
    if split == "train":
        click.echo(f"warning: {cuts} is training data; the weights will be too small.", err=True)
    picture = out.with_suffix(".png")
    if out.suffix.lower() == ".png":
        raise ConfigError(f"{out}: would be the picture's name; give the settings one in .yaml.")
    for file in (out, picture):
        write_once(file, overwrite)
    manifest = load_cuts(cuts, need_text=True)
    transcriber = Transcriber(model, device=device)
    loaded = BeamDecoder(transcriber.tokens, decoding)  # fails before audio is heard
    found, bad = log_probs_of_cuts(transcriber, manifest)
    if bad:
        raise AudioError(f"{next(iter(bad.values()))} ({len(bad)} recordings cannot be read)")
    log_probs = [found[cut.id] for cut in manifest]
    references = [cut_text(cut) or "" for cut in manifest]
    trials = tune(loaded, log_probs, references)
    trials[0].settings.save(out)
    draw_trials(trials, picture)
    greedy = word_error_rate(GreedyDecoder(transcriber.tokens), log_probs, references)
    weights = ["lm_weight", "word_score"] + ["unknown_score"] * decoding.open_vocabulary
    rows = [["", "WER %", *(name.replace("_", " ") for name in weights)]]
    rows.append(["greedy", percent(greedy), *("-" for _ in weights)])
    for name, trial in zip(("chosen", "others", ""), trials):
        values = (getattr(trial.settings, weight) for weight in weights)
        rows.append([name, percent(trial.wer), *(f"{value:g}" for value in values)])
    click.echo(table(rows))
    unlisted = loaded.share_of_unlisted(references)
    if unlisted and decoding.lexicon is None:
        fate = "never written; --open-vocabulary spells them"
        if decoding.open_vocabulary:
            fate = "spelled"
        click.echo(f"{percent(unlisted)} % of the words are not in {decoding.lm}: they are {fate}")
    click.echo(f"{len(trials)} trials on {len(references)} cuts -> {out}, {picture.name}")
