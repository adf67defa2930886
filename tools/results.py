#!/usr/bin/env python
"""Scores the systems of an experiment: results.json, a table, comparisons and a figure."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import click

from speechssl.cli.main import OneLineErrors
from speechssl.config import build, require, unknown_key
from speechssl.data.corpus_report import read_report
from speechssl.errors import ConfigError, ManifestError, RunFolderError
from speechssl.files import atomic_path, check_figure, write_text
from speechssl.hypotheses import HypothesesError, read_hypotheses
from speechssl.scoring import Comparison, Score, compare, score
from speechssl.tables import percent, table
from speechssl.training.curves import read_metrics
from speechssl.training.run_folder import RunFolder

# Okabe & Ito: colours that colour-blind readers can tell apart; markers tell the rest. Six colours
# and seven markers, so that 42 systems differ.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]


@dataclass(frozen=True)
class Row:
    """One decoded system."""

    system: str
    hyps: str
    label_minutes: float
    pretraining_hours: float | None
    """Of audio seen, recordings counted each time; None where it was pretrained elsewhere."""
    seed: int
    seconds: float
    command: str | None = None
    """What fine-tuned it."""
    commit: str | None = None
    """Of the code that did; several where the run was resumed by another."""
    untranscribed_hours: float | None = None
    """Hours of different recordings that the encoder was pretrained on."""

    def __post_init__(self) -> None:
        minutes = self.label_minutes
        require(0 <= minutes < math.inf, "label_minutes", "0 or more", minutes)


@dataclass(frozen=True)
class Result:
    """A system with its error rates."""

    row: Row
    score: Score

    def to_dict(self, corpus: str) -> dict[str, Any]:
        """The entry of results.json."""
        return {
            "corpus": corpus,
            "system": self.row.system,
            "pretraining_hours_of_audio": self.row.pretraining_hours,
            "untranscribed_hours": self.row.untranscribed_hours,
            "label_minutes": self.row.label_minutes,
            "wer": self.score.wer,
            "wer_ci": list(self.score.wer_interval),
            "cer": self.score.cer,
            "words": self.score.words.length,
            "seed": self.row.seed,
            "seconds": self.row.seconds,
            "command": self.row.command,
            "commit": self.row.commit,
        }


@dataclass(frozen=True)
class Verdict:
    """Two systems fine-tuned on the same transcripts with the same seed."""

    first: Row
    second: Row
    comparison: Comparison

    def line(self) -> str:
        """The comparison in one line."""
        low, high = self.comparison.difference_interval
        return (
            f"{self.first.system} against {self.second.system}, "
            f"{self.first.label_minutes:g} minutes, seed {self.first.seed}: "
            f"WER {100 * self.comparison.difference:+.2f} points "
            f"(95 % CI {100 * low:+.2f} to {100 * high:+.2f}), p = {self.comparison.p_value:.2g}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The comparison for JSON."""
        return {
            "system": self.first.system,
            "against": self.second.system,
            "label_minutes": self.first.label_minutes,
            "seed": self.first.seed,
            **self.comparison.to_dict(),
        }


@click.command(cls=OneLineErrors)
@click.option("--corpus", required=True, help="Name of the corpus, for results.json and the title.")
@click.option(
    "--row",
    "rows",
    required=True,
    multiple=True,
    metavar="KEY=VALUE,...",
    help="One system: system=, hyps= (its hyps.jsonl), label_minutes=, pretraining_hours=, seed=, "
    "seconds= (training time); command=, commit= and untranscribed_hours= if known. run= (a "
    "fine-tuning run's folder) fills in all but system and label_minutes, with "
    "hyps=RUN/test.hyps.jsonl. Repeat for each system.",
)
@click.option(
    "--compare",
    "pairs",
    multiple=True,
    metavar="SYSTEM:OTHER",
    help="Paired test of two systems, for each label_minutes and seed that both have.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Write results.json here.")
