"""Reconstruction against a slow version, value by value."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from speechssl.errors import ConfigError
from speechssl.frames import num_frames
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.models.frontend import FbankFrontend
from speechssl.objectives.reconstruction import Reconstruction, ReconstructionConfig
from tests.objectives.small import FBANK, WAVEFORM, batch_of

BANDS = ReconstructionConfig(channel_mask=0.4)


def slow_errors(
    mels: Tensor, predictions: Tensor, mask: Tensor, hidden: Tensor, counts: list[int]
) -> list[float]:
    """|prediction - truth| of each altered value."""
    errors = []
    for row, count in enumerate(counts):
        for frame in range(count):
            for channel in range(mels.shape[-1]):
                if mask[row, frame] or hidden[row, channel]:
                    truth, guess = mels[row, frame, channel], predictions[row, frame, channel]
                    errors.append(abs(float(truth - guess)))
    return errors


@pytest.mark.parametrize(
    ("layout", "config"),
    [(FBANK, ReconstructionConfig()), (WAVEFORM, ReconstructionConfig()), (FBANK, BANDS)],
    ids=["fbank", "waveform", "bands"],
)
@torch.no_grad()
def test_the_loss_is_the_absolute_error_of_altered_values(
    layout: EncoderConfig, config: ReconstructionConfig
) -> None:
    torch.manual_seed(1)
    encoder, objective = Encoder(layout), Reconstruction(config, layout)
    batch = batch_of(9000, 6000)
    draws = objective.draw(batch)
    loss = objective.loss(encoder, batch, **draws)

    mask, hidden = draws["mask"], draws["hidden"]
    assert hidden.any() == (config is BANDS)
    frames = encoder.extract(batch.waveforms, batch.lengths)
    if config is BANDS:
        frames = frames * ~hidden[:, None]
    inputs = encoder.apply_mask(encoder.project(encoder.normalize(frames)), mask)
    counts = num_frames(batch.lengths)
    predictions = objective.predict(encoder.contextualize(inputs, counts))
    mels = FbankFrontend(FBANK.frontend)(batch.waveforms, batch.lengths)
    errors = slow_errors(mels, predictions, mask, hidden, counts.tolist())
    assert loss.count == len(errors) / 40
    assert float(loss.sum) == pytest.approx(sum(errors) / 40, rel=1e-4)
    trivial = slow_errors(mels, torch.zeros_like(mels), mask, hidden, counts.tolist())
    assert float(loss.metrics["loss_trivial"][0]) == pytest.approx(sum(trivial) / 40, rel=1e-4)


def test_hidden_bands_are_neighbours_of_every_width_and_place() -> None:
    torch.manual_seed(0)
    objective = Reconstruction(BANDS, FBANK)
    hidden = objective.draw(batch_of(*[400] * 3000))["hidden"]
    assert torch.equal(hidden[:, :20], hidden[:, 20:])  # both halves of a frame alike
    band = hidden[:, :20]
    width = band.sum(dim=1)
    assert torch.bincount(width, minlength=9).min() > 250  # 0 to 8 = 0.4 * 20, 333 each
    assert int(width.max()) == 8
    edges = (band[:, 1:] != band[:, :-1]).sum(dim=1) + band[:, 0] + band[:, -1]
    assert torch.equal(edges, 2 * (width > 0))
    assert band.any(dim=0).all()


def test_nothing_is_hidden_unless_asked() -> None:
    assert not Reconstruction(ReconstructionConfig(), FBANK).draw(batch_of(9000))["hidden"].any()


def test_bands_need_filter_banks() -> None:
    with pytest.raises(ConfigError, match="channel_mask must be 0 with model"):
        Reconstruction(BANDS, WAVEFORM)


def test_a_value_out_of_range_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^channel_mask must be"):
        ReconstructionConfig(channel_mask=1.0)
