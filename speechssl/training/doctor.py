"""The run doctor: what betrays a failing run early, and which setting to change.

It reads the reports of a run, during training and from ``metrics/train.jsonl``, and knows no
objective: all report the same metrics under the same names (``objectives/base.py``). ``RULES`` is
the whole of its knowledge.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_low
from typing import Any

from speechssl.config import build, to_dict
from speechssl.objectives import load_objective
from speechssl.training.run_folder import RunFolder

WINDOW = 3
"""Reports that are looked at together, by their median, so that a single one raises no alarm."""

WITHOUT_DROPOUT = ("context_variance", "context_rank", "target_variance", "target_rank")
"""Metrics that dropout raises, so that validation knows better than training."""

Row = Mapping[str, Any]
"""One report: ``Step`` (the update) and the metrics since the report before."""


@dataclass
class Reading:
    """The state of a run at one report."""

    done: float
    """Share of the run that is done, 0 to 1."""

    now: dict[str, float]
    """Median of each metric over the last ``WINDOW`` reports; ``gain`` among them, which is
    1 - loss / loss_trivial: 0 when the audio has not helped, 1 when nothing is left to learn."""

    start: dict[str, float]
    """The same of the first reports."""

    best_gain: float
    settings: Mapping[str, Any]
    """The recipe's settings by their dotted names."""

    def state(self, rule: Rule) -> str:
        """``sick``, ``well``, ``too early`` to say, or ``unknown`` where the run does not report
        what the rule looks at."""
        if not all(name in self.now and name in self.start for name in rule.needs):
            return "unknown"
        if self.done < rule.after:
            return "too early"
        return "sick" if rule.is_sick(self) else "well"


@dataclass(frozen=True)
class Rule:
    """A symptom, how it shows, and what helps."""

    symptom: str
    needs: tuple[str, ...]
    """The metrics that it looks at; where a run has not all of them, the rule is left out."""

    after: float
    """Share of the run from which on it counts: before, a healthy run may look the same."""

    sick: str
    """The threshold in words, for those who read ``speechssl doctor``."""

    is_sick: Callable[[Reading], bool]
    says: str
    """What is wrong, with the metrics by name."""

    remedies: tuple[str, ...]
    """What to change, most promising first: a verb and a setting. Settings that the run's recipe
    does not have are left out."""


LOWER_RATE = ("lower optimizer.lr", "raise schedule.warmup")
FREER_TARGETS = ("raise objective.diversity_weight", *LOWER_RATE)

