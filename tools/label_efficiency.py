#!/usr/bin/env python
"""Draws what pretraining is worth: error rate over minutes of transcripts, or over hours of
untranscribed recordings; a line per system."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from speechssl.cli.main import OneLineErrors
from speechssl.errors import ConfigError
from speechssl.files import atomic_path, check_figure
from speechssl.tables import percent, table

MARKERS = "osD^v"
REFERENCE_LINES = ["-", "--", ":", "-."]
LM = " + LM"  # behind a system's name: decoded with a language model


@dataclass(frozen=True)
class Axis:
    """What a figure runs over."""

    key: str
    """In results.json."""
    label: str
    unit: str


AXES = {
    "transcripts": Axis("label_minutes", "minutes of transcripts", "min"),
    "recordings": Axis("untranscribed_hours", "hours of untranscribed recordings", "h"),
}


@dataclass(frozen=True)
class Point:
    """A system at some amount of what the figure runs over."""

    system: str
    amount: float
    wers: tuple[float, ...]
    """Of each seed."""

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.wers)

    @property
    def half_width(self) -> float:
        """Half of the 95 % confidence interval of the mean over seeds, by Student's t; not a number
        for one seed, which says nothing of it."""
        if len(self.wers) < 2:
            return math.nan
        from scipy.stats import t

        error = statistics.stdev(self.wers) / math.sqrt(len(self.wers))
        return float(t.ppf(0.975, len(self.wers) - 1)) * error


@click.command(cls=OneLineErrors)
@click.argument("results", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("figure", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--over",
    type=click.Choice(list(AXES)),
    default="transcripts",
    show_default=True,
    help="What to draw over. Over recordings, systems NAME@CORPUS are one line NAME.",
)
@click.option("--title", default="", help="Above the figure.")
@click.option(
    "--reference",
    "references",
    multiple=True,
    metavar="NAME=WER",
    help="A published error rate in percent, drawn as a line across. Repeat for more.",
)
def main(results: Path, figure: Path, over: str, title: str, references: tuple[str, ...]) -> None:
    """Draws FIGURE (png) from RESULTS (results.json of tools/results.py) and prints its table.

    Rows of one system and one amount are seeds of each other: their mean and, of two or more, its
    95 % confidence interval are drawn.

    \b
    Example:
      python tools/label_efficiency.py exp/results.json exp/label_efficiency.png \\
        --reference "Kaldi tri3=5.95"
    """
    check_figure(figure)
    points = read_points(results, over)
    lines = [_reference(text) for text in references]
    draw(points, lines, AXES[over], title, figure)
    click.echo(format_points(points, AXES[over]))


def read_points(path: Path, over: str = "transcripts") -> list[Point]:
    """The points of a results.json, best systems first, each with rising amounts.

    Over recordings, a line is what systems NAME@CORPUS make with the same minutes of transcripts.

    Raises ``ConfigError`` where the file is no such list.
    """
    wers: dict[tuple[str, float], list[float]] = defaultdict(list)
    try:
        for entry in json.loads(path.read_text(encoding="utf-8")):
            system, amount = str(entry["system"]), entry[AXES[over].key]
            if amount is None:
                raise ConfigError(
                    f"{path}: the hours that {system!r} was pretrained on, elsewhere, are not "
                    "known; leave it out of a figure over recordings."
                )
            if over == "recordings":
                system = f"{system.partition('@')[0]}, {entry['label_minutes']:g} min"
            wers[system, float(amount)].append(float(entry["wer"]))
    except (ValueError, KeyError, TypeError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"{path}: is no results.json of tools/results.py ({problem}); make it again."
        ) from None
    if not wers:
        raise ConfigError(f"{path}: holds no results.")
    points = [Point(system, amount, tuple(seeds)) for (system, amount), seeds in wers.items()]
    best = {name: min(p.mean for p in points if p.system == name) for name, _ in wers}
    return sorted(points, key=lambda point: (best[point.system], point.system, point.amount))


def _reference(text: str) -> tuple[str, float]:
    name, _, value = text.rpartition("=")
    try:
        wer = float(value)
    except ValueError:
        name = ""
    if not name:
        raise ConfigError(f"--reference {text!r}: is not of the form NAME=WER (Kaldi tri3=5.95).")
    return name, wer


def format_points(points: Sequence[Point], axis: Axis) -> str:
    """The table: a line per system, a column per amount."""
    amounts = sorted({point.amount for point in points})
    rows = [["WER %, mean of seeds", *(f"{value:.3g} {axis.unit}" for value in amounts)]]
    for system in dict.fromkeys(point.system for point in points):
        own = {point.amount: point for point in points if point.system == system}
        rows.append([system, *(_cell(own.get(value)) for value in amounts)])
    return table(rows)


def _cell(point: Point | None) -> str:
    if point is None:
        return "-"
    spread = f" ± {percent(point.half_width)}" if len(point.wers) > 1 else ""
    return f"{percent(point.mean)}{spread} ({len(point.wers)})"


def draw(
    points: Sequence[Point],
    references: Sequence[tuple[str, float]],
    axis: Axis,
    title: str,
    path: Path,
) -> None:
    """Draws mean and interval of each system: over the amounts, whose places follow their order;
    if there is one amount alone, below each other and with every seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    amounts = sorted({point.amount for point in points})
    figure, axes = pyplot.subplots(figsize=(7.5, 4.8), dpi=150)
    if len(amounts) > 1:
        _draw_lines(axes, points, amounts, references)
        axes.set_xlabel(axis.label)
    else:
        _draw_rows(axes, points, references)
        title = ", ".join(filter(None, [title, f"{amounts[0]:.3g} {axis.label}"]))
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, bbox_inches="tight", format="png")
    pyplot.close(figure)


