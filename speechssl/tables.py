"""Plain text tables."""

from __future__ import annotations

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]]) -> str:
    """Aligns ``rows`` (the first is the header) in columns; numbers to the right, text to the left.

    A column counts as numbers when every cell below the header starts with a digit or a sign.
    """
    columns = list(zip(*rows))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(cell[:1] in "0123456789+-" for cell in column[1:]) for column in columns]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def percent(share: float) -> str:
    """0.2345 as "23.45"."""
    return f"{100 * share:.2f}"
