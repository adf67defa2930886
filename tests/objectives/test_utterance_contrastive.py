"""SimCLR and MoCo against slow versions, view by view, and the queue."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from speechssl.data.batch import SpeechBatch, collate
from speechssl.errors import ConfigError
from speechssl.frames import SAMPLE_RATE
from speechssl.models.encoder import Encoder
from speechssl.objectives.base import frame_counts
from speechssl.objectives.utterance_contrastive import (
    KEYS_PER_PASS,
    KeyQueue,
    UtteranceContrastive,
    UtteranceContrastiveConfig,
    candidates,
)
from speechssl.objectives.views import two_views
from tests.models.reference import randomize
from tests.objectives.gradients import assert_same_gradients
from tests.objectives.small import FBANK, WAVEFORM, batch_of

SIMCLR = UtteranceContrastiveConfig(hidden_size=24, projection_size=12)
MOCO = replace(SIMCLR, queue=9, temperature=0.2)


def vectors(encoder: Encoder, project: Any, batch: SpeechBatch, draws: dict[str, Tensor]) -> Tensor:
    """The projection of each view, one at a time: [B, 2, Q], of length 1."""
    views = two_views(batch, draws["gain"], draws["noise"])
    counts, _ = frame_counts(views)
    found = []
    for view, length in enumerate(views.lengths.tolist()):
        mask = draws["mask"].flatten(0, 1)[view : view + 1, : counts[view]]
        alone = views.waveforms[view : view + 1, :length]
        context, _ = encoder(alone, torch.tensor([length]), mask)
        projection = project(context[0].mean(dim=0))
        found.append(projection / projection.norm())
    return torch.stack(found).view(len(batch.lengths), 2, -1)


def test_simclr_equals_the_slow_loss_gradients_too() -> None:
    torch.manual_seed(0)
    encoder, objective = Encoder(WAVEFORM), UtteranceContrastive(SIMCLR, WAVEFORM)
    randomize(encoder)
    batch = batch_of(6000, 4000, 5000)
    draws = objective.draw(batch)
    loss = objective.loss(encoder, batch, **draws)
    each, expected, right = vectors(encoder, objective.project, batch, draws), torch.zeros(()), 0
    for row in range(3):
        for view in range(2):
            anchor = each[row, view]
            own = anchor @ each[row, 1 - view]
            others = [
                anchor @ each[other, of] for other in range(3) if other != row for of in range(2)
            ]
            scores = torch.stack([own, *others]) / SIMCLR.temperature
            expected = expected - scores.log_softmax(dim=0)[0]
            right += int(scores.argmax()) == 0
    assert loss.count == 6
    torch.testing.assert_close(loss.sum, expected, rtol=1e-4, atol=1e-4)
    assert int(loss.metrics["accuracy"][0]) == right
    assert_same_gradients(loss.sum, expected, encoder, objective)


def test_moco_equals_the_slow_loss_gradients_too() -> None:
    torch.manual_seed(0)
    encoder, objective = Encoder(FBANK), UtteranceContrastive(MOCO, FBANK)
    randomize(encoder)
    objective.before_update(encoder, 0.0)
    average = copy.deepcopy(encoder), copy.deepcopy(objective.project)
    with torch.no_grad():
        for parameter in [*encoder.parameters(), *objective.project.parameters()]:
            parameter.add_(0.05 * torch.randn_like(parameter))
    batch = batch_of(6000, 4000)
    draws = objective.draw(batch)
    loss = objective.loss(encoder, batch, **draws)
    each = vectors(encoder, objective.project, batch, draws)
    with torch.no_grad():
        keys = vectors(*average, batch, draws)
    expected = torch.zeros(())
    for row in range(2):
        for view in range(2):
            candidates = [keys[row, 1 - view], *keys[1 - row], *objective.queue.keys]
            scores = torch.stack(candidates) @ each[row, view]
            expected = expected - (scores / MOCO.temperature).log_softmax(dim=0)[0]
    assert loss.count == 4
    torch.testing.assert_close(loss.sum, expected, rtol=1e-4, atol=1e-4)
    assert_same_gradients(loss.sum, expected, encoder, objective)

    before = objective.queue.keys.clone()
    torch.testing.assert_close(objective.queue.collected[:2], keys[:, 0], rtol=1e-4, atol=1e-5)
    assert not objective.queue.collected[2:].any()
    objective.before_update(encoder, 0.1)
    torch.testing.assert_close(objective.queue.keys[:2], keys[:, 0], rtol=1e-4, atol=1e-5)
    assert torch.equal(objective.queue.keys[2:], before[:7])


def test_candidates_are_the_partner_then_both_views_of_the_others() -> None:
    assert candidates(torch.tensor([[1, 2], [2, 0], [0, 1]])).tolist() == [
        [1, 2, 4, 3, 5],
        [0, 2, 4, 3, 5],
        [3, 4, 0, 5, 1],
        [2, 4, 0, 5, 1],
        [5, 0, 2, 1, 3],
        [4, 0, 2, 1, 3],
    ]


def test_the_queue_keeps_the_newest_keys() -> None:
    torch.manual_seed(0)
    queue = KeyQueue(5, 3)
    assert torch.allclose(queue.keys.norm(dim=1), torch.ones(5))
    first, batches = queue.keys.clone(), [torch.randn(2, 3) for _ in range(4)]
    queue.collect(batches[0])
    queue.collect(batches[1])
    queue.absorb(keep=True)
    assert torch.equal(queue.keys, torch.cat([batches[1], batches[0], first[:1]]))
    queue.collect(batches[2])
    queue.absorb(keep=False)  # an update announced again
    queue.absorb(keep=True)
    assert torch.equal(queue.keys, torch.cat([batches[1], batches[0], first[:1]]))
    many = torch.randn(KEYS_PER_PASS + 10, 3)
    queue.collect(many)
    queue.absorb(keep=True)
    assert torch.equal(queue.keys, many[:5])


def test_a_recording_alone_has_nothing_to_be_told_from() -> None:
    torch.manual_seed(0)
    encoder, objective = Encoder(FBANK), UtteranceContrastive(SIMCLR, FBANK)
    loss = objective(encoder, batch_of(6000))
    assert loss.count == 0
    assert float(loss.sum.detach()) == 0.0


def test_evaluation_leaves_the_queue_alone() -> None:
    torch.manual_seed(0)
    encoder, objective = Encoder(FBANK), UtteranceContrastive(MOCO, FBANK)
    objective.before_update(encoder, 0.0)
    assert objective.eval()(encoder, batch_of(6000)).count == 2
    assert not objective.queue.collected.any()


def test_with_a_queue_it_learns_to_tell_tones_apart() -> None:
    """32 recordings, four at a time, so that the queue of 12 holds none of the batch."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(6000) / SAMPLE_RATE
    recordings = []
    for tone in torch.linspace(200, 6000, 32):
        noise = torch.randn(6000, generator=generator)
        recordings.append(0.3 * (2 * torch.pi * tone * time).sin() * (time < 0.25) + 0.03 * noise)
    torch.manual_seed(0)
    encoder = Encoder(FBANK)
    config = UtteranceContrastiveConfig(hidden_size=64, projection_size=16, queue=12, horizon=0.2)
    objective = UtteranceContrastive(config, FBANK)
    optimizer = torch.optim.Adam([*encoder.parameters(), *objective.parameters()], lr=3e-3)
    losses, updates = [], 256
    for update in range(updates):
        objective.before_update(encoder, update / updates)
        chosen = [(4 * update + index) * 5 % 32 for index in range(4)]
        loss = objective(encoder, collate([recordings[index] for index in chosen]))
        optimizer.zero_grad()
        (loss.sum / loss.count).backward()
        optimizer.step()
        losses.append(float(loss.sum.detach()) / loss.count)
    trivial, count = loss.metrics["loss_trivial"]
    assert sum(losses[-16:]) / 16 < 0.6 * float(trivial) / count


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"queue": -1}, "queue"),
        ({"horizon": 0.0}, "horizon"),
        ({"temperature": 0.0}, "temperature"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"projection_size": 0}, "projection_size"),
        ({"gain_db": -1.0}, "gain_db"),
    ],
)
def test_a_value_out_of_range_is_named(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field} must be"):
        UtteranceContrastiveConfig(**values)
