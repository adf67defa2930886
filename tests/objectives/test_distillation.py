"""data2vec's loss against one that looks at one recording, mask and frame at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from speechssl.data.batch import SpeechBatch, collate
from speechssl.errors import ConfigError
from speechssl.frames import num_frames
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.objectives.distillation import Distillation, DistillationConfig
from speechssl.objectives.masking import MaskConfig
from tests.models.reference import randomize
from tests.objectives.gradients import assert_same_gradients
from tests.objectives.slow_teacher import feed_forward_outputs, normed_over_time
from tests.objectives.small import WAVEFORM, batch_of

PRE = replace(WAVEFORM, layers=3)
POST = replace(PRE, norm="post")
CONFIG = DistillationConfig(MaskConfig(span=5), masks=3, top_layers=2)


def models(
    config: DistillationConfig, layout: EncoderConfig = PRE
) -> tuple[Encoder, Distillation, Encoder]:
    """An encoder, the objective, and an encoder with the weights that its teacher has by then."""
    torch.manual_seed(0)
    encoder, objective = Encoder(layout), Distillation(config, layout)
    randomize(encoder, seed=1)
    objective.before_update(encoder, 0.0)
    average = Encoder(layout)
    average.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
            if name.split(".")[0] not in ("norm", "layers"):  # shared with the teacher
                dict(average.named_parameters())[name].copy_(parameter)
    objective.teacher.model.position.load_state_dict(encoder.position.state_dict())
    return encoder, objective, average.eval()


def slow_targets(config: DistillationConfig, teacher: Encoder, recording: SpeechBatch) -> Tensor:
    """[T, D] for a batch of one recording."""
    layers = [output[0] for output in feed_forward_outputs(teacher, recording)[-2:]]
    mean = sum(normed_over_time(layer) for layer in layers) / 2
    assert isinstance(mean, Tensor)
    if config.target_norm == "layer":
        return normed_over_time(mean.T).T
    return normed_over_time(mean) if config.target_norm == "instance" else mean


def slow_errors(
    encoder: Encoder, objective: Distillation, teacher: Encoder, batch: SpeechBatch, mask: Tensor
) -> list[Tensor]:
    errors = []
    for row, length in enumerate(batch.lengths.tolist()):
        alone = collate([batch.waveforms[row, :length]])
        targets = slow_targets(objective.config, teacher, alone).detach()
        for frames in mask[row, :, : num_frames(length)]:
            context, _ = encoder(alone.waveforms, alone.lengths, frames[None])
            for frame in frames.nonzero()[:, 0].tolist():
                difference = objective.predict(context[0, frame]) - targets[frame]
                beta = objective.config.beta
                if beta:
                    size = difference.abs()
                    smooth = 0.5 * difference.square() / beta
                    each = torch.where(size < beta, smooth, size - 0.5 * beta)
                else:
                    each = difference.square()
                errors.append(each.sum() / math.sqrt(len(difference)))
    return errors


@pytest.mark.parametrize(
    ("layout", "config"),
    [
        (PRE, CONFIG),
        (POST, replace(CONFIG, beta=0.5, target_norm="layer")),
        (PRE, replace(CONFIG, masks=1, beta=2.0, target_norm="instance")),
    ],
    ids=["pre-squared", "post-smooth-layer", "pre-smooth-instance"],
)
def test_equals_the_slow_loss_gradients_too(
    layout: EncoderConfig, config: DistillationConfig
) -> None:
    encoder, objective, teacher = models(config, layout)
    batch = batch_of(9000, 6000)
    torch.manual_seed(3)
    mask = objective.draw(batch)["mask"]
    assert mask.shape == (2, config.masks, num_frames(9000))
    loss = objective.loss(encoder, batch, mask=mask)
    errors = slow_errors(encoder, objective, teacher, batch, mask)
    assert loss.count == len(errors) == int(mask.sum())
    expected = torch.stack(errors).sum()
    torch.testing.assert_close(loss.sum, expected, rtol=1e-4, atol=1e-3)

    assert_same_gradients(loss.sum, expected, encoder, objective)


def test_all_masks_of_a_recording_share_one_pass_of_the_teacher() -> None:
    encoder, objective, _ = models(replace(CONFIG, masks=4))
    seen: list[int] = []
    layer = objective.teacher.model.layers[0]
    layer.register_forward_hook(lambda _, __, output: seen.append(len(output)))
    batch = batch_of(9000, 6000)
    mask = objective.draw(batch)["mask"]
    assert objective.loss(encoder, batch, mask=mask).count > 0
    assert seen == [2]
    assert not torch.equal(mask[:, 0], mask[:, 1])


def test_relative_error_is_1_for_the_mean_target_and_0_for_the_target() -> None:
    _, objective, _ = models(CONFIG)
    torch.manual_seed(0)
    targets = 2 + torch.randn(50, 32)
    for predictions, expected in ((targets, 0.0), (targets.mean(dim=0).expand(50, -1), 1.0)):
        total, count = objective.metrics(predictions, targets, targets)["relative_error"]
        assert float(total) / count == pytest.approx(expected, abs=1e-5)


def test_the_teacher_follows_and_the_student_alone_is_trained() -> None:
    encoder, objective, _ = models(CONFIG)
    names = {name for name, _ in objective.named_parameters()}
    assert names == {"predict.weight", "predict.bias"}
    before = [value.clone() for value in objective.teacher.buffers()]
    objective.before_update(encoder, 0.01)
    assert any(not torch.equal(a, b) for a, b in zip(before, objective.teacher.buffers()))


@pytest.mark.parametrize(
    ("values", "field"),
    [({"masks": 0}, "masks"), ({"beta": -0.1}, "beta")],
)
def test_a_value_out_of_range_is_named(values: dict[str, float], field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field} must be"):
        DistillationConfig(**values)  # type: ignore[arg-type]


def test_more_layers_than_the_encoder_has_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^top_layers must be from 1 to"):
        Distillation(DistillationConfig(top_layers=4), PRE)


def test_the_papers_loss_is_torchs() -> None:
    torch.manual_seed(0)
    predictions, targets = torch.randn(7, 32), torch.randn(7, 32)
    for beta in (0.0, 0.7):
        objective = Distillation(replace(CONFIG, beta=beta), PRE)
        if beta:
            each = F.smooth_l1_loss(predictions, targets, reduction="none", beta=beta)
        else:
            each = F.mse_loss(predictions, targets, reduction="none")
        expected = each.sum(dim=-1) / 32**0.5
        torch.testing.assert_close(objective.errors(predictions, targets), expected)
