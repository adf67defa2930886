"""Autoregressive prediction against a slow version, frame by frame."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from speechssl.errors import ConfigError
from speechssl.frames import min_samples, num_frames
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.models.frontend import FbankFrontend
from speechssl.objectives import build_objective
from speechssl.objectives.autoregressive import Autoregressive, AutoregressiveConfig
from tests.objectives.small import FBANK, WAVEFORM, batch_of

CAUSAL = replace(FBANK, causal=True)
CAUSAL_WAVEFORM = replace(WAVEFORM, causal=True)


@pytest.mark.parametrize("layout", [CAUSAL, CAUSAL_WAVEFORM], ids=["fbank", "waveform"])
@pytest.mark.parametrize("steps", [1, 4])
@torch.no_grad()
def test_the_loss_is_the_absolute_error_so_many_frames_later(
    layout: EncoderConfig, steps: int
) -> None:
    torch.manual_seed(0)
    encoder, objective = Encoder(layout), Autoregressive(AutoregressiveConfig(steps), layout)
    batch = batch_of(9000, min_samples(steps), min_samples(steps + 1), 6000)
    loss = objective.loss(encoder, batch)

    context, counts = encoder(batch.waveforms, batch.lengths)
    mels = FbankFrontend(FBANK.frontend)(batch.waveforms, batch.lengths)
    total, trivial, copied, terms = 0.0, 0.0, 0.0, 0
    for row, count in enumerate(counts.tolist()):
        for frame in range(count - steps):
            truth = mels[row, frame + steps]
            total += float((objective.predict(context[row, frame]) - truth).abs().mean())
            trivial += float(truth.abs().mean())
            copied += float((mels[row, frame] - truth).abs().mean())
            terms += 1
    assert loss.count == terms == num_frames(9000) + num_frames(6000) - 2 * steps + 1
    assert float(loss.sum) == pytest.approx(total, rel=1e-4)
    assert float(loss.metrics["loss_trivial"][0]) == pytest.approx(trivial, rel=1e-4)
    assert float(loss.metrics["loss_copy"][0]) == pytest.approx(copied, rel=1e-4)


@pytest.mark.parametrize("kind", ["autoregressive", "future"])
def test_an_encoder_that_sees_the_future_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"objective {kind} .* set model.causal: true"):
        build_objective({"kind": kind}, FBANK)


def test_a_value_out_of_range_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^steps must be"):
        AutoregressiveConfig(steps=0)