RULES = (
    Rule(
        "silent data",
        needs=("silence_share",),
        after=0.0,
        sick="above 20 %",
        is_sick=lambda run: run.now["silence_share"] > 0.2,
        says="{silence_share:.0%} of the recordings are silent or constant",
        remedies=("check the audio of data",),
    ),
    Rule(
        "not a number",
        needs=("loss", "grad_norm"),
        after=0.0,
        sick="not finite",
        is_sick=lambda run: not math.isfinite(run.now["loss"]) or math.isnan(run.now["grad_norm"]),
        says="loss {loss:.3g}, gradient norm {grad_norm:.3g}: the weights are lost",
        remedies=(*LOWER_RATE, "set training.precision=fp32"),
    ),
    Rule(
        "exploding gradient",
        needs=("grad_norm",),
        after=0.05,
        sick="above 20 x training.max_grad_norm",
        is_sick=lambda run: run.now["grad_norm"] > 20 * run.settings["training.max_grad_norm"],
        says="gradient norm {grad_norm:.3g}, far above where it is clipped",
        remedies=LOWER_RATE,
    ),
    Rule(
        "no gradient",
        needs=("grad_norm",),
        after=0.0,
        sick="below 1e-7",
        is_sick=lambda run: run.now["grad_norm"] < 1e-7,
        says="gradient norm {grad_norm:.1g}: the loss does not depend on the weights that train",
        remedies=("lower optimizer.lr", "lower finetune.freeze_encoder", "check the audio of data"),
    ),
    Rule(
        "teacher copies student",
        needs=("teacher_decay",),
        after=0.1,
        sick="below 0.5",
        is_sick=lambda run: run.now["teacher_decay"] < 0.5,
        says="the teacher forgets within two updates (decay {teacher_decay:.2g}): its targets are "
        "the student's own guesses",
        remedies=(
            "raise objective.teacher.horizon_start",
            "raise objective.teacher.horizon_end",
            "raise objective.horizon",
        ),
    ),
    Rule(
        "few codes",
        needs=("target_perplexity",),
        after=0.1,
        sick="below 2",
        is_sick=lambda run: run.now["target_perplexity"] < 2,
        says="the targets are nearly all the same (perplexity {target_perplexity:.2f})",
        remedies=(
            "raise objective.diversity_weight",
            "raise objective.codebook_horizon",
            "lower optimizer.lr",
            "check data.targets",
        ),
    ),
    Rule(
        "targets fade",
        needs=("accuracy", "target_perplexity"),
        after=0.1,
        sick="accuracy up by 20 points, perplexity down to a third",
        is_sick=lambda run: (
            run.now["accuracy"] > run.start["accuracy"] + 0.2
            and run.now["target_perplexity"] < run.start["target_perplexity"] / 3
        ),
        says="accuracy jumped to {accuracy:.0%} because the targets became few (perplexity "
        "{target_perplexity:.1f})",
        remedies=(
            "raise objective.diversity_weight",
            "raise objective.codebook_horizon",
            "lower optimizer.lr",
        ),
    ),
    Rule(
        "same targets",
        needs=("target_variance",),
        after=0.2,
        sick="below 0.005",
        is_sick=lambda run: run.now["target_variance"] < 0.005,
        says="the targets are nearly all the same (variance {target_variance:.2g})",
        remedies=FREER_TARGETS,
    ),
    Rule(
        "flat targets",
        needs=("target_rank",),
        after=0.2,
        sick="below 1.2",
        is_sick=lambda run: run.now["target_rank"] < 1.2,
        says="the targets differ in one dimension only (effective rank {target_rank:.2f})",
        remedies=FREER_TARGETS,
    ),
    Rule(
        "same context",
        needs=("context_variance",),
        after=0.2,
        sick="below 0.02",
        is_sick=lambda run: run.now["context_variance"] < 0.02,
        says="all that the encoder gives is alike (variance {context_variance:.2g})",
        remedies=LOWER_RATE,
    ),
    Rule(
        "flat context",
        needs=("context_rank",),
        after=0.2,
        sick="below 1.2",
        is_sick=lambda run: run.now["context_rank"] < 1.2,
        says="what the encoder gives differs in one dimension only (effective rank "
        "{context_rank:.2f})",
        remedies=LOWER_RATE,
    ),
    Rule(
        "diverging",
        needs=("gain", "loss", "loss_trivial"),
        after=0.2,
        sick="gain below -30 % and below its start",
        is_sick=lambda run: run.now["gain"] < min(-0.3, run.start["gain"]),
        says="loss {loss:.3g} is far worse than that of a guess without audio ({loss_trivial:.3g})",
        remedies=LOWER_RATE,
    ),
    Rule(
        "falling back",
        needs=("gain", "loss"),
        after=0.1,
        sick="gain halved since its best, which was above 10 %",
        is_sick=lambda run: run.best_gain > 0.1 and run.now["gain"] < run.best_gain / 2,
        says="the loss rose to {loss:.3g}: half of what was learned is lost",
        remedies=LOWER_RATE,
    ),
    Rule(
        "only blanks",
        needs=("blank_share",),
        after=0.4,
        sick="above 98 %",
        is_sick=lambda run: run.now["blank_share"] > 0.98,
        says="CTC answers {blank_share:.1%} of the frames with blank",
        remedies=(
            "check the transcripts of data",
            "raise optimizer.lr",
            "raise training.updates",
        ),
    ),
    Rule(
        "learning nothing",
        needs=("gain", "loss", "loss_trivial"),
        after=0.6,
        sick="gain below 2 %",
        is_sick=lambda run: run.now["gain"] < 0.02,
        says="loss {loss:.3g} is no better than that of a guess without audio ({loss_trivial:.3g})",
        remedies=(
            "check that data.targets belong to these recordings",
            "try a lower or higher optimizer.lr",
        ),
    ),
)
"""Causes stand above their consequences: the first that is sick is the diagnosis."""


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
        dropout makes even collapsed frames differ."""
        reading = self.reading()
        reading.now |= {name: row[name] for name in WITHOUT_DROPOUT if name in row}
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


def dotted(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested settings one by one, with their dotted names."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
