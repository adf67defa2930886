"""BYOL's and SimSiam's loss against one that looks at one frame at a time, and the views."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

from speechssl.data.batch import SpeechBatch
from speechssl.errors import ConfigError
from speechssl.frames import num_frames
from speechssl.models.encoder import Encoder
from speechssl.objectives.masking import MaskConfig
from speechssl.objectives.two_views import TwoViews, TwoViewsConfig, correlation
from speechssl.objectives.views import two_views
from tests.contracts.toys import toy_batch, toy_encoder
from tests.models.reference import randomize
from tests.objectives.gradients import assert_same_gradients
from tests.objectives.slow_teacher import normed_over_time
from tests.objectives.small import WAVEFORM, batch_of

BYOL = TwoViewsConfig(MaskConfig(probability=0.5, span=4), hidden_size=24, projection_size=12)
SIMSIAM = TwoViewsConfig(
    MaskConfig(probability=0.5, span=4), target="stop_gradient", hidden_size=24, projection_size=12
)
DECORRELATED = replace(SIMSIAM, decorrelation=3.0)


def models(config: TwoViewsConfig) -> tuple[Encoder, TwoViews, Encoder, nn.Module]:
    """An encoder, the objective, and what says its targets: an encoder and a projector."""
    torch.manual_seed(0)
    encoder, objective = Encoder(WAVEFORM), TwoViews(config, WAVEFORM)
    randomize(encoder, seed=1)
    objective.before_update(encoder, 0.0)
    if config.target == "stop_gradient":
        return encoder, objective, encoder, objective.project
    average = copy.deepcopy(encoder), copy.deepcopy(objective.project)
    with torch.no_grad():
        for parameter in [*encoder.parameters(), *objective.project.parameters()]:
            parameter.add_(0.05 * torch.randn_like(parameter))
    return encoder, objective, *average


def slow_errors(
    models: tuple[Encoder, TwoViews, Encoder, nn.Module],
    batch: SpeechBatch,
    draws: dict[str, Tensor],
) -> list[Tensor]:
    """The loss of each frame that is asked for, with its share of the decorrelation."""
    encoder, objective, target_encoder, target_project = models
    errors, own = [], []
    for row, length in enumerate(batch.lengths.tolist()):
        alone, frames = batch.waveforms[row, :length], num_frames(length)
        level = alone.square().mean().sqrt()
        noise, gain = draws["noise"][row, :, :length], draws["gain"][row]
        views = [gain[v] * (alone + level * noise[v]) for v in range(2)]
        masks = [draws["mask"][row, v, :frames] for v in range(2)]
        for view, other in ((0, 1), (1, 0)):
            lengths = torch.tensor([length])
            context, _ = encoder(views[view][None], lengths, masks[view][None])
            seen, _ = target_encoder(views[other][None], lengths, masks[other][None])
            asked = [t for t in range(frames) if masks[view][t] and not masks[other][t]]
            targets = normed_over_time(target_project(seen[0, asked])).detach()
            own.append(normed_over_time(objective.project(context[0, asked])))
            for frame, target in zip(asked, targets):
                prediction = objective.predict(objective.project(context[0, frame]))
                cosine = prediction @ target / (prediction.norm() * target.norm())
                errors.append(2 - 2 * cosine)
    columns = torch.cat(own).T
    pairs = [(a * b).mean() ** 2 for a, b in permutations(columns, 2)]
    penalty = objective.config.decorrelation * torch.stack(pairs).mean()
    return [error + penalty for error in errors]


@pytest.mark.parametrize(
    "config", [BYOL, SIMSIAM, DECORRELATED], ids=["byol", "simsiam", "decorrelated"]
)
def test_equals_the_slow_loss_gradients_too(config: TwoViewsConfig) -> None:
    parts = models(config)
    encoder, objective, _, _ = parts
    batch = batch_of(9000, 6000)
    draws = objective.draw(batch)
    loss = objective.loss(encoder, batch, **draws)
    errors = slow_errors(parts, batch, draws)
    assert loss.count == len(errors) > 5
    expected = torch.stack(errors).sum()
    torch.testing.assert_close(loss.sum, expected, rtol=1e-4, atol=1e-3)

    assert_same_gradients(loss.sum, expected, encoder, objective)


def test_views_have_the_noise_and_the_gain_that_were_drawn() -> None:
    torch.manual_seed(0)
    config = TwoViewsConfig(snr_db=(10.0, 10.0), gain_db=6.0)
    objective = TwoViews(config, WAVEFORM)
    batch = batch_of(16000, 12000)
    batch.waveforms = 0.01 * batch.waveforms
    draws = objective.draw(batch)
    assert (draws["gain"].log10().abs() <= 6 / 20 + 1e-6).all()
    assert len(draws["gain"].unique()) == 4
    views = two_views(batch, draws["gain"], draws["noise"])
    assert views.waveforms.shape == (4, 16000)
    assert views.lengths.tolist() == [16000, 16000, 12000, 12000]
    assert not views.waveforms[2:, 12000:].any()
    for index in range(4):
        row, view = divmod(index, 2)
        clean = batch.waveforms[row, : views.lengths[index]]
        noise = views.waveforms[index, : len(clean)] / draws["gain"][row, view] - clean
        ratio = float(clean.square().mean() / noise.square().mean())
        assert 10 * math.log10(ratio) == pytest.approx(10.0, abs=0.3)
    assert not torch.equal(draws["mask"][:, 0], draws["mask"][:, 1])


def test_silence_stays_silent() -> None:
    objective = TwoViews(BYOL, WAVEFORM)
    batch = batch_of(9000, 6000)
    batch.waveforms = torch.zeros_like(batch.waveforms)
    draws = objective.draw(batch)
    assert not two_views(batch, draws["gain"], draws["noise"]).waveforms.any()
    assert objective(Encoder(WAVEFORM), batch).sum.isfinite()


def test_byols_teacher_follows_encoder_and_projector() -> None:
    """At a rate that falls like a half cosine: 0.996 at first in 312,000 updates, 1 at the end."""
    encoder, objective, _, _ = models(BYOL)
    names = {name.split(".")[0] for name, _ in objective.teacher.model.named_buffers()}
    assert names == {"encoder", "project"}
    for fraction, decay in ((0.0, 0.996), (0.5, 0.998), (1.0 - 1 / 312_500, 1.0)):
        objective.teacher.fraction = fraction
        objective.before_update(encoder, fraction + 1 / 312_500)
        assert objective.decay == pytest.approx(decay, abs=2e-5)


def test_simsiam_has_no_teacher() -> None:
    _, objective, _, _ = models(SIMSIAM)
    assert {name.split(".")[0] for name in objective.state_dict()} == {"project", "predict"}


@pytest.mark.parametrize("target", ["teacher", "stop_gradient"])
def test_it_does_not_collapse(target: str) -> None:
    """Without the normalisation of the targets both variances fall below 0.1."""
    torch.manual_seed(0)
    encoder = Encoder(toy_encoder())
    settings = TwoViewsConfig(target=target, hidden_size=128)  # type: ignore[arg-type]
    objective, batch = TwoViews(settings, encoder.config), toy_batch()
    optimizer = torch.optim.Adam([*encoder.parameters(), *objective.parameters()], lr=3e-3)
    for update in range(12):
        objective.before_update(encoder, update / 12)
        loss = objective(encoder, batch)
        optimizer.zero_grad()
        (loss.sum / loss.count).backward()
        optimizer.step()
    for name in ("target_variance", "prediction_variance", "context_variance"):
        total, count = loss.metrics[name]
        assert float(total) / count > 0.4, name


def test_correlation_is_1_where_all_channels_say_the_same_and_0_where_none_do() -> None:
    signal = torch.tensor([1.0, -1.0, 1.0, -1.0])
    other = torch.tensor([1.0, 1.0, -1.0, -1.0])
    assert correlation(torch.stack([signal, -signal, signal], dim=1)) == 1.0
    assert correlation(torch.stack([signal, other], dim=1)) == 0.0
    third = correlation(torch.stack([signal, signal, other], dim=1))
    assert third == pytest.approx(1 / 3)  # of the pairs 1-2, 1-3 and 2-3 the first
    assert correlation(signal[:, None]) == 0.0  # a single channel has no partner


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"horizon": 0.0}, "horizon"),
        ({"decorrelation": -1.0}, "decorrelation"),
        ({"snr_db": (20.0, 5.0)}, "snr_db"),
        ({"gain_db": -1.0}, "gain_db"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"projection_size": 0}, "projection_size"),
    ],
)
def test_a_value_out_of_range_is_named(values: dict[str, float], field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field} must be"):
        TwoViewsConfig(**values)  # type: ignore[arg-type]
