"""The doctor finds each failure that is provoked here, and is silent about runs that go well.

The runs are real ones of a toy encoder on the toy recordings; the harness does what the engine does
(learning rate schedule, clipping, means over reports).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from speechssl.config import dotted, to_dict
from speechssl.data.batch import SpeechBatch
from speechssl.data.text import Tokens
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder
from speechssl.objectives import build_objective, load_objective, objective_names
from speechssl.training.doctor import Doctor, Finding, checkup, episodes, examine
from speechssl.training.finetuning import FinetuneModel
from speechssl.training.metrics import MetricSums, loss_metrics, silent_recordings
from speechssl.training.pretraining import PretrainModel
from speechssl.training.recipe import FinetuneConfig
from speechssl.training.rules import RULES
from tests.contracts.toys import TONES, toy_batch, toy_encoder

UPDATES = 42
REPORT_EVERY = 3
MAX_GRAD_NORM = 5.0
SECONDS = (0.9, 0.8, 0.7)

Corrupt = Callable[[SpeechBatch, int], None]
"""Spoils a batch, in place, given the update's number."""

every_objective = pytest.mark.parametrize("kind", objective_names())
has_teacher = pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in objective_names()
        if {"teacher", "horizon"} & set(load_objective(kind).Config.__dataclass_fields__)
    ],
)


def toy_settings(kind: str, **changes: Any) -> dict[str, Any]:
    """The objective's section of a recipe: codebooks as suit a toy, and a teacher that remembers
    some updates of a run as short as this."""
    fields = load_objective(kind).Config.__dataclass_fields__
    settings: dict[str, Any] = {"kind": kind}
    if "entries" in fields:
        settings["entries"] = 16
    if "masks" in fields:
        settings["masks"] = 2  # each is another pass
    if "teacher" in fields:
        settings["teacher"] = {"horizon_start": 0.1, "horizon_end": 0.3}
    if "horizon" in fields:
        settings["horizon"] = 0.1
    return {**settings, **changes}


def watch(
    model: Any,
    settings: dict[str, Any],
    lr: float,
    corrupt: Corrupt | None,
    updates: int = UPDATES,
    seconds: tuple[float, ...] = SECONDS,
) -> Finding | None:
    """Trains ``model`` up to the doctor's first finding, which it returns, or to the end."""
    settings = {"training.updates": updates, "training.max_grad_norm": MAX_GRAD_NORM, **settings}
    doctor, sums = Doctor(settings), MetricSums()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98))
    for update in range(1, updates + 1):
        batch = toy_batch(seconds, seed=update)
        if corrupt is not None:
            corrupt(batch, update)
        rise, fall = update / (0.1 * updates), (updates + 1 - update) / (0.9 * updates)
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, rise, fall)
        torch.manual_seed(update)
        model.set_progress((update - 1) / updates)
        loss = model(batch)
        optimizer.zero_grad()
        (loss.sum / max(1.0, loss.count)).backward()
        norm = nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimizer.step()
        sums.update({**loss_metrics(loss), "grad_norm": (norm, 1)})
        sums.update({"silence_share": silent_recordings(batch)})
        if update % REPORT_EVERY == 0:
            finding = doctor.see({"Step": update, **sums.compute()})
            if finding is not None:
                return finding
            sums.reset()
    return None


def pretrain(
    settings: dict[str, Any], lr: float = 5e-3, corrupt: Corrupt | None = None, **run: Any
) -> Finding | None:
    """The first finding about a run of the objective with these ``settings``."""
    torch.manual_seed(0)
    config = replace(toy_encoder(kind=settings["kind"]), dim=32, ffn_dim=64, layers=1)
    objective = build_objective(settings, config, len(TONES))
    found = dict(dotted(to_dict(objective.config), "objective."))
    found |= {"optimizer.lr": lr, "schedule.warmup": 0.1, "data": "data", "data.targets": "mfcc"}
    return watch(PretrainModel(Encoder(config), objective), found, lr, corrupt, **run)


