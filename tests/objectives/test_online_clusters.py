"""DinoSR's loss and codebooks against ones that look at one frame at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from speechssl.data.batch import collate
from speechssl.errors import ConfigError
from speechssl.frames import num_frames
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.objectives.masking import MaskConfig
from speechssl.objectives.online_clusters import (
    OnlineClusters,
    OnlineClustersConfig,
    OnlineClustersMaskConfig,
)
from tests.models.reference import randomize
from tests.objectives.gradients import assert_same_gradients
from tests.objectives.slow_teacher import feed_forward_outputs, normed_over_time
from tests.objectives.small import FBANK, batch_of
from tests.objectives.test_codebooks import nearest

PRE = replace(FBANK, layers=3)
POST = replace(PRE, norm="post")
CONFIG = OnlineClustersConfig(
    OnlineClustersMaskConfig(span=5), top_layers=2, entries=7, codebook_horizon=0.05
)


def models(layout: EncoderConfig = PRE) -> tuple[Encoder, OnlineClusters]:
    torch.manual_seed(0)
    encoder, objective = Encoder(layout), OnlineClusters(CONFIG, layout)
    randomize(encoder, seed=1)
    objective.before_update(encoder, 0.0)
    return encoder, objective


@pytest.mark.parametrize("layout", [PRE, POST], ids=["pre", "post"])
def test_equals_the_slow_loss_gradients_too(layout: EncoderConfig) -> None:
    """The teacher still being a copy of the encoder."""
    encoder, objective = models(layout)
    batch = batch_of(9000, 6000)
    mask = objective.draw(batch)["mask"]
    loss = objective.loss(encoder, batch, mask=mask)

    errors, right = [], 0
    words = objective.codebooks.codewords()
    for row, length in enumerate(batch.lengths.tolist()):
        alone = collate([batch.waveforms[row, :length]])
        frames = mask[row, : num_frames(length)]
        with torch.no_grad():
            outputs = feed_forward_outputs(encoder.eval(), alone)[-2:]
        layers = [normed_over_time(output[0]) for output in outputs]
        context, _ = encoder.train()(alone.waveforms, alone.lengths, frames[None])
        for frame in frames.nonzero()[:, 0].tolist():
            logits = objective.predict(context[0, frame]).view(2, 7)
            for book in range(2):
                code = nearest(words[book], layers[book][frame])
                errors.append(-logits[book].log_softmax(dim=0)[code] / 2)
                right += int(logits[book].argmax()) == code
    assert loss.count == len(errors) / 2 == int(mask.sum())
    expected = torch.stack(errors).sum()
    torch.testing.assert_close(loss.sum, expected, rtol=1e-4, atol=1e-3)
    assert float(loss.metrics["accuracy"][0]) == right / 2

    assert_same_gradients(loss.sum, expected, encoder, objective)


def test_codebooks_change_between_updates_only_and_not_in_evaluation() -> None:
    encoder, objective = models()
    batch = batch_of(9000, 6000)
    draws = objective.draw(batch)
    start = objective.codebooks.totals.clone()
    objective.eval().loss(encoder, batch, **draws)
    assert not objective.codebooks.collected.any()
    objective.train().loss(encoder, batch, **draws)
    once = objective.codebooks.collected.clone()
    assert int(once[0, :, -1].sum()) == int(draws["mask"].sum())
    objective.loss(encoder, batch, **draws)
    torch.testing.assert_close(objective.codebooks.collected, 2 * once)
    assert torch.equal(objective.codebooks.totals, start)

    objective.before_update(encoder, 0.01)
    decay = math.exp(-0.01 / 0.05)
    used = once[..., -1:] > 0
    expected = torch.where(used, decay * start + (1 - decay) * 2 * once, start)
    torch.testing.assert_close(objective.codebooks.totals, expected)
    assert not objective.codebooks.collected.any()


def test_an_update_announced_again_starts_again() -> None:
    encoder, objective = models()
    batch = batch_of(9000, 6000)
    draws = objective.draw(batch)
    objective.before_update(encoder, 0.01)
    totals = objective.codebooks.totals.clone()
    objective.loss(encoder, batch, **draws)
    objective.before_update(encoder, 0.01)
    assert torch.equal(objective.codebooks.totals, totals)
    assert not objective.codebooks.collected.any()


def test_what_another_run_collected_is_forgotten() -> None:
    """Continued pretraining takes the codebooks over, but neither teacher nor clock."""
    encoder, objective = models()
    batch = batch_of(9000, 6000)
    objective.loss(encoder, batch, **objective.draw(batch))
    assert objective.codebooks.collected.any()
    again = OnlineClusters(CONFIG, PRE)
    again.codebooks.load_state_dict(objective.codebooks.state_dict())
    again.before_update(encoder, 0.0)
    assert torch.equal(again.codebooks.totals, objective.codebooks.totals)
    assert not again.codebooks.collected.any()


def test_masks_are_denser_than_wav2vec2s_unless_told() -> None:
    assert OnlineClustersConfig().mask.probability == 0.8
    assert OnlineClustersConfig().mask.span == MaskConfig().span


@pytest.mark.parametrize(
    ("values", "field"),
    [({"entries": 1}, "entries"), ({"codebook_horizon": 0.0}, "codebook_horizon")],
)
def test_a_value_out_of_range_is_named(values: dict[str, float], field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field} must be"):
        OnlineClustersConfig(**values)  # type: ignore[arg-type]
