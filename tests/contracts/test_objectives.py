"""What every objective promises. Objectives are found by their files: nothing to add here.

A batch is computed in evaluation mode (no dropout) with draws made in training mode, so it has
all the randomness of training except dropout, and that is given.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from speechssl import objectives
from speechssl.data.batch import SpeechBatch, collate
from speechssl.errors import ConfigError
from speechssl.frames import SAMPLE_RATE, WINDOW_SAMPLES, num_frames
from speechssl.models.encoder import Encoder
from speechssl.objectives import build_objective, load_objective, objective_names
from speechssl.objectives.base import Loss, Objective
from tests.contracts.toys import (
    FRONTENDS,
    VARIANTS,
    pad,
    toy_batch,
    toy_encoder,
    toy_objective,
    twice,
)

every_objective = pytest.mark.parametrize("kind", [*objective_names(), *VARIANTS])
every_frontend = pytest.mark.parametrize("frontend", FRONTENDS)

HELPERS = {
    "base",
    "codebooks",
    "decoder",
    "log_mels",
    "masking",
    "mixing",
    "refinement",
    "teacher",
    "utterances",
    "views",
}
"""Files among the objectives that several of them use."""


def build(kind: str, frontend: str = "fbank", seed: int = 0) -> tuple[Encoder, Objective]:
    torch.manual_seed(seed)
    config = toy_encoder(frontend, kind)
    encoder, objective = Encoder(config), toy_objective(kind, config)
    objective.before_update(encoder, 0.0)  # a teacher begins as a copy of the encoder
    objective.set_progress(0.3)
    return encoder, objective


def draw(objective: Objective, batch: SpeechBatch, seed: int = 1) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return objective.train().draw(batch)


def loss_of(
    encoder: Encoder, objective: Objective, batch: SpeechBatch, draws: dict[str, Tensor]
) -> Loss:
    return objective.eval().loss(encoder.eval(), batch, **draws)


def train(
    encoder: Encoder, objective: Objective, batch: SpeechBatch, updates: int
) -> list[dict[str, float]]:
    """The loss and the metrics of each update, the loss under ``"loss"``."""
    parameters = [*encoder.train().parameters(), *objective.train().parameters()]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    history = []
    for update in range(updates):
        torch.manual_seed(update)
        objective.before_update(encoder, update / updates)
        loss = objective(encoder, batch)
        optimizer.zero_grad()
        (loss.sum / loss.count).backward()
        optimizer.step()
        means = {"loss": (loss.sum.detach(), loss.count), **loss.metrics}
        history.append({name: float(total / count) for name, (total, count) in means.items()})
    return history


def mean(history: list[dict[str, float]], name: str) -> float:
    return sum(means[name] for means in history) / len(history)


@every_objective
@every_frontend
def test_doubling_the_batch_doubles_sum_and_count(kind: str, frontend: str) -> None:
    encoder, objective = build(kind, frontend)
    batch = toy_batch()
    draws = draw(objective, batch)
    once = loss_of(encoder, objective, batch, draws)
    doubled = {name: torch.cat([value, value]) for name, value in draws.items()}
    both = loss_of(encoder, objective, twice(batch), doubled)
    assert once.count > 0
    assert both.count == 2 * once.count
    torch.testing.assert_close(both.sum, 2 * once.sum, rtol=1e-5, atol=1e-4)
    for name, (total, count) in once.metrics.items():
        assert float(both.metrics[name][0]) == pytest.approx(2 * float(total), rel=1e-4, abs=1e-3)
        assert both.metrics[name][1] == 2 * count


@every_objective
@every_frontend
def test_padding_changes_nothing(kind: str, frontend: str) -> None:
    encoder, objective = build(kind, frontend)
    batch = toy_batch()
    padded = pad(batch, frames=17)
    short = loss_of(encoder, objective, batch, draw(objective, batch))
    long = loss_of(encoder, objective, padded, draw(objective, padded))
    assert long.count == short.count
    torch.testing.assert_close(long.sum, short.sum, rtol=1e-5, atol=1e-4)
    for name, (total, _) in short.metrics.items():
        assert float(long.metrics[name][0]) == pytest.approx(float(total), rel=1e-4, abs=1e-3)


@every_objective
@every_frontend
def test_gradients_reach_what_learns_and_nothing_else(kind: str, frontend: str) -> None:
    encoder, objective = build(kind, frontend)
    frozen = encoder.layers[0].requires_grad_(False)
    objective(encoder, toy_batch()).sum.backward()
    for name, parameter in [*encoder.named_parameters(), *objective.named_parameters()]:
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} has no gradient"
            assert parameter.grad.isfinite().all(), f"{name} has a gradient that is not finite"
        else:
            assert parameter.grad is None, f"{name} is frozen but has a gradient"
    first = next(encoder.frontend.parameters(), encoder.projection.weight)
    assert first.grad is not None
    assert first.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in frozen.parameters())


@every_objective
def test_it_learns_a_toy(kind: str) -> None:
    if kind == "utterance_contrastive-queue":
        pytest.skip("a queue for four recordings is full of their own keys; see its own test")
    encoder, objective = build(kind)
    history = train(encoder, objective, toy_batch(), updates=40)
    start, end = history[:1], history[-10:]
    assert mean(end, "loss") < 0.85 * mean(start, "loss")
    if "accuracy" in start[0]:
        # before the first update accuracy is chance
        assert mean(end, "accuracy") > mean(start, "accuracy") + 0.1


@every_objective
def test_saved_and_loaded_it_gives_the_same_next_loss(kind: str, tmp_path: Path) -> None:
    batch = toy_batch()
    encoder, objective = build(kind)
    train(encoder, objective, batch, updates=3)
    torch.save(
        {"encoder": encoder.state_dict(), "objective": objective.state_dict()}, tmp_path / "x"
    )
    saved = torch.load(tmp_path / "x", weights_only=True)
    other_encoder, other = build(kind, seed=99)
    other_encoder.load_state_dict(saved["encoder"])
    other.load_state_dict(saved["objective"])
    losses = []
    for one_encoder, one in ((encoder, objective), (other_encoder, other)):
        one.before_update(one_encoder, 0.5)
        torch.manual_seed(5)
        losses.append(one.train()(one_encoder.train(), batch))
    assert torch.equal(losses[0].sum, losses[1].sum)
    assert losses[0].count == losses[1].count


@every_objective
def test_a_seed_and_a_progress_say_everything(kind: str) -> None:
    encoder, objective = build(kind)
    batch = toy_batch()

    def loss(seed: int, *fractions: float) -> float:
        for fraction in fractions:
            objective.set_progress(fraction)
        torch.manual_seed(seed)
        return float(objective.train()(encoder, batch).sum.detach())

    first = loss(1, 0.2)
    if objective.draw(batch):
        assert loss(2, 0.2) != first
    assert loss(1, 0.9, 0.2, 0.2) == first


@every_objective
def test_under_autocast_the_loss_is_float32_and_nearly_the_same(kind: str) -> None:
    encoder, objective = build(kind, "waveform")
    batch = toy_batch()
    draws = draw(objective, batch)
    exact = loss_of(encoder, objective, batch, draws)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = loss_of(encoder, objective, batch, draws)
    assert rough.sum.dtype == torch.float32
    assert rough.sum.shape == ()
    torch.testing.assert_close(rough.sum, exact.sum, rtol=0.05, atol=0.0)
    rough.sum.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())


@every_objective
def test_a_batch_with_nothing_to_predict_counts_nothing(kind: str) -> None:
    encoder, objective = build(kind, "waveform")
    waveforms = [torch.randn(WINDOW_SAMPLES) for _ in range(2)]  # one frame each
    targets = [torch.zeros(1, dtype=torch.long)] * 2
    batch = collate(waveforms, targets=targets, texts=["one", "two"])
    loss = objective(encoder, batch)
    if loss.count > 0:
        pytest.skip(f"{kind} finds something to predict in a single frame")
    assert float(loss.sum.detach()) == 0.0
    assert all(math.isfinite(float(total)) for total, _ in loss.metrics.values())
    loss.sum.backward()
    for name, parameter in [*encoder.named_parameters(), *objective.named_parameters()]:
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} has no gradient"
            assert not parameter.grad.any(), f"{name} has a gradient"


@every_objective
def test_one_silent_recording_is_a_batch_too(kind: str) -> None:
    encoder, objective = build(kind, "waveform")
    targets = [torch.zeros(num_frames(SAMPLE_RATE), dtype=torch.long)]
    batch = collate([torch.zeros(SAMPLE_RATE)], targets=targets, texts=["one"])
    loss = objective(encoder, batch)
    loss.sum.backward()
    assert math.isfinite(float(loss.sum.detach()))
    assert all(math.isfinite(float(total)) for total, _ in loss.metrics.values())
    for name, parameter in [*encoder.named_parameters(), *objective.named_parameters()]:
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} has no gradient"
            assert parameter.grad.isfinite().all(), name


@every_objective
def test_metrics_carry_no_gradient(kind: str) -> None:
    encoder, objective = build(kind)
    metrics = objective(encoder, toy_batch()).metrics
    assert metrics
    for total, count in metrics.values():
        assert isinstance(count, (int, float)), "counts are known to the host"
        if isinstance(total, Tensor):
            assert total.shape == ()
            assert not total.requires_grad


def test_every_file_is_an_objective_or_a_helper() -> None:
    folder = Path(objectives.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert files - set(objective_names()) == HELPERS
    for kind in objective_names():
        assert issubclass(load_objective(kind), Objective)


def test_a_new_file_is_picked_up_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tomorrow.py").write_text(
        "from dataclasses import dataclass\n"
        "from speechssl.objectives.base import Objective\n"
        "@dataclass\n"
        "class TomorrowConfig:\n"
        "    steps: int = 3\n"
        "class Tomorrow(Objective):\n"
        "    Config = TomorrowConfig\n"
        "    def __init__(self, config, encoder, num_clusters=None):\n"
        "        super().__init__(config, encoder, num_clusters)\n"
        "        self.steps = config.steps\n"
    )
    monkeypatch.setattr(objectives, "__path__", [*objectives.__path__, str(tmp_path)])
    assert "tomorrow" in objective_names()
    built = build_objective({"kind": "tomorrow", "steps": 5}, toy_encoder())
    assert built.steps == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "contrastiv"}, "unknown kind 'contrastiv'; did you mean 'contrastive'"),
        ({"kind": "masking"}, "unknown kind"),
        ({}, "has no kind; set objective.kind"),
        ({"kind": "clusters", "projection_siz": 3}, "did you mean 'projection_size'"),
        ({"kind": "contrastive", "mask": {"spann": 3}}, "did you mean 'span'"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        build_objective(settings, toy_encoder(), 4)
    assert "\n" not in str(error.value)
