"""The moving average against a slow obvious one, and what the teacher looks at."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.data.batch import collate
from speechssl.errors import ConfigError
from speechssl.frames import num_frames
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.objectives.teacher import (
    EncoderTeacher,
    Teacher,
    TeacherConfig,
    normalize_over_time,
    upper_layers,
)
from tests.models.reference import randomize
from tests.objectives.slow_teacher import feed_forward_outputs
from tests.objectives.small import FBANK, batch_of

PRE = replace(FBANK, layers=3, dropout=0.3)
POST = replace(PRE, norm="post")
STACK = replace(PRE, position_layers=2)
every_layout = pytest.mark.parametrize("layout", [PRE, POST, STACK], ids=["pre", "post", "stack"])


def linear(value: float) -> nn.Linear:
    """A layer whose weights all have one value."""
    layer = nn.Linear(2, 3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(value)
    return layer


def weight(teacher: Teacher) -> float:
    assert isinstance(teacher.model.weight, Tensor)
    return float(teacher.model.weight[0, 0])


def test_the_average_is_the_recursion_of_the_paper() -> None:
    teacher, average = Teacher(nn.Linear(2, 3)), None
    values = [3.0, -1.0, 4.0, 1.0, -5.0]
    for update, value in enumerate(values):
        decay = 0.0 if average is None else 0.999
        average = value if average is None else decay * average + (1 - decay) * value
        returned = teacher.follow(linear(value), update / 400_000, rate=1 / 0.0025)
        assert returned == pytest.approx(decay, abs=1e-6)
        assert weight(teacher) == pytest.approx(average, abs=1e-4)


def test_an_update_announced_twice_changes_nothing() -> None:
    teacher = Teacher(nn.Linear(2, 3))
    teacher.follow(linear(1.0), 0.0, rate=5.0)
    assert teacher.follow(linear(9.0), 0.0, rate=5.0) == 1.0
    assert weight(teacher) == 1.0
    teacher.follow(linear(9.0), 0.1, rate=5.0)
    once = weight(teacher)
    assert once == pytest.approx(9.0 - 8.0 * math.exp(-0.5))
    teacher.follow(linear(9.0), 0.1, rate=5.0)
    assert weight(teacher) == once


def test_a_short_run_is_a_scaled_long_run() -> None:
    """A student whose weights are a function of progress has the same teacher in both."""
    config, ends = TeacherConfig(horizon_start=0.05, horizon_end=0.3, horizon_fraction=0.5), []
    for updates in (200, 2000):
        teacher = Teacher(nn.Linear(2, 3))
        for update in range(updates):
            fraction = update / updates
            teacher.follow(linear(math.sin(5 * fraction)), fraction, config.rate(fraction))
        ends.append(weight(teacher))
    assert ends[0] == pytest.approx(ends[1], abs=0.01)
    assert abs(ends[1] - math.sin(5.0)) > 0.1, "the teacher has a memory"


def test_the_decay_of_the_defaults_is_the_papers() -> None:
    """0.999 to 0.9999, linearly over 30,000 of 400,000 updates."""
    config = TeacherConfig()
    for update, decay in ((0, 0.999), (15_000, 0.99945), (30_000, 0.9999), (200_000, 0.9999)):
        rate = config.rate(update / 400_000)
        assert math.exp(-rate / 400_000) == pytest.approx(decay, abs=1e-6)


def test_it_has_nothing_to_train_and_all_to_save() -> None:
    teacher, other = Teacher(nn.Linear(2, 3)), Teacher(nn.Linear(2, 3))
    assert not list(teacher.parameters())
    empty = teacher.state_dict()
    teacher.follow(linear(2.0), 1 / 3, rate=5.0)
    other.load_state_dict(teacher.state_dict())
    assert other.fraction == 1 / 3
    assert weight(other) == 2.0
    other.load_state_dict(empty)
    assert other.fraction is None


def test_it_is_never_in_training_mode() -> None:
    torch.manual_seed(0)
    teacher = EncoderTeacher(PRE, TeacherConfig(), layers=2)
    parent = nn.ModuleList([teacher]).train()
    assert not any(module.training for module in parent[0].modules())
    batch = batch_of(8000)
    projected = torch.randn(1, num_frames(8000), 32)
    first, second = (teacher.layer_outputs(batch, projected)[-1] for _ in range(2))
    assert torch.equal(first, second)


def test_it_averages_the_layers_and_shares_the_rest() -> None:
    torch.manual_seed(0)
    encoder, teacher = Encoder(PRE), EncoderTeacher(PRE, TeacherConfig(), layers=2)
    teacher.follow_encoder(encoder, 0.0)
    before = {name: value.clone() for name, value in encoder.named_parameters()}
    randomize(encoder, seed=5)
    teacher.follow_encoder(encoder, 0.001)
    decay = math.exp(-0.001 * TeacherConfig().rate(0.001))
    assert teacher.decay == decay
    names = set()
    for name, value in teacher.model.named_buffers():
        now = dict(encoder.named_parameters())[name]
        shared = name.startswith("position.")
        expected = now if shared else decay * before[name] + (1 - decay) * now
        torch.testing.assert_close(value, expected)
        names.add(name.split(".")[0])
    assert names == {"position", "norm", "layers"}


@every_layout
@pytest.mark.parametrize("part", ["transformer", "encoder"])
def test_it_sees_what_the_upper_feed_forwards_add(layout: EncoderConfig, part: str) -> None:
    """Each recording of a padded batch as if it were alone, normalised by torch."""
    torch.manual_seed(0)
    encoder = Encoder(layout)
    randomize(encoder)
    teacher = EncoderTeacher(layout, TeacherConfig(part=part), layers=2)  # type: ignore[arg-type]
    teacher.follow_encoder(encoder, 0.0)
    batch = batch_of(16000, 9000)
    with torch.no_grad():
        frames = encoder.normalize(encoder.extract(batch.waveforms, batch.lengths))
        outputs = teacher.layer_outputs(batch, encoder.projection(frames))
        for row, length in enumerate(batch.lengths.tolist()):
            alone = collate([batch.waveforms[row, :length]])
            slow = feed_forward_outputs(encoder.eval(), alone)[1:]
            assert len(outputs) == len(slow) == 2
            for output, expected in zip(outputs, slow):
                normed = F.instance_norm(expected.transpose(1, 2)).transpose(1, 2)[0]
                found = output[row, : num_frames(length)]
                torch.testing.assert_close(found, normed, rtol=1e-3, atol=1e-4)


def test_normalising_over_time_is_instance_norm_of_each_recording() -> None:
    torch.manual_seed(0)
    values, counts = 3 + 2 * torch.randn(3, 11, 4), torch.tensor([11, 6, 1])
    normed = normalize_over_time(values, counts)
    for row, count in enumerate(counts.tolist()):
        alone = values[row, :count]
        expected = (alone - alone.mean(dim=0)) / (alone.var(dim=0, correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(normed[row, :count], expected)
        assert not normed[row, count:].any()


def test_the_upper_layers_are_two_thirds_unless_told() -> None:
    assert [upper_layers(replace(PRE, layers=n), None) for n in (1, 2, 6, 12)] == [1, 1, 4, 8]
    assert upper_layers(PRE, 3) == 3
    for wanted in (0, 4):
        with pytest.raises(ConfigError, match=r"^top_layers must be from 1 to .* layers \(3\)"):
            upper_layers(PRE, wanted)
    with pytest.raises(ConfigError, match=r"^layers must be"):
        upper_layers(replace(PRE, layers=0), None)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"horizon_start": 0.0}, "horizon_start"),
        ({"horizon_end": -1.0}, "horizon_end"),
        ({"horizon_fraction": 0.0}, "horizon_fraction"),
    ],
)
def test_a_value_out_of_range_is_named(values: dict[str, float], field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field} must be"):
        TeacherConfig(**values)  # type: ignore[arg-type]