@every_objective
def test_it_is_silent_about_runs_that_go_well(kind: str) -> None:
    finding = pretrain(toy_settings(kind))
    assert finding is None, finding.message


@every_objective
def test_it_notices_a_learning_rate_far_too_high(kind: str) -> None:
    finding = pretrain(toy_settings(kind), lr=1.0)
    assert finding is not None
    assert "lower" in finding.message
    assert "optimizer.lr (it is 1.0)" in finding.message


@has_teacher
def test_it_notices_a_teacher_without_memory(kind: str) -> None:
    settings = toy_settings(kind)
    nothing: Any = {"horizon_start": 1e-6, "horizon_end": 1e-6}
    settings.update({"teacher": nothing} if "teacher" in settings else {"horizon": 1e-6})
    if kind == "utterance_contrastive":
        settings["queue"] = 8  # without a queue there is no teacher
    finding = pretrain(settings)
    assert finding is not None
    assert finding.rule.symptom == "teacher copies student"
    assert "horizon" in finding.message
    assert "1e-06" in finding.message


def test_it_notices_codebooks_that_nothing_keeps_diverse() -> None:
    def train(weight: float) -> Finding | None:
        settings = toy_settings("contrastive", entries=64, diversity_weight=weight)
        return pretrain(settings, lr=5e-2, updates=60, seconds=(1.6, 1.4, 1.2, 1.5))

    finding = train(0.0)
    assert finding is not None
    assert finding.rule.symptom == "targets fade"
    assert "raise objective.diversity_weight (it is 0.0)" in finding.message
    assert train(1.0) is None, "which is what the doctor advises"


def test_it_notices_targets_of_other_recordings() -> None:
    def swap(batch: SpeechBatch, update: int) -> None:
        """Puts tones in the targets that are not those that sound."""
        assert batch.targets is not None
        generator = torch.Generator().manual_seed(update)
        tones = torch.randint(len(TONES), (len(batch.targets), 20), generator=generator)
        foreign = tones.repeat_interleave(5, dim=1)[:, : batch.targets.shape[1]]
        batch.targets = torch.where(batch.targets >= 0, foreign, batch.targets)

    finding = pretrain(toy_settings("clusters"), corrupt=swap)
    assert finding is not None
    assert finding.rule.symptom == "learning nothing"
    assert "data.targets (it is mfcc) belong to these recordings" in finding.message


@pytest.mark.parametrize("level", [0.0, 0.5], ids=["silence", "constant"])
@pytest.mark.parametrize("kind", ["clusters", "reconstruction", "distillation"])
def test_it_notices_silence(kind: str, level: float) -> None:
    def mute(batch: SpeechBatch, update: int) -> None:
        batch.waveforms = torch.where(batch.waveforms == 0, 0.0, level)

    finding = pretrain(toy_settings(kind), corrupt=mute)
    assert finding is not None
    assert finding.update == REPORT_EVERY, "at the first report"
    assert finding.message.startswith("silent data: 100% of the recordings are silent or constant")


def finetune(transcribe: Callable[[Tensor, int], str], lr: float) -> Finding | None:
    """The first finding about fine-tuning from scratch on what ``transcribe`` makes of the tones
    of a recording, given the update's number."""
    torch.manual_seed(0)
    tokens = Tokens.from_texts(["abcd"])

    def label(batch: SpeechBatch, update: int) -> None:
        assert batch.targets is not None
        texts = [transcribe(row[row >= 0], update) for row in batch.targets]
        batch.tokens = pad_sequence([torch.tensor(tokens.encode(t)) for t in texts], True)
        batch.token_lengths = torch.tensor([len(text) for text in texts])

    config = FinetuneConfig(time_mask=0.0, channel_mask=0.0, freeze_encoder=0.0)
    encoder = replace(toy_encoder(), dim=32, ffn_dim=64, layers=1)
    model = FinetuneModel(CTCModel(Encoder(encoder), len(tokens)), config, tokens)
    return watch(model, {"optimizer.lr": lr, "data": "data"}, lr, label)