@click.option("--comparisons", type=click.Path(path_type=Path), help="Write the comparisons here.")
@click.option("--figure", type=click.Path(path_type=Path), help="Draw the error rates here (png).")
def main(
    corpus: str,
    rows: tuple[str, ...],
    pairs: tuple[str, ...],
    out: Path | None,
    comparisons: Path | None,
    figure: Path | None,
) -> None:
    """Scores the systems of an experiment and writes results.json, a table and a figure.

    \b
    Example:
      python tools/results.py --corpus an4 --out exp/results.json --figure exp/results.png \\
        --row system=ssl,hyps=a.jsonl,label_minutes=10,pretraining_hours=0.7,seed=1,seconds=900 \\
        --row system=scratch,hyps=b.jsonl,label_minutes=10,pretraining_hours=0,seed=1,seconds=300 \\
        --compare ssl:scratch
    """
    if figure is not None:
        check_figure(figure)
    results = [_score(row) for row in different([parse_row(text) for text in rows])]
    verdicts = [verdict for pair in pairs for verdict in compare_systems(results, pair)]
    if out is not None:
        write_text(out, _json([result.to_dict(corpus) for result in results]))
    if comparisons is not None:
        write_text(comparisons, _json([verdict.to_dict() for verdict in verdicts]))
    if figure is not None:
        draw(results, corpus, figure)
    click.echo(format_results(results))
    if verdicts:
        click.echo("\n" + "\n".join(verdict.line() for verdict in verdicts))


def parse_row(text: str) -> Row:
    """``"system=a,hyps=a.jsonl,..."`` as a Row. Raises ``ConfigError`` naming the culprit."""
    where = f"--row {text}"
    values: dict[str, Any] = {}
    names = [*(field.name for field in fields(Row)), "run"]
    for setting in text.split(","):
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"{where}: {setting!r} is not of the form key=value.")
        values[key.strip()] = value.strip()
    for key in values:
        if key not in names:
            raise ConfigError(unknown_key(where, key, names))
    if "run" in values:
        values = {**read_run(Path(values.pop("run"))), **values}
    needed = [field.name for field in fields(Row) if field.default is MISSING]
    missing = [name for name in needed if name not in values]
    if missing:
        raise ConfigError(f"{where}: lacks {', '.join(missing)}.")
    return build(Row, values, where)


def different(rows: list[Row]) -> list[Row]:
    """``rows``. Raises ``ConfigError`` where two are of one system, amount of transcripts and seed,
    which figures would take for two seeds."""
    seen: set[tuple[str, float, int]] = set()
    for row in rows:
        key = (row.system, row.label_minutes, row.seed)
        if key in seen:
            raise ConfigError(
                f"--row: {row.system!r} with {row.label_minutes:g} minutes and seed {row.seed} is "
                "given twice; give each once, or another name."
            )
        seen.add(key)
    return rows


def read_run(exp: Path) -> dict[str, Any]:
    """What a fine-tuning run says of itself: seed, seconds of training with pretraining, its
    hypotheses of the test set, command and commit; and what the run that pretrained its encoder
    says (``read_pretraining``).

    Raises ``RunFolderError`` where ``exp`` is no finished run.
    """
    folder = RunFolder(exp)
    description, starts = folder.description(), folder.starts()
    if description.get("kind") == "pretrain":
        raise RunFolderError(f"{exp}: is a run of pretraining; give one of fine-tuning.")
    init = description["init"]
    hours, different, seconds = (0.0, 0.0, 0.0) if init is None else read_pretraining(Path(init))
    return {
        "hyps": str(exp / "test.hyps.jsonl"),
        "seed": description["seed"],
        "pretraining_hours": hours,
        "untranscribed_hours": different,
        "seconds": round(_last_metrics(exp)["total_time"] + seconds),
        "command": starts[0]["command"] if starts else None,
        "commit": ", ".join(dict.fromkeys(s["commit"] for s in starts if s["commit"])) or None,
    }


def read_pretraining(model: Path) -> tuple[float | None, float | None, float]:
    """Hours of audio that a pretrained ``model`` saw, hours of different recordings among them, and
    the seconds that this took. The hours are None where it was pretrained elsewhere, as imported
    models are, or its corpus is no longer there."""
    run = RunFolder(model.parent)
    try:
        data = Path(run.description()["data"])
    except RunFolderError:
        return None, None, 0.0
    last = _last_metrics(run.path)
    try:
        different = read_report(data).splits["train"].hours
    except ManifestError:
        different = None
    return last["total_audio_hours"], different, last["total_time"]


