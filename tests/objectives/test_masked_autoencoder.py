"""The masked autoencoder against a slow version, recording by recording."""

from __future__ import annotations

import pytest
import torch

from speechssl.data.batch import collate
from speechssl.frames import num_frames
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.models.frontend import FbankFrontend
from speechssl.objectives.decoder import DecoderConfig
from speechssl.objectives.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from tests.models.reference import randomize
from tests.objectives.gradients import assert_same_gradients
from tests.objectives.small import FBANK, WAVEFORM, batch_of

CONFIG = MaskedAutoencoderConfig(
    decoder=DecoderConfig(layers=2, size=32, kernel=3, groups=4, dropout=0.0)
)


@pytest.mark.parametrize("layout", [FBANK, WAVEFORM], ids=["fbank", "waveform"])
def test_equals_the_slow_loss_gradients_too(layout: EncoderConfig) -> None:
    torch.manual_seed(0)
    encoder, objective = Encoder(layout), MaskedAutoencoder(CONFIG, layout)
    randomize(encoder)
    batch = batch_of(9000, 6000)
    mask = objective.draw(batch)["mask"]
    loss = objective.loss(encoder, batch, mask=mask)

    errors, trivial = [], 0.0
    for row, length in enumerate(batch.lengths.tolist()):
        alone = collate([batch.waveforms[row, :length]])
        hidden = mask[row, : num_frames(length)]
        inputs = encoder.project(encoder.normalize(encoder.extract(alone.waveforms, alone.lengths)))
        inputs = torch.where(hidden[:, None], encoder.mask_embedding, inputs)
        seen = (inputs + encoder.position(inputs))[:, ~hidden]
        for layer in encoder.layers:
            seen = layer(seen, None)
        filled = objective.decoder.filler.repeat(1, len(hidden), 1)
        filled[:, ~hidden] = encoder.norm(seen)
        everywhere = torch.arange(len(hidden))
        decoded = objective.decoder.decoder(filled, torch.tensor([len(hidden)]), everywhere)
        mels = FbankFrontend(FBANK.frontend)(alone.waveforms, alone.lengths)[0]
        for frame in hidden.nonzero()[:, 0].tolist():
            errors.append((decoded[frame] - mels[frame]).square().mean())
            trivial += float(mels[frame].square().mean())
    assert loss.count == len(errors) == int(mask.sum()) > 0
    expected = torch.stack(errors).sum()
    torch.testing.assert_close(loss.sum, expected, rtol=1e-4, atol=1e-4)
    assert float(loss.metrics["loss_trivial"][0]) == pytest.approx(trivial, rel=1e-4)
    assert_same_gradients(loss.sum, expected, encoder, objective)


def test_a_quarter_is_shown_in_spans() -> None:
    torch.manual_seed(0)
    objective = MaskedAutoencoder(MaskedAutoencoderConfig(), FBANK)
    mask = objective.draw(batch_of(*[96_000] * 40))["mask"]
    assert float(mask.float().mean()) == pytest.approx(0.75, abs=0.02)
    shown = "".join("x" if masked else " " for masked in mask[0].tolist()).split("x")
    assert min(len(run) for run in shown if run) >= 4


def test_recordings_too_short_to_hide_anything_show_all() -> None:
    objective = MaskedAutoencoder(MaskedAutoencoderConfig(), FBANK)
    mask = objective.draw(batch_of(400, 720, 9000))["mask"]
    assert not mask[0].any()
    assert mask[1].sum() == 1
    assert (mask[:, 0] | mask[:, 1]).any()


def test_the_transformer_is_spared_what_is_hidden() -> None:
    torch.manual_seed(0)
    encoder, objective = Encoder(FBANK), MaskedAutoencoder(CONFIG, FBANK)
    seen: list[int] = []
    encoder.layers[0].register_forward_hook(lambda _, __, output: seen.append(output.shape[1]))
    batch = batch_of(9000, 6000)
    mask = objective.draw(batch)["mask"]
    objective.loss(encoder, batch, mask=mask)
    shown = [num_frames(n) - int(row.sum()) for n, row in zip((9000, 6000), mask)]
    assert seen == [max(shown)]
