"""The curves of a run as one picture: ``curves.png`` in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from speechssl.files import atomic_path

PANELS = (
    ("loss", ("loss", "loss_trivial"), 1),
    ("share (%)", ("accuracy", "wer", "cer", "blank_share"), 100),
    ("perplexity", ("codebook_perplexity", "prediction_perplexity", "target_perplexity"), 1),
    ("variance of directions", ("context_variance", "target_variance"), 1),
    ("effective rank", ("context_rank", "target_rank"), 1),
    ("gradient norm", ("grad_norm",), 1),
    ("seconds of audio per second", ("audio_seconds_per_second",), 1),
)
"""(axis label, metrics drawn in it, factor); a panel without any of its metrics is left out."""

SPLITS = {"train": "-", "valid": "o:"}
"""Whose metrics are drawn, in which style."""

Series = dict[str, list[dict[str, Any]]]
"""The reports of each split, by its name."""


def draw_curves(exp: Path, reference: Series | None = None) -> Path:
    """Draws the metrics of the run in ``exp`` over its updates; training solid, validation dotted.

    ``reference`` is a run to compare with (``training/reference.py``), drawn pale behind it.
    Returns the path of the picture.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    series = {split: read_metrics(exp, split) for split in SPLITS}
    panels = [
        (label, names, factor)
        for label, names, factor in PANELS
        if any(name in row for rows in series.values() for row in rows for name in names)
    ]
    columns = 2
    lines = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(10, 2.6 * lines), squeeze=False, layout="constrained"
    )
    for place, (label, names, factor) in zip(axes.flat, panels):
        for number, name in enumerate(names):
            for split, style in SPLITS.items():
                look = {"color": f"C{number}", "label": f"{name}, {split}"}
                pale = {**look, "alpha": 0.3, "linewidth": 4, "label": f"{name}, reference"}
                if split == "train":
                    _plot(place, (reference or {}).get(split, []), name, factor, "-", pale)
                _plot(place, series[split], name, factor, style, look)
        place.set(xlabel="update", ylabel=label)
        place.grid(color="0.92")
        place.spines[["top", "right"]].set_visible(False)
        place.legend(frameon=False, fontsize=8)
    for place in axes.flat[len(panels) :]:
        place.set_visible(False)
    path = exp / "curves.png"
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)
    return path


def _plot(
    place: Any, rows: list[dict[str, Any]], name: str, factor: float, style: str, look: Any
) -> None:
    points = [(row["Step"], factor * row[name]) for row in rows if name in row]
    if points:
        place.plot(*zip(*points), style, **look)


def read_metrics(exp: Path, split: str) -> list[dict[str, Any]]:
    """The reports of a run, one per update that has one; later ones replace earlier ones.

    A line that a killed run left unfinished is passed over.
    """
    file = exp / "metrics" / f"{split}.jsonl"
    if not file.is_file():
        return []
    by_step: dict[int, dict[str, Any]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        by_step[row["Step"]] = row
    return [by_step[step] for step in sorted(by_step)]
