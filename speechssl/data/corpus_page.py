"""The report of a corpus as a page: histograms, what was rejected, and what to listen to."""

from __future__ import annotations

import io
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from speechssl.data.corpus_report import Report, kind_of
from speechssl.data.listening import Concern, Heard
from speechssl.data.manifest import SPLITS
from speechssl.data.utterance import Rejected
from speechssl.files import write_text

WORST = 10
"""Utterances to listen to, of each concern."""

MOST_REJECTED = 5000
"""Rejected items on the page; report.txt has all."""


def write_page(out: Path, report: Report, heard: Sequence[Heard], worth: Sequence[Concern]) -> None:
    """Writes ``<out>/report.html``: one file without scripts, which plays the recordings where
    they lie, by relative links. Everything from the corpus is escaped."""
    template = Environment(
        loader=PackageLoader("speechssl.data", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    ).get_template("corpus_page.html")
    shown = report.rejected[:MOST_REJECTED]
    page = template.render(
        report=report,
        kinds=Counter(kind_of(item.reason) for item in report.rejected).most_common(),
        rejected=[
            {"item": r.item, "reason": _short(r), "link": _link(out, r.audio)} for r in shown
        ],
        hidden=len(report.rejected) - len(shown),
        histograms=_histograms(heard),
        formats=_formats(heard),
        concerns=[
            {
                "name": concern.name,
                "why": concern.why,
                "count": len(concern.items),
                "items": [_player(out, item, found) for item, found in concern.items[:WORST]],
            }
            for concern in worth
        ],
    )
    write_text(out / "report.html", page)


def _player(out: Path, heard: Heard, found: str) -> dict[str, Any]:
    utterance, measured = heard.utterance, heard.measured
    link = _link(out, str(utterance.audio))
    if utterance.is_part:
        link += f"#t={measured.start:.3f},{measured.start + measured.seconds:.3f}"
    return {
        "id": utterance.id,
        "split": heard.split,
        "found": found,
        "text": utterance.text or "",
        "link": link,
    }


def _link(out: Path, audio: str) -> str:
    """The relative address of a file, seen from the page; nothing for nothing."""
    return quote(os.path.relpath(audio, out).replace(os.sep, "/")) if audio else ""


def _short(rejected: Rejected) -> str:
    """A reason without the file, which stands beside it."""
    return rejected.reason.removeprefix(f"{rejected.audio}: ")


def _formats(heard: Sequence[Heard]) -> list[tuple[str, int, int, int]]:
    """(ending, samples per second, channels, utterances), the most frequent first."""
    counts = Counter(
        (item.utterance.audio.suffix.lower(), item.measured.rate, item.measured.channels)
        for item in heard
    )
    return [(*kind, count) for kind, count in sorted(counts.items(), key=lambda kc: (-kc[1], kc))]


HISTOGRAMS: tuple[tuple[str, Callable[[Heard], float | None]], ...] = (
    ("length in seconds", lambda item: item.measured.seconds),
    ("characters per second", lambda item: item.characters_per_second),
    ("loudness of the speech in dBFS", lambda item: item.measured.loudness_db),
    ("silence in % of the length", lambda item: 100 * item.measured.silent_share),
    ("clipped samples in %", lambda item: 100 * item.measured.clipped_share),
)
"""What is drawn of each utterance; None leaves it out."""


def _histograms(heard: Sequence[Heard]) -> list[tuple[str, str]]:
    """(what, SVG picture) of each of ``HISTOGRAMS`` in which utterances differ."""
    pictures = []
    for what, value in HISTOGRAMS:
        values: Mapping[str, list[float]] = defaultdict(list)
        for item in heard:
            number = value(item)
            if number is not None:
                values[item.split].append(number)
        if len({number for part in values.values() for number in part}) > 1:
            pictures.append((what, _draw({s: values[s] for s in SPLITS if s in values}, what)))
    return pictures


def _draw(values: Mapping[str, Sequence[float]], what: str) -> str:
    """A stacked histogram of the splits as an SVG element; the same values give the same text."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": what,
        "font.family": "sans-serif",
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(4.6, 2.6))
        axes = figure.add_axes((0.13, 0.19, 0.84, 0.77))
        axes.hist(
            list(values.values()),
            bins=40,
            stacked=True,
            label=list(values),
            histtype="stepfilled",  # one path instead of 40: four times faster and smaller
        )
        axes.set_xlabel(what)
        axes.set_ylabel("utterances")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    text = drawn.getvalue()
    return text[text.index("<svg") :]
