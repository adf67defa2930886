"""VQ-VAE and VAE against slow versions, frame by frame."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, distributions

from speechssl.errors import ConfigError
from speechssl.frames import num_frames
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.models.frontend import FbankFrontend
from speechssl.objectives.decoder import DecoderConfig
from speechssl.objectives.vq_vae import VQVAE, Gaussian, VQVAEConfig, neighbours
from tests.models.reference import randomize
from tests.objectives.gradients import assert_same_gradients
from tests.objectives.small import FBANK, WAVEFORM, batch_of

CONFIG = VQVAEConfig(
    latent_size=8,
    entries=10,
    jitter=0.4,
    decoder=DecoderConfig(layers=2, size=32, kernel=3, groups=4, dropout=0.0),
)
GAUSSIAN = replace(CONFIG, bottleneck="gaussian", kl_weight=0.3)
BOTH = pytest.mark.parametrize(
    ("config", "layout"),
    [(CONFIG, WAVEFORM), (CONFIG, replace(FBANK, causal=True)), (GAUSSIAN, FBANK)],
    ids=["codebook", "codebook-causal", "gaussian"],
)


def jittered(jitter: Tensor, frame: int) -> int:
    """Where in its recording a frame's latent comes from; jitter [T]."""
    return min(max(frame + int(jitter[frame]), 0), len(jitter) - 1)


@BOTH
def test_equals_the_slow_loss_gradients_too(config: VQVAEConfig, layout: EncoderConfig) -> None:
    torch.manual_seed(0)
    encoder, objective = Encoder(layout), VQVAE(config, layout)
    randomize(encoder)
    batch = batch_of(5000, 3000)
    draws = objective.draw(batch)
    loss = objective.loss(encoder, batch, **draws)

    expected, first, trivial = torch.zeros(()), 0, 0.0
    for row, length in enumerate(batch.lengths.tolist()):
        frames = num_frames(length)
        context, _ = encoder(batch.waveforms[row : row + 1, :length], torch.tensor([length]))
        latents, cost = [], torch.zeros(())
        for frame in range(frames):
            hidden = objective.bottleneck.project(context[0, frame])
            if config is GAUSSIAN:
                mean, log_variance = hidden[:8], hidden[8:]
                deviation = (log_variance / 2).exp()
                latents.append(mean + deviation * draws["noise"][first + frame])
                normal = distributions.Normal(mean, deviation)
                standard = distributions.Normal(torch.zeros(8), torch.ones(8))
                cost = cost + distributions.kl_divergence(normal, standard).sum()
            else:
                latent = (hidden - hidden.mean()) / (hidden.var(correction=0) + 1e-5).sqrt()
                words = objective.bottleneck.codebook.codewords()[0]
                word = words[min(range(10), key=lambda code: float((words[code] - latent).norm()))]
                cost = cost + (latent - word).square().mean()
                latents.append(latent + (word - latent).detach())
        jitter = draws["jitter"][first : first + frames]
        inputs = torch.stack([latents[jittered(jitter, frame)] for frame in range(frames)])
        decoded = objective.decoder(inputs[None], torch.tensor([frames]), torch.arange(frames))
        wave = batch.waveforms[row : row + 1, :length]
        mels = FbankFrontend(FBANK.frontend)(wave, torch.tensor([length]))[0]
        error = (decoded - mels).square().mean(dim=1).sum()
        # twice the negative bound for a decoder with variance kl_weight, per channel of 40
        weight = config.commitment if config is CONFIG else 2 * config.kl_weight / 40
        expected = expected + error + weight * cost
        trivial += float(mels.square().mean(dim=1).sum())
        first += frames
    assert loss.count == first
    torch.testing.assert_close(loss.sum, expected, rtol=1e-4, atol=1e-3)
    assert float(loss.metrics["loss_trivial"][0]) == pytest.approx(trivial, rel=1e-4)
    assert_same_gradients(loss.sum, expected, encoder, objective)


def test_jitter_takes_neighbours_as_often_as_it_should_and_stays_inside() -> None:
    objective = VQVAE(replace(CONFIG, jitter=0.12), FBANK)
    batch = batch_of(*[96_000] * 20)
    jitter = objective.draw(batch)["jitter"]
    for away in (-1, 1):
        assert float((jitter == away).float().mean()) == pytest.approx(0.06, abs=0.01)
    counts = torch.tensor([3, 1, 2])
    back, ahead = (neighbours(counts, torch.full((6,), away)) for away in (-1, 1))
    assert back.tolist() == [0, 0, 1, 3, 4, 4]
    assert ahead.tolist() == [1, 2, 2, 3, 5, 5]


def test_evaluation_has_no_chance_in_it() -> None:
    torch.manual_seed(0)
    for config in (CONFIG, GAUSSIAN):
        encoder, objective = Encoder(FBANK).eval(), VQVAE(config, FBANK).eval()
        batch = batch_of(5000, 3000)
        assert objective.draw(batch) == {}
        assert torch.equal(objective(encoder, batch).sum, objective(encoder, batch).sum)
    context = torch.randn(4, 32)
    mean = objective.bottleneck.project(context)[:, :8]
    assert isinstance(objective.bottleneck, Gaussian)
    assert torch.equal(objective.bottleneck(context, None)[0], mean)


def test_codewords_follow_between_updates_only() -> None:
    torch.manual_seed(0)
    encoder, objective = Encoder(FBANK), VQVAE(replace(CONFIG, codebook_horizon=0.05), FBANK)
    assert not isinstance(objective.bottleneck, Gaussian)
    book = objective.bottleneck.codebook
    start = book.totals.clone()
    batch = batch_of(5000, 3000)
    objective.before_update(encoder, 0.0)
    objective(encoder, batch)
    seen = book.collected.clone()
    assert float(seen[..., -1].sum()) == num_frames(5000) + num_frames(3000)
    assert torch.equal(book.totals, start)
    objective.before_update(encoder, 0.01)
    decay = math.exp(-0.01 / 0.05)
    used = seen[..., -1:] > 0
    expected = torch.where(used, decay * start + (1 - decay) * seen, start)
    torch.testing.assert_close(book.totals, expected)

    objective(encoder, batch)
    objective.before_update(encoder, 0.01)  # announced again
    torch.testing.assert_close(book.totals, expected)
    assert not book.collected.any()


def test_what_another_run_collected_is_forgotten() -> None:
    torch.manual_seed(0)
    encoder, objective = Encoder(FBANK), VQVAE(CONFIG, FBANK)
    assert not isinstance(objective.bottleneck, Gaussian)
    book = objective.bottleneck.codebook
    start = book.totals.clone()
    objective(encoder, batch_of(5000, 3000))
    assert book.collected.any()
    objective.before_update(encoder, 0.0)  # the first of this run
    assert torch.equal(book.totals, start)
    assert not book.collected.any()


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"latent_size": 0}, "latent_size"),
        ({"entries": 1}, "entries"),
        ({"commitment": -1.0}, "commitment"),
        ({"kl_weight": -1.0}, "kl_weight"),
        ({"codebook_horizon": 0.0}, "codebook_horizon"),
        ({"jitter": 1.0}, "jitter"),
    ],
)
def test_a_value_out_of_range_is_named(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field} must be"):
        VQVAEConfig(**values)
