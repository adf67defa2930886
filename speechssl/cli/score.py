"""``speechssl score``: error rates of decoded utterances."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from speechssl.cli._options import write_once

if TYPE_CHECKING:
    from speechssl.scoring import Comparison, Score


@click.command(short_help="Score hypotheses: word and character error rates.")
@click.argument("hypotheses", metavar="HYPS.jsonl", type=click.Path(path_type=Path))
@click.option(
    "--against",
    metavar="OTHER.jsonl",
    type=click.Path(path_type=Path),
    help="A second system on the same utterances: prints the difference and its p-value.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Write all numbers to this JSON file.")
@click.option(
    "--alignments",
    type=click.Path(path_type=Path),
    help="Write every utterance, word under word, to this text file.",
)
@click.option(
    "--worst",
    type=click.IntRange(min=0),
    default=0,
    help="Print this many utterances with most errors.",
)
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
def command(
    hypotheses: Path,
    against: Path | None,
    out: Path | None,
    alignments: Path | None,
    worst: int,
    overwrite: bool,
) -> None:
    """Word and character error rates with a 95 % confidence interval.

    HYPS.jsonl is what `speechssl decode` wrote; every line needs a reference. The interval is
    bootstrapped over utterances. With --against, the two systems are compared utterance by
    utterance: the difference of their WERs, and the two-sided p-value of the paired
    randomisation test (how often chance alone makes two equally good systems differ so much).

    \b
    Example:
      speechssl score exp/finetune/hyps.jsonl --worst 5
      speechssl score exp/finetune/hyps.jsonl --against exp/scratch/hyps.jsonl --out score.json
    """
    from speechssl.files import write_text
    from speechssl.scoring import compare

    for file in (out, alignments):
        write_once(file, overwrite)
    scores = {str(path): _score(path) for path in (hypotheses, against) if path is not None}
    first = scores[str(hypotheses)]
    numbers = {"hypotheses": str(hypotheses), **first.to_dict()}
    report = _table(scores)
    if against is not None:
        second = scores[str(against)]
        comparison = compare(first, second)
        numbers["against"] = {"hypotheses": str(against), **second.to_dict()}
        numbers["comparison"] = comparison.to_dict()
        report += "\n\n" + _verdict(comparison)
    if worst:
        report += "\n\n" + "\n\n".join(_worst(first, worst))
    if out is not None:
        write_text(out, json.dumps(numbers, indent=2) + "\n")
    if alignments is not None:
        write_text(alignments, "\n\n".join(u.alignment() for u in first.utterances) + "\n")
    click.echo(report)


def _score(path: Path) -> Score:
    """Scores one file; errors name it."""
    from speechssl.hypotheses import HypothesesError, read_hypotheses
    from speechssl.scoring import score

    hypotheses = read_hypotheses(path)
    try:
        return score(hypotheses)
    except HypothesesError as error:
        raise HypothesesError(f"{path}: {error}") from None


def _table(scores: dict[str, Score]) -> str:
    from speechssl.tables import percent, table

    rows = [["system", "WER %", "95 % CI", "CER %", "words", "sub", "del", "ins", "utterances"]]
    for name, result in scores.items():
        words, (low, high) = result.words, result.wer_interval
        edits = [words.length, words.substitutions, words.deletions, words.insertions]
        rows.append(
            [name, percent(result.wer), f"{percent(low)} to {percent(high)}", percent(result.cer)]
            + [str(number) for number in [*edits, len(result.utterances)]]
        )
    return table(rows)


def _verdict(comparison: Comparison) -> str:
    low, high = comparison.difference_interval
    return (
        f"WER difference {100 * comparison.difference:+.2f} "
        f"(95 % CI {100 * low:+.2f} to {100 * high:+.2f}), "
        f"p = {comparison.p_value:.2g} (paired randomisation test); "
        f"{comparison.better} utterances better, {comparison.worse} worse"
    )


def _worst(result: Score, count: int) -> list[str]:
    ranked = sorted(result.utterances, key=lambda u: (-u.words.errors, u.words.length))
    return [utterance.alignment() for utterance in ranked[:count]]