def test_it_notices_ctc_that_says_nothing_but_blanks() -> None:
    def random(tones: Tensor, update: int) -> str:
        generator = torch.Generator().manual_seed(update)
        return "".join("abcd"[i] for i in torch.randint(4, (4,), generator=generator))

    finding = finetune(random, lr=5e-3)
    assert finding is not None
    assert finding.rule.symptom == "only blanks"


def test_it_is_silent_about_ctc_that_learns() -> None:
    def spell(tones: Tensor, update: int) -> str:
        return "".join("abcd"[tone] for tone in tones.unique_consecutive().tolist())

    finding = finetune(spell, lr=1e-2)
    assert finding is None, finding.message


def rows(metrics: dict[str, list[float]]) -> list[dict[str, float]]:
    """Reports each 10 updates with these values, one after the other."""
    count = len(next(iter(metrics.values())))
    return [
        {"Step": 10 * (i + 1), **{name: values[i] for name, values in metrics.items()}}
        for i in range(count)
    ]


def symptoms(**metrics: list[float]) -> list[str | None]:
    """The finding at each of the reports, of a run of 100 updates."""
    doctor = Doctor({"training.updates": 100, "training.max_grad_norm": 5.0, "optimizer.lr": 0.1})
    found = [doctor.see(row) for row in rows(metrics)]
    return [finding.rule.symptom if finding else None for finding in found]


def test_one_bad_report_raises_no_alarm_but_a_lost_run_does() -> None:
    assert symptoms(grad_norm=[1.0, 900.0, 1.0, 2.0]) == [None] * 4
    assert symptoms(grad_norm=[1.0, 900.0, 900.0, 2.0])[2:] == ["exploding gradient"] * 2
    lost = symptoms(loss=[2.0, 2.0, math.nan], grad_norm=[1.0, 1.0, math.nan])
    assert lost == [None, None, "not a number"]
    infinite = symptoms(loss=[2.0], grad_norm=[math.inf])  # clipped, its parts are no numbers
    assert infinite == ["not a number"]
    assert symptoms(grad_norm=[0.0]) == ["no gradient"]


def test_a_loss_that_rises_again_is_noticed() -> None:
    trivial = [4.0] * 8
    well = [4.0, 3.5, 3.0, 2.8, 2.7, 2.9, 2.8, 2.6]
    assert symptoms(loss=well, loss_trivial=trivial) == [None] * 8
    sick = [4.0, 3.5, 3.0, 2.8, 2.7, 3.9, 3.9, 3.9]
    found = symptoms(loss=sick, loss_trivial=trivial)
    assert found == [None] * 6 + ["falling back", "falling back"]


def test_validation_shows_a_collapse_that_dropout_hides() -> None:
    settings = {"training.updates": 100, "training.max_grad_norm": 5.0, "optimizer.lr": 0.1}
    training = rows({"context_variance": [0.4, 0.3, 0.1, 0.1]})
    valid = [{"Step": 20, "context_variance": 0.3}, {"Step": 40, "context_variance": 1e-4}]
    assert examine(training, [], settings)[1] == []
    (finding,) = examine(training, valid, settings)[1]
    assert (finding.rule.symptom, finding.update) == ("same context", 40)
    assert "variance 0.0001" in finding.message


def test_a_finished_run_is_told_symptom_by_symptom() -> None:
    settings = {"training.updates": 100, "training.max_grad_norm": 5.0, "optimizer.lr": 0.1}
    reports = rows({"grad_norm": [1.0, 900.0, 900.0, 1.0, 1.0, 0.0, 0.0]})
    doctor, findings = examine(reports, [], settings)
    first, second = episodes(findings, last=70)
    assert first.startswith("updates 30 to 40, not now: exploding gradient: gradient norm 900")
    assert second.startswith("since update 70: no gradient")
    states = {line[0]: line[3] for line in checkup(doctor.reading())}
    assert states == {"exploding gradient": "well", "no gradient": "sick"}
    assert all(rule.symptom and rule.remedies for rule in RULES)
