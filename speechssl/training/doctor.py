"""The run doctor: what betrays a failing run early, and which setting to change.

It reads the reports of a run, during training and from ``metrics/train.jsonl``, and knows no
objective: all report the same metrics under the same names (``objectives/base.py``). What it knows
about them stands in ``rules``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_low
from typing import Any

from speechssl.config import build, dotted, to_dict
from speechssl.objectives import load_objective
from speechssl.training.rules import RULES, Reading, Rule
from speechssl.training.run_folder import RunFolder

WINDOW = 3
"""Reports that are looked at together, by their median, so that a single one raises no alarm."""

WITHOUT_DROPOUT = ("context_variance", "context_rank", "target_variance", "target_rank")
"""Metrics that dropout raises, so that validation knows better than training."""

Row = Mapping[str, Any]
"""One report: ``Step`` (the update) and the metrics since the report before."""


@dataclass(frozen=True)
class Finding:
    """A symptom that a run has at one of its updates."""

    rule: Rule
    update: int
    message: str
    """One line: what is wrong, and what to change."""


@dataclass
class Doctor:
    """Follows one run, report by report."""

    settings: Mapping[str, Any]
    """The recipe's settings by their dotted names, as ``run_settings`` gives them."""

    recent: deque[Row] = field(default_factory=lambda: deque(maxlen=WINDOW))
    first: list[Row] = field(default_factory=list)
    best_gain: float = -math.inf

    def see(self, row: Row) -> Finding | None:
        """Takes in the next report of training; returns what is wrong with the run now, None if
        nothing is."""
        row = {**row, **_gain(row)}
        self.recent.append(row)
        if len(self.first) < WINDOW:
            self.first.append(row)
        reading = self.reading()
        self.best_gain = max(self.best_gain, reading.now.get("gain", -math.inf))
        return self.diagnose(reading, row["Step"])

    def see_validation(self, row: Row) -> Finding | None:
        """The same for a report of validation, of which variances and ranks count: in training,
        dropout makes even collapsed frames differ. So does a loss that is no number: the last
        update may have lost the weights."""
        reading = self.reading()
        reading.now |= {name: row[name] for name in WITHOUT_DROPOUT if name in row}
        if not math.isfinite(row.get("loss", 0.0)):
            reading.now["loss"] = row["loss"]
        return self.diagnose(reading, row["Step"])

    def diagnose(self, reading: Reading, update: int) -> Finding | None:
        """The first rule that is sick."""
        for rule in RULES:
            if reading.state(rule) == "sick":
                return Finding(rule, update, self.message(rule, reading))
        return None

    def reading(self) -> Reading:
        """The state of the run as the rules see it."""
        now, start = _medians(self.recent), _medians(self.first)
        seen = self.recent[-1]["Step"] if self.recent else 0
        done = seen / self.settings["training.updates"]
        return Reading(done, now, start, self.best_gain, self.settings)

    def message(self, rule: Rule, reading: Reading) -> str:
        """The rule's line for this run: ``symptom: what is wrong; what to change``."""
        advice = [text for remedy in rule.remedies if (text := self.remedy(remedy))]
        return f"{rule.symptom}: {rule.says.format(**reading.now)}; {' or '.join(advice[:3])}."

    def remedy(self, remedy: str) -> str | None:
        """The remedy with the setting's present value; None if the run has no such setting."""
        words = []
        for word in remedy.split():
            name, equals, _ = word.partition("=")
            if "." in name or name == "data":
                if name not in self.settings:
                    return None
                word = f"{word} (it is {self.settings[name]})" if not equals else word
            words.append(word)
        return " ".join(words)


def examine(
    training: Iterable[Row], validation: Iterable[Row], settings: Mapping[str, Any]
) -> tuple[Doctor, list[Finding]]:
    """Goes through the reports of a run; returns the doctor as it is after the last, and for each
    report that was sick the finding."""
    doctor = Doctor(settings)
    reports = [(row["Step"], 0, doctor.see, row) for row in training]
    reports += [(row["Step"], 1, doctor.see_validation, row) for row in validation]
    findings = [see(row) for _, _, see, row in sorted(reports, key=lambda report: report[:2])]
    return doctor, [finding for finding in findings if finding is not None]


def checkup(reading: Reading) -> list[tuple[str, str, str, str]]:
    """For each rule that looks at something that the run reports: the symptom, the present
    values, the threshold, the state."""
    lines = []
    for rule in RULES:
        state = reading.state(rule)
        if state != "unknown":
            values = ", ".join(f"{name} {reading.now[name]:.3g}" for name in rule.needs)
            lines.append((rule.symptom, values, rule.sick, state))
    return lines


def episodes(findings: Iterable[Finding], last: int) -> list[str]:
    """One line for each symptom of a run whose last report is of update ``last``: from when to
    when, and the message of its last report."""
    spans: dict[str, tuple[int, Finding]] = {}
    for finding in findings:
        first, _ = spans.get(finding.rule.symptom, (finding.update, finding))
        spans[finding.rule.symptom] = (first, finding)
    return [
        f"since update {first}: {finding.message}"
        if finding.update == last
        else f"updates {first} to {finding.update}, not now: {finding.message}"
        for first, finding in spans.values()
    ]


def run_settings(exp: Path) -> dict[str, Any]:
    """Every setting of the run in ``exp`` by its dotted name, the objective's defaults and
    ``data`` (its folder) included. Raises ``RunFolderError`` if this is no run folder."""
    description = RunFolder(exp).description()
    recipe = dict(description["recipe"])
    if "objective" in recipe:
        given = {name: value for name, value in recipe["objective"].items() if name != "kind"}
        config = load_objective(recipe["objective"]["kind"]).Config
        recipe["objective"] = to_dict(build(config, given, str(exp)))
    settings = dict(dotted(recipe))
    settings["data"] = description["data"]
    if settings.get("data.targets") is None:
        settings.pop("data.targets", None)
    return settings


def _gain(row: Row) -> dict[str, float]:
    loss, trivial = row.get("loss"), row.get("loss_trivial")
    if loss is None or trivial is None or not trivial > 0:
        return {}
    return {"gain": 1.0 - loss / trivial}


def _medians(rows: Iterable[Row]) -> dict[str, float]:
    """The median of each metric that all ``rows`` have; NaN where one of its values is."""
    rows = list(rows)
    names = set.intersection(*(set(row) for row in rows)) if rows else set()
    values = {name: [row[name] for row in rows] for name in names}
    return {
        name: math.nan if any(math.isnan(v) for v in found) else median_low(found)
        for name, found in values.items()
        if all(isinstance(value, (int, float)) for value in found)
    }
