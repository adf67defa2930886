"""DinoSR's loss and codebooks against ones that look at one frame at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from speechssl.data.batch import SpeechBatch, collate
from speechssl.errors import ConfigError
from speechssl.frames import num_frames
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.models.frontend import FrontendConfig
from speechssl.objectives.masking import MaskConfig
from speechssl.objectives.online_clusters import (
    OnlineClusters,
    OnlineClustersConfig,
    OnlineClustersMaskConfig,
    OnlineCodebooks,
)
from tests.models.reference import randomize
from tests.objectives.slow_teacher import feed_forward_outputs, normed_over_time

PRE = EncoderConfig(
    FrontendConfig(kind="fbank", mel_bins=20),
    dim=32,
    layers=3,
    heads=2,
    ffn_dim=48,
    norm="pre",
    position_kernel=8,
    position_groups=2,
    dropout=0.0,
    attention_dropout=0.0,
)
POST = replace(PRE, norm="post")
CONFIG = OnlineClustersConfig(
    OnlineClustersMaskConfig(span=5), top_layers=2, entries=7, codebook_horizon=0.05
)


def batch_of(*samples: int, seed: int = 2) -> SpeechBatch:
    torch.manual_seed(seed)
    return collate([torch.randn(count) for count in samples])


def models(layout: EncoderConfig = PRE) -> tuple[Encoder, OnlineClusters]:
    torch.manual_seed(0)
    encoder, objective = Encoder(layout), OnlineClusters(CONFIG, layout)
    randomize(encoder, seed=1)
    objective.before_update(encoder, 0.0)
    return encoder, objective


def nearest(words: Tensor, frame: Tensor) -> int:
    """words [V, D], frame [D] -> the index of the nearest word."""
    return min(range(len(words)), key=lambda entry: float((words[entry] - frame).norm()))


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

    parameters = [*encoder.parameters(), *objective.parameters()]
    ours = torch.autograd.grad(loss.sum, parameters)
    theirs = torch.autograd.grad(expected, parameters)
    for one, other in zip(ours, theirs, strict=True):
        assert float((one - other).norm()) < 1e-3 * float(other.norm()) + 1e-3


def test_codewords_are_moving_averages_of_sums_and_counts() -> None:
    """Over three updates of two batches each, one frame at a time."""
    torch.manual_seed(0)
    books = OnlineCodebooks(layers=2, entries=5, dim=3)
    sums = books.codewords().clone()  # each codeword begins as the average of one frame: itself
    counts = torch.ones(2, 5)
    for decay in (0.9, 0.5, 0.0):
        seen_sums, seen_counts = torch.zeros(2, 5, 3), torch.zeros(2, 5)
        for _ in range(2):
            frames = torch.randn(2, 6, 3)
            codes = books.nearest(frames)
            books.collect(frames, codes)
            for book in range(2):
                for frame in range(6):
                    code = nearest(sums[book] / counts[book][:, None], frames[book, frame])
                    assert int(codes[book, frame]) == code
                    seen_sums[book, code] += frames[book, frame]
                    seen_counts[book, code] += 1
        books.absorb(decay)
        for book in range(2):
            for code in range(5):
                if seen_counts[book, code] > 0:
                    new = seen_sums[book, code], seen_counts[book, code]
                    sums[book, code] = decay * sums[book, code] + (1 - decay) * new[0]
                    counts[book, code] = decay * counts[book, code] + (1 - decay) * new[1]
        torch.testing.assert_close(books.codewords(), sums / counts[:, :, None])


def test_codewords_that_nobody_is_near_stay() -> None:
    torch.manual_seed(0)
    books = OnlineCodebooks(layers=1, entries=4, dim=3)
    before = books.codewords().clone()
    frames = before[:, :1] + 0.1
    books.collect(frames, torch.zeros(1, 1, dtype=torch.long))
    books.absorb(0.0)
    torch.testing.assert_close(books.codewords()[:, 0], frames[:, 0])
    assert torch.equal(books.codewords()[:, 1:], before[:, 1:])


def test_codewords_find_clusters() -> None:
    """Six clusters far apart: each frame ends next to a codeword."""
    torch.manual_seed(0)
    books, centres = OnlineCodebooks(layers=1, entries=24, dim=8), torch.randn(1, 6, 8)
    for _ in range(40):
        frames = centres.repeat(1, 20, 1) + 0.05 * torch.randn(1, 120, 8)
        books.collect(frames, books.nearest(frames))
        books.absorb(0.7)
    codes = books.nearest(centres)
    assert len(codes.unique()) == 6
    found = books.codewords()[0, codes[0]]
    assert float((found - centres[0]).norm(dim=-1).max()) < 0.15


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