def _last_metrics(exp: Path) -> dict[str, Any]:
    rows = read_metrics(exp, "train")
    if not rows:
        raise RunFolderError(f"{exp}: has no training metrics; train it first.")
    return rows[-1]


def _score(row: Row) -> Result:
    hypotheses = read_hypotheses(row.hyps)
    try:
        return Result(row, score(hypotheses))
    except HypothesesError as error:
        raise HypothesesError(f"{row.hyps}: {error}") from None


def compare_systems(results: list[Result], pair: str) -> list[Verdict]:
    """The paired tests of ``"first:second"``, wherever minutes of transcripts and seed agree.

    Raises ``ConfigError`` if the two systems have no such rows.
    """
    first, _, second = pair.partition(":")
    verdicts = [
        Verdict(a.row, b.row, compare(a.score, b.score))
        for a in results
        for b in results
        if (a.row.system, b.row.system) == (first, second)
        and (a.row.label_minutes, a.row.seed) == (b.row.label_minutes, b.row.seed)
    ]
    if not verdicts:
        known = ", ".join(dict.fromkeys(result.row.system for result in results))
        raise ConfigError(
            f"--compare {pair}: no two such rows with the same label_minutes and seed; write "
            f"SYSTEM:OTHER with two of the systems {known}."
        )
    return verdicts


def _json(values: list[dict[str, Any]]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def format_results(results: list[Result]) -> str:
    """The table: one line per system."""
    header = ["system", "transcripts", "pretrained on", "WER %", "95 % CI", "CER %", "words"]
    rows = [[*header, "seed", "training"]]
    for result in results:
        row, (low, high) = result.row, result.score.wer_interval
        rows.append(
            [
                row.system,
                f"{row.label_minutes:g} min",
                _hours(row.pretraining_hours),
                percent(result.score.wer),
                f"{percent(low)} to {percent(high)}",
                percent(result.score.cer),
                str(result.score.words.length),
                str(row.seed),
                f"{row.seconds / 60:.1f} min",
            ]
        )
    return table(rows)


def _hours(hours: float | None) -> str:
    if hours is None:
        return "elsewhere"
    return f"{hours:.3g} h" if hours else "-"


def draw(results: list[Result], corpus: str, path: Path) -> None:
    """Draws WER with its interval over minutes of transcripts, one colour and marker per system.

    Several seeds of one system stand side by side.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    minutes = sorted({result.row.label_minutes for result in results})
    figure, axes = pyplot.subplots(figsize=(1.6 + 2.4 * max(2, len(minutes)), 4.2), dpi=150)
    _draw_points(axes, results, minutes)
    axes.set_xticks(range(len(minutes)), [f"{value:g} minutes" for value in minutes])
    axes.set_xlim(-0.6, len(minutes) - 0.4)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("transcripts used for fine-tuning")
    axes.set_ylabel("word error rate (%), 95 % interval")
    axes.set_title(
        f"{corpus}: {results[0].score.words.length} test words", loc="left", fontsize=11, pad=14
    )
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, bbox_inches="tight")
    pyplot.close(figure)


def _draw_points(axes: Any, results: list[Result], minutes: list[float]) -> None:
    systems = list(dict.fromkeys(result.row.system for result in results))
    columns = sorted({_column(result, systems) for result in results})
    step = min(0.3, 0.8 / len(columns))
    labelled: set[str] = set()
    for result in results:
        place = columns.index(_column(result, systems)) - (len(columns) - 1) / 2
        x = minutes.index(result.row.label_minutes) + step * place
        wer = 100 * result.score.wer
        low, high = (100 * bound for bound in result.score.wer_interval)
        name = result.row.system
        index = systems.index(name)
        axes.errorbar(
            x,
            wer,
            yerr=[[wer - low], [high - wer]],
            fmt=MARKERS[index % len(MARKERS)],
            color=COLOURS[index % len(COLOURS)],
            capsize=4,
            label=None if name in labelled else name,
        )
        labelled.add(name)
        axes.annotate(
            f"{wer:.1f}", (x, high), (0, 4), textcoords="offset points", ha="center", fontsize=8
        )


def _column(result: Result, systems: list[str]) -> tuple[int, int]:
    """Where a point stands within its minutes: by system, then by seed."""
    return systems.index(result.row.system), result.row.seed


if __name__ == "__main__":
    main()
