"""Contrastive prediction of the future against a slow version, pair by pair."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from speechssl.errors import ConfigError
from speechssl.frames import min_samples, num_frames
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.objectives.future import Future, FutureConfig
from tests.objectives.gradients import assert_same_gradients
from tests.objectives.small import FBANK, WAVEFORM, batch_of

CAUSAL = replace(FBANK, causal=True)
CAUSAL_WAVEFORM = replace(WAVEFORM, causal=True)


@pytest.mark.parametrize("layout", [CAUSAL, CAUSAL_WAVEFORM], ids=["fbank", "waveform"])
def test_the_loss_is_infonce_over_all_steps(layout: EncoderConfig) -> None:
    torch.manual_seed(0)
    encoder, objective = Encoder(layout), Future(FutureConfig(steps=3, distractors=4), layout)
    batch = batch_of(5000, min_samples(1), min_samples(2), 4000)
    distractors = objective.draw(batch)["distractors"]
    loss = objective.loss(encoder, batch, distractors=distractors)

    targets = encoder.normalize(encoder.extract(batch.waveforms, batch.lengths))
    context, counts = encoder(batch.waveforms, batch.lengths)
    total, terms, right = torch.zeros(()), 0, 0
    first = 0
    for row, count in enumerate(counts.tolist()):
        for step in (1, 2, 3):
            for frame in range(count - step):
                answers = [frame + step, *distractors[first + frame + step].tolist()]
                prediction = objective.predict[step - 1](context[row, frame])
                scores = targets[row, answers] @ prediction / targets.shape[-1] ** 0.5
                total = total + F.cross_entropy(scores[None], torch.tensor([0]))
                right += int(scores[0] > scores[1:].max())
                terms += 1
        first += count
    assert loss.count == terms == 3 * (num_frames(5000) + num_frames(4000)) - 12 + 1
    torch.testing.assert_close(loss.sum, total, rtol=1e-4, atol=1e-4)
    assert int(loss.metrics["accuracy"][0]) == right

    assert_same_gradients(loss.sum, total, encoder, objective)


def test_recordings_shorter_than_the_farthest_step_count_what_they_have() -> None:
    torch.manual_seed(0)
    encoder, objective = Encoder(CAUSAL), Future(FutureConfig(steps=12), CAUSAL)
    loss = objective(encoder, batch_of(min_samples(4), min_samples(1)))
    assert loss.count == 3 + 2 + 1
    loss.sum.backward()
    assert not objective.predict[3].weight.grad.any()
    assert objective.predict[2].weight.grad.any()


def test_distractors_are_the_other_frames_all_equally_likely() -> None:
    torch.manual_seed(0)
    objective = Future(FutureConfig(distractors=4000), CAUSAL)
    distractors = objective.draw(batch_of(4000, min_samples(1), 2500))["distractors"]
    counts = [num_frames(4000), 1, num_frames(2500)]
    assert distractors.shape == (sum(counts), 4000)
    first = 0
    for count in counts:
        for place in range(count):
            seen = torch.bincount(distractors[first + place], minlength=count)
            assert len(seen) == count
            if count > 1:
                assert seen[place] == 0
                others = seen[torch.arange(count) != place].double()
                expected = 4000 / (count - 1)
                assert ((others - expected).abs() < 6 * expected**0.5).all()
        first += count


@pytest.mark.parametrize("field", ["steps", "distractors"])
def test_a_value_out_of_range_is_named(field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field} must be"):
        FutureConfig(**{field: 0})
