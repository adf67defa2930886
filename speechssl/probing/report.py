"""The measures of all layers: as JSON, a table, a sentence, and a picture."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from speechssl.files import atomic_path
from speechssl.tables import percent, table

PURITIES = {
    "pnmi": "PNMI",
    "phone_purity": "unit purity",
    "cluster_purity": "cluster purity",
}
"""The measures of clusters, and what they are called."""


@dataclass(frozen=True)
class ProbeReport:
    """What every layer of a model is worth for one task."""

    task: str
    model: str
    model_hash: str
    """SHA-256 of the model's weights."""

    cuts: str
    test_cuts: str | None
    aligner: str | None
    keywords: list[str]
    seed: int
    split: str
    """Who is held out."""

    units: str
    """What the labels are: speakers, languages, keywords, phones, characters."""

    classes: int
    train_utterances: int
    train_examples: int
    test_utterances: int
    test_examples: int
    majority: float
    """Accuracy of always saying the most frequent label."""

    clusters: int | None
    """Clusters of each layer, if clusters are measured."""

    layers: list[dict[str, Any]]
    """For each ``layer``, the first being log-mels: ``accuracy``, ``interval`` and ``converged``,
    or the measures of ``speechssl.clustering.purity``."""

    def to_dict(self) -> dict[str, Any]:
        """Everything under plain names, for JSON."""
        return {**asdict(self), "chance": 1 / self.classes}

    @property
    def best(self) -> dict[str, Any]:
        """The best layer of the model."""
        measure = "accuracy" if self.clusters is None else "pnmi"
        best: dict[str, Any] = max(self.layers[1:], key=lambda layer: layer[measure])
        return best

    def lines(self) -> str:
        """The table, and what it is about."""
        rows = [["layer", "accuracy %", "95 % CI"]]
        if self.clusters is not None:
            rows = [["layer", *PURITIES.values()]]
        for layer in self.layers:
            name = "log-mel" if layer["layer"] == "log-mel" else f"layer {layer['layer']}"
            mark = " (best)" if layer is self.best else ""
            if self.clusters is None:
                low, high = layer["interval"]
                cells = [percent(layer["accuracy"]), f"{percent(low)} to {percent(high)}"]
            else:
                cells = [f"{layer[measure]:.3f}" for measure in PURITIES]
            rows.append([name + mark, *cells])
        lines = [table(rows), "", *self._about()]
        late = [layer["layer"] for layer in self.layers if layer.get("converged") is False]
        if late:
            lines.append(f"not converged, so perhaps too low: {', '.join(late)}")
        return "\n".join(lines)

    def _about(self) -> list[str]:
        lines = [
            f"{self.classes} {self.units}; {_counted(self.train_examples, self.train_utterances)} "
            f"to learn from, {_counted(self.test_examples, self.test_utterances)} to be tested on",
            f"{self.split[0].upper()}{self.split[1:]}",
        ]
        if self.clusters is None:
            lines.append(
                f"always the most frequent: {percent(self.majority)} %; "
                f"by chance: {percent(1 / self.classes)} %"
            )
        else:
            lines.append(f"{self.clusters} clusters for each layer")
        return lines


def _counted(examples: int, utterances: int) -> str:
    if examples == utterances:
        return f"{utterances} utterances"
    return f"{examples} frames of {utterances} utterances"


def draw_report(path: Path, report: ProbeReport) -> None:
    """Draws the measures over the layers, log-mels at the left, as a PNG."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    places = [-1.5, *range(len(report.layers) - 1)]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    if report.clusters is None:
        values = [100 * layer["accuracy"] for layer in report.layers]
        ends = [[100 * end for end in layer["interval"]] for layer in report.layers]
        lengths = [[abs(v - end[i]) for v, end in zip(values, ends)] for i in (0, 1)]
        axes.errorbar(places[1:], values[1:], [n[1:] for n in lengths], fmt="o-", capsize=3)
        first = [n[:1] for n in lengths]
        axes.errorbar(places[:1], values[:1], first, fmt="s", color="C1", capsize=3)
        axes.axhline(100 * report.majority, color="grey", linestyle=":", label="most frequent")
        axes.set(ylabel="accuracy on held-out (%)", ylim=(0, 100))
    else:
        for number, (measure, name) in enumerate(PURITIES.items()):
            values = [layer[measure] for layer in report.layers]
            axes.plot(places[1:], values[1:], "o-", color=f"C{number}", label=name)
            axes.plot(places[:1], values[:1], "s", color=f"C{number}")
        axes.set(ylabel=f"with {report.clusters} clusters", ylim=(0, 1))
    axes.set_xticks(places, [layer["layer"] for layer in report.layers])
    axes.set(xlabel="layer (0: input of the first)", title=_title(report))
    axes.grid(axis="y", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)


def _title(report: ProbeReport) -> str:
    tested = _counted(report.test_examples, report.test_utterances)
    what = "Clusters against" if report.clusters else "Linear probe for"
    return f"{what} {report.classes} {report.units}, tested on {tested}"