def _draw_lines(
    axes: Any,
    points: Sequence[Point],
    amounts: Sequence[float],
    references: Sequence[tuple[str, float]],
) -> None:
    from matplotlib import pyplot

    systems = list(dict.fromkeys(point.system for point in points))
    looks = list(dict.fromkeys(system.removesuffix(LM) for system in systems))
    colours: Any = pyplot.get_cmap("viridis")
    for system in systems:
        own = [point for point in points if point.system == system]
        means = [100 * point.mean for point in own]
        places = [amounts.index(point.amount) for point in own]
        width = [100 * point.half_width for point in own]
        look = looks.index(system.removesuffix(LM))  # with and without look alike
        colour, marker = colours(look / len(looks)), MARKERS[look % len(MARKERS)]
        style = "--" if system.endswith(LM) else "-"
        axes.plot(places, means, style, marker=marker, color=colour, label=system)
        low, high = ([m + sign * w for m, w in zip(means, width)] for sign in (-1, 1))
        axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.errorbar(places, means, width, fmt="none", ecolor=colour, capsize=3)
    for number, (name, wer) in enumerate(references):
        style = REFERENCE_LINES[number % len(REFERENCE_LINES)]
        axes.axhline(wer, linestyle=style, color="0.5", linewidth=1, label=f"{name}: {wer:g}")
    axes.set_xticks(range(len(amounts)), [f"{value:.3g}" if value else "none" for value in amounts])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("word error rate (%)")
    axes.grid(axis="y", color="0.9")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _draw_rows(axes: Any, points: Sequence[Point], references: Sequence[tuple[str, float]]) -> None:
    rows = range(len(points))
    means = [100 * point.mean for point in points]
    width = [100 * point.half_width for point in points]
    axes.errorbar(means, rows, xerr=width, fmt="o", color="#31688e", capsize=3)
    for row, point in zip(rows, points):
        if len(point.wers) > 1:
            seeds = [100 * wer for wer in point.wers]
            axes.plot(seeds, [row] * len(seeds), "|", color="0.3", markersize=9)
    for number, (name, wer) in enumerate(references):
        axes.axvline(wer, color="0.6", linewidth=1)
        where = {"textcoords": "offset points", "va": "bottom", "fontsize": 8}
        axes.annotate(f"{name}: {wer:g}", (wer, len(points) - 1), (4, 12 * number), **where)
    axes.set_yticks(rows, [point.system for point in points])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("word error rate (%), mean of seeds, its 95 % interval, and each seed")
    axes.grid(axis="x", color="0.9")


if __name__ == "__main__":
    main()
