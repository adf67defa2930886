"""``speechssl probe``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from speechssl.cli._options import seed_option


@click.command(short_help="Measure what each layer of a model knows.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("cuts", type=click.Path(path_type=Path))
@click.option(
    "--task",
    type=click.Choice(["speaker", "language", "keyword", "phone", "clusters"]),
    required=True,
    help="What to tell; clusters measures how well k-means clusters agree with phones.",
)
@click.option(
    "--test",
    type=click.Path(path_type=Path),
    help="Cuts to test on. Without them a fifth of CUTS is held out, by speaker where possible.",
)
@click.option("--keywords", default="", help="keyword: words or phrases to look for, with commas.")
@click.option(
    "--aligner",
    type=click.Path(path_type=Path),
    help="phone, clusters: take the characters of the transcripts, aligned by this recogniser.",
)
@click.option(
    "--examples",
    default=20_000,
    show_default=True,
    help="Most utterances or frames to learn from, and as many to test on.",
)
@click.option("--clusters", default=100, show_default=True, help="clusters: how many.")
@seed_option("Of what is drawn, and of k-means.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for TASK.json and TASK.png.  [default: MODEL-probes]",
)
@click.option("--overwrite", is_flag=True, help="Replace the report if it exists.")
def command(
    model: Path,
    cuts: Path,
    task: str,
    test: Path | None,
    keywords: str,
    aligner: Path | None,
    examples: int,
    clusters: int,
    seed: int,
    out: Path | None,
    overwrite: bool,
) -> None:
    """Measure what each layer of the encoder in the folder MODEL knows about CUTS.

    The encoder stays as it is. For each layer a linear classifier (multinomial logistic
    regression on standardised features) learns to tell the speaker, the language, the keyword
    (the mean of the frames of a whole utterance) or the phone of a frame, and is tested on
    recordings that it has not heard. Log-mels stand beside the layers, as what any layer should
    beat, and so does the most frequent answer.

    Labels come from the manifest: speaker, language and text of the supervisions, and `phone`
    alignments. Without a keyword list the whole transcript is the keyword. With it, utterances
    have the keyword that they contain, or none; those that have several are left out.

    \b
    Examples:
      speechssl probe exp/pretrain/model data/train/cuts.jsonl.gz --task speaker
      speechssl probe exp/pretrain/model data/train/cuts.jsonl.gz --task keyword \\
          --keywords yes,no,stop --test data/test/cuts.jsonl.gz
      speechssl probe exp/pretrain/model data/dev/cuts.jsonl.gz --task phone \\
          --aligner exp/finetune/model
    """
    from speechssl.probing.run import ProbeConfig, probe

    out = out or Path(f"{os.path.normpath(model.absolute())}-probes")
    config = ProbeConfig(
        model=model,
        cuts=cuts,
        task=task,  # type: ignore[arg-type]
        test=test,
        aligner=aligner,
        keywords=tuple(word.strip() for word in keywords.split(",") if word.strip()),
        examples=examples,
        clusters=clusters,
        seed=seed,
    )
    report = probe(config, out, overwrite=overwrite)
    click.echo(report.lines())
    click.echo(f"-> {out / task}.json, {out / task}.png")
