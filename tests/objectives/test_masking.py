"""Span masks against the slow, obvious way, and at the edges."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from speechssl.errors import ConfigError
from speechssl.objectives.masking import MaskConfig, span_mask


def slow_mask(frames: int, config: MaskConfig, rng: random.Random) -> list[bool]:
    """One recording's mask, span by span, for a recording that is long enough."""
    number = max(int(config.probability * frames / config.span + rng.random()), config.min_spans)
    mask = [False] * frames
    for start in rng.sample(range(frames - config.span + 1), number):
        for frame in range(start, start + config.span):
            mask[frame] = True
    return mask


def runs(mask: Tensor) -> list[int]:
    """Lengths of the stretches of masked frames in mask [T]."""
    marks = "".join("x" if masked else " " for masked in mask.tolist())
    return [len(run) for run in marks.split()]


@pytest.mark.parametrize("config", [MaskConfig(), MaskConfig(probability=0.8, span=7)])
def test_every_frame_is_masked_as_often_as_in_the_slow_way(config: MaskConfig) -> None:
    torch.manual_seed(0)
    frames, recordings = 90, 6000
    rng = random.Random(0)
    fast = span_mask(torch.full((recordings,), frames), config).float()
    slow = torch.tensor([slow_mask(frames, config, rng) for _ in range(recordings)]).float()
    # the standard error of each frame's share is below 0.0065; of its difference, 0.0092
    assert (fast.mean(0) - slow.mean(0)).abs().max() < 0.04
    assert float(fast.mean()) == pytest.approx(float(slow.mean()), abs=0.01)
    assert float(fast.sum(1).std()) == pytest.approx(float(slow.sum(1).std()), rel=0.1)
    assert fast[:, 0].any()
    assert fast[:, -1].any()


def test_spans_of_one_frame_show_how_many_there_are() -> None:
    torch.manual_seed(0)
    config = MaskConfig(probability=0.33, span=1, min_spans=0)
    masked = span_mask(torch.full((4000,), 10), config).sum(dim=1)
    assert set(masked.tolist()) == {3, 4}
    assert float(masked.float().mean()) == pytest.approx(3.3, abs=0.03)


def test_spans_are_whole_and_inside_the_recording() -> None:
    torch.manual_seed(0)
    counts = torch.tensor([200, 75, 31, 11, 130] * 50)
    mask = span_mask(counts, MaskConfig())
    assert mask.shape == (250, 200)
    for row, count in zip(mask, counts.tolist()):
        assert not row[count:].any()
        assert min(runs(row)) >= 10
        assert not row[:count].all()


def test_a_recording_that_is_long_enough_has_the_fewest_spans_asked_for() -> None:
    torch.manual_seed(0)
    config = MaskConfig(probability=0.0, span=4, min_spans=3)
    masked = span_mask(torch.full((200,), 100), config).sum(dim=1)
    assert int(masked.min()) >= 6  # three different starts cover at least 4 + 2 frames
    assert int(masked.max()) == 12


@pytest.mark.parametrize(("frames", "masked"), [(0, 0), (1, 0), (2, 1), (3, 2), (10, 9), (11, 10)])
def test_short_recordings_keep_one_frame(frames: int, masked: int) -> None:
    torch.manual_seed(0)
    mask = span_mask(torch.tensor([frames] * 20 + [50]), MaskConfig())[:20]
    assert mask.sum(dim=1).tolist() == [masked] * 20
    assert not mask[:, frames:].any()


def test_some_frame_always_stays_even_with_the_most_spans() -> None:
    torch.manual_seed(0)
    counts = torch.arange(2, 60).repeat(20)
    mask = span_mask(counts, MaskConfig(probability=1.0, span=5, min_spans=4))
    assert (mask.sum(dim=1) < counts).all()
    assert mask.any(dim=1).all()


def test_neither_padding_nor_later_recordings_matter() -> None:
    counts = torch.tensor([40, 90, 63])
    torch.manual_seed(3)
    mask = span_mask(counts, MaskConfig())
    torch.manual_seed(3)
    padded = span_mask(counts, MaskConfig(), width=120)
    assert torch.equal(padded[:, :90], mask)
    assert not padded[:, 90:].any()
    torch.manual_seed(3)
    longer = span_mask(torch.tensor([40, 90, 63, 200]), MaskConfig())
    assert torch.equal(longer[:3, :90], mask)
    assert not torch.equal(span_mask(counts, MaskConfig()), mask)


def test_no_spans_may_be_wanted() -> None:
    assert not span_mask(torch.tensor([50]), MaskConfig(probability=0.0, min_spans=0)).any()


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"probability": 1.2}, "probability"),
        ({"span": 0}, "span"),
        ({"min_spans": -1}, "min_spans"),
    ],
)
def test_a_value_out_of_range_is_named(values: dict[str, float], field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field} must be"):
        MaskConfig(**values)
