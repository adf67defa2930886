"""The numbers of a run as table, bench.json, machine.json and figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from speechssl.files import atomic_path, write_text

OURS = "#D55E00"
PEER = "#7F9BB3"
OTHER = "#F0B890"
NEITHER = "#C9C9C9"
"""Bars of speechssl, of peers, of speechssl with another network, and of torch alone."""


@dataclass(frozen=True)
class Row:
    """A line of bench.json: one system on one case in one precision."""

    case: str
    system: str
    dtype: str
    """bf16 (autocast), fp32, int8 (products of 8-bit integers, the rest in bf16), or "" where
    nothing is computed."""
    audio_seconds_per_second: float | None
    """At the median step; None for start-up."""
    peak_memory_gb: float
    ratio_to_fastest_peer: float | None
    """Speed as a multiple of the fastest peer's; None without a peer."""
    seconds: float
    """Median of a step."""
    seconds_min: float
    seconds_max: float
    rounds: int
    """Steps that count."""
    cold: bool
    """Whether there was time for a first step alone, which also touches new memory; otherwise that
    does not count."""
    flops_per_second: float | None
    """Operations of the network (see flops.py) per second, at the median step."""
    flop_share: float | None
    """The same as a share of what a plain matrix product (int8: in bf16) reached in the same
    rounds."""
    padding_share: float | None
    peer: bool
    same_network: bool
    """False where the network is another one than that of the peers."""
    settings: str


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """The rows with their ratios.

    A peer's best setting may be a higher precision: bf16 is compared with the fastest of the
    peers' bf16 and fp32 rows, and so is int8, which no peer has; fp32 with fp32 only.
    """
    return [replace(row, ratio_to_fastest_peer=_ratio(row, rows)) for row in rows]


def _ratio(row: Row, rows: Sequence[Row]) -> float | None:
    allowed = {"bf16", "fp32"} if row.dtype in ("bf16", "int8") else {row.dtype}
    peers = [
        other.seconds
        for other in rows
        if other.peer and other.case == row.case and other.dtype in allowed
    ]
    return min(peers) / row.seconds if peers else None


def write_report(
    folder: Path, rows: Sequence[Row], machine: dict[str, Any], notes: Sequence[str]
) -> str:
    """Writes bench.json, machine.json, bench.md and bench.png; returns the text of bench.md."""
    text = markdown(rows, machine, notes)
    write_text(folder / "bench.json", _json([asdict(row) for row in rows]))
    write_text(folder / "machine.json", _json({**machine, "notes": list(notes)}))
    write_text(folder / "bench.md", text)
    if rows:
        draw(rows, machine, folder / "bench.png")
    return text


def _json(values: Any) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def markdown(rows: Sequence[Row], machine: dict[str, Any], notes: Sequence[str]) -> str:
    """The table of all cases, the machine above it, the notes below."""
    header = ["case", "system", "precision", "audio s / s", "× fastest peer", "step s (min to max)"]
    cells = [[*header, "steps", "peak GB", "of matmul", "padding", "settings"]]
    for row in rows:
        cells.append(
            [
                row.case,
                f"**{row.system}**" if row.system == "speechssl" else row.system,
                row.dtype or "-",
                _number(row.audio_seconds_per_second),
                _times(row),
                f"{row.seconds:.3g} ({row.seconds_min:.3g} to {row.seconds_max:.3g})",
                f"{row.rounds}, cold" if row.cold else str(row.rounds),
                f"{row.peak_memory_gb:.2f}",
                _percent(row.flop_share),
                _percent(row.padding_share),
                row.settings or "-",
            ]
        )
    lines = [_machine_line(machine), "", *_table(cells), ""]
    if any(not row.same_network for row in rows):
        lines.append(
            "\\* the network of the tiny recipes, which no peer has. Rows without a mark compare "
            "networks of equal dimensions: a transformer on the waveform."
        )
    if any(row.cold for row in rows):
        lines.append("Cold: the only step in the time was the system's first, which is slower.")
    for precision, flops in machine.get("matmul_flops_per_second", {}).items():
        lines.append(f"A plain {precision} matrix product: {flops / 1e12:.2f} TFLOP/s.")
    lines += [f"- {note}" for note in notes]
    return "\n".join(lines).rstrip() + "\n"


def _machine_line(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    where = machine["gpu"] or f"{machine['cpus']} CPUs ({machine['cpu']})"
    command = f"`{machine['command']}`, " if machine.get("command") else ""
    return f"{command}{where}, commit {machine['commit'] or 'unknown'}; {versions}."


def _table(cells: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells)]
    rows = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths)) + " |" for row in cells]
    return [rows[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *rows[1:]]


def _times(row: Row) -> str:
    if row.ratio_to_fastest_peer is None:
        return "-"
    return f"{row.ratio_to_fastest_peer:.2f}" + ("" if row.same_network else " \\*")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def draw(rows: Sequence[Row], machine: dict[str, Any], path: Path) -> None:
    """Draws one panel per case: bars of speed, the ratio to the fastest peer beside each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row.case for row in rows))
    panels = {name: [row for row in rows if row.case == name] for name in names}
    columns = min(2, len(names))
    lines = [names[i : i + columns] for i in range(0, len(names), columns)]
    heights = [1.1 + 0.3 * max(len(panels[name]) for name in line) for line in lines]
    figure, axes = pyplot.subplots(
        len(lines),
        columns,
        figsize=(6.6 * columns, sum(heights)),
        dpi=120,
        squeeze=False,
        gridspec_kw={"height_ratios": heights},
        layout="constrained",
    )
    for cell in axes.flat[len(names) :]:
        cell.axis("off")
    for name, cell in zip(names, axes.flat):
        _draw_panel(cell, name, panels[name])
    where = machine["gpu"] or f"{machine['cpus']} CPUs"
    figure.suptitle(
        f"Speed on {where}. × is the multiple of the fastest peer's speed"
        + (" (* another network)" if any(not row.same_network for row in rows) else ""),
        fontsize=11,
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
    pyplot.close(figure)


def _draw_panel(axes: Any, name: str, rows: list[Row]) -> None:
    timed = rows[0].audio_seconds_per_second is None
    values = [row.seconds if timed else row.audio_seconds_per_second or 0.0 for row in rows]
    labels = [f"{row.system} {row.dtype}".strip() for row in rows]
    places = range(len(rows))
    axes.barh(places, values, color=[_colour(row) for row in rows], height=0.72)
    for place, row, value in zip(places, rows, values):
        star = "" if row.same_network else " *"
        ratio = row.ratio_to_fastest_peer
        times = f"   × {ratio:.2f}{star}" if ratio is not None else ""
        axes.annotate(
            f"{_number(value)}{times}",
            (value, place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            fontweight="bold" if row.system == "speechssl" else "normal",
        )
    axes.set_yticks(places, labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.32 * max(values))
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title(name, loc="left", fontsize=10)
    unit = "seconds (less is better)" if timed else "seconds of audio per second"
    axes.set_xlabel(unit, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _colour(row: Row) -> str:
    if row.peer:
        return PEER
    if not row.system.startswith("speechssl"):
        return NEITHER
    return OURS if row.same_network else OTHER
