"""data2vec 2.0 against a slow version: one recording, mask and frame at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from speechssl.data.batch import collate
from speechssl.frames import num_frames
from speechssl.models.encoder import Encoder
from speechssl.objectives.decoder import DecoderConfig
from speechssl.objectives.efficient_distillation import (
    EfficientDistillation,
    EfficientDistillationConfig,
)
from speechssl.objectives.masking import span_mask
from tests.models.reference import randomize
from tests.objectives.gradients import assert_same_gradients
from tests.objectives.slow_teacher import feed_forward_outputs, normed_over_time
from tests.objectives.small import FBANK, batch_of

LAYOUT = replace(FBANK, layers=3)
CONFIG = EfficientDistillationConfig(
    masks=2,
    top_layers=2,
    decoder=DecoderConfig(layers=2, size=32, kernel=3, groups=4, dropout=0.0),
)


def models() -> tuple[Encoder, EfficientDistillation]:
    torch.manual_seed(0)
    encoder, objective = Encoder(LAYOUT), EfficientDistillation(CONFIG, LAYOUT)
    randomize(encoder, seed=1)
    objective.before_update(encoder, 0.0)
    return encoder, objective


def test_equals_the_slow_loss_gradients_too() -> None:
    """The teacher still being a copy of the encoder."""
    encoder, objective = models()
    batch = batch_of(9000, 6000)
    mask = objective.draw(batch)["mask"]
    assert mask.shape == (2, 2, num_frames(9000))
    loss = objective.loss(encoder, batch, mask=mask)

    errors = []
    for row, length in enumerate(batch.lengths.tolist()):
        alone = collate([batch.waveforms[row, :length]])
        with torch.no_grad():
            outputs = feed_forward_outputs(encoder.eval(), alone)[1:]
            targets = sum(normed_over_time(output[0]) for output in outputs) / 2
        encoder.train()
        frames = encoder.project(encoder.normalize(encoder.extract(alone.waveforms, alone.lengths)))
        for hidden in mask[row, :, : num_frames(length)]:
            inputs = torch.where(hidden[:, None], encoder.mask_embedding, frames)
            seen = (inputs + encoder.position(inputs))[:, ~hidden]
            for layer in encoder.layers:
                seen = layer(seen, None)
            filled = objective.predict.filler.repeat(1, len(hidden), 1)
            filled[:, ~hidden] = encoder.norm(seen)
            everywhere = torch.arange(len(hidden))
            decoded = objective.predict.decoder(filled, torch.tensor([len(hidden)]), everywhere)
            for frame in hidden.nonzero()[:, 0].tolist():
                difference = decoded[frame] - targets[frame]
                errors.append(difference.square().sum() / math.sqrt(32))
    assert loss.count == len(errors) == int(mask.sum()) > 0
    expected = torch.stack(errors).sum()
    torch.testing.assert_close(loss.sum, expected, rtol=1e-4, atol=1e-3)
    assert_same_gradients(loss.sum, expected, encoder, objective)


def test_masks_and_averages_are_the_papers() -> None:
    """Eight masks of half the frames; a decay from 0.999 to 0.99999 over 75,000 of 400,000."""
    config = EfficientDistillationConfig()
    assert config.masks == 8
    torch.manual_seed(0)
    share = span_mask(torch.full((400,), 300), config.mask).float().mean()
    assert float(share) == pytest.approx(0.5, abs=0.02)
    for update, decay in ((0, 0.999), (75_000, 0.99999), (300_000, 0.99999)):
        rate = config.teacher.rate(update / 400_000)
        assert math.exp(-rate / 400_000) == pytest.approx(decay, abs=1e-6)


def test_the_linear_map_of_data2vec_is_gone() -> None:
    _, objective = models()
    names = {name.split(".")[1] for name, _ in objective.named_parameters()}
    assert names == {"filler", "decoder"}
