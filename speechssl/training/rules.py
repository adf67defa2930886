"""What the run doctor knows: symptoms of a failing run, how they show, and what helps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class Reading:
    """The state of a run at one report."""

    done: float
    """Share of the run that is done, 0 to 1."""

    now: dict[str, float]
    """Median of each metric over the last ``doctor.WINDOW`` reports; ``gain`` among them, which is
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

    ends_run: bool = False
    """Whether no update can mend it, so that the run ends whatever ``--on-collapse`` says."""


LOWER_RATE = ("lower optimizer.lr", "raise schedule.warmup")
MORE_VARIETY = (
    "raise objective.diversity_weight",
    "raise objective.decorrelation",
    *LOWER_RATE,
)

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
        is_sick=lambda run: not math.isfinite(run.now["loss"] + run.now["grad_norm"]),
        says="loss {loss:.3g}, gradient norm {grad_norm:.3g}: the weights are lost",
        remedies=(*LOWER_RATE, "set training.precision=fp32"),
        ends_run=True,  # at the report that stands before the next checkpoint is complete
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
        remedies=MORE_VARIETY,
    ),
    Rule(
        "flat targets",
        needs=("target_rank",),
        after=0.2,
        sick="below 1.2",
        is_sick=lambda run: run.now["target_rank"] < 1.2,
        says="the targets differ in one dimension only (effective rank {target_rank:.2f})",
        remedies=MORE_VARIETY,
    ),
    Rule(
        "same context",
        needs=("context_variance",),
        after=0.2,
        sick="below 0.02",
        is_sick=lambda run: run.now["context_variance"] < 0.02,
        says="all that the encoder gives is alike (variance {context_variance:.2g})",
        remedies=MORE_VARIETY,
    ),
    Rule(
        "flat context",
        needs=("context_rank",),
        after=0.2,
        sick="below 1.2",
        is_sick=lambda run: run.now["context_rank"] < 1.2,
        says="what the encoder gives differs in one dimension only (effective rank "
        "{context_rank:.2f})",
        remedies=MORE_VARIETY,
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
