from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from speechssl.data.index import Cuts
from speechssl.data.manifest import cuts_path
from speechssl.errors import ConfigError
from speechssl.extraction import LayerFeatures, LogMelFeatures, ModelLayers, draw_places
from speechssl.frames import num_frames
from speechssl.models.encoder import Encoder
from speechssl.models.folder import save_model_folder
from speechssl.models.presets import encoder_config


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    encoder = Encoder(encoder_config("tiny", {"dim": 16, "layers": 2, "ffn_dim": 16, "heads": 2}))
    path = tmp_path_factory.mktemp("extraction") / "model"
    save_model_folder(path, encoder)
    return path


def test_layers_together_are_the_layers_one_by_one(model: Path) -> None:
    waveforms = [torch.randn(9000), torch.randn(4000)]
    together = ModelLayers(model)(waveforms)
    for layer in range(3):
        alone = LayerFeatures(model, layer)(waveforms)
        for states, frames in zip(together, alone, strict=True):
            torch.testing.assert_close(states[layer], frames)
    chosen = ModelLayers(model, [2, 0])(waveforms)
    torch.testing.assert_close(chosen[1][0], together[1][2])
    torch.testing.assert_close(chosen[1][1], together[1][0])
    with pytest.raises(ConfigError, match="layer must be between 0 and 2, but is 3"):
        ModelLayers(model, [0, 3])


@pytest.mark.parametrize("samples", [400, 719, 720, 12345])
def test_log_mels_have_the_encoders_frames(samples: int) -> None:
    (frames,) = LogMelFeatures()([torch.randn(samples)])
    assert frames.shape == (num_frames(samples), 160)
    assert torch.isfinite(frames).all()


def test_log_mels_tell_colour_but_not_loudness() -> None:
    torch.manual_seed(0)
    white = torch.randn(8000)
    dark = white.cumsum(0)
    once, twice, other = LogMelFeatures()([white, 0.1 * white, dark])
    torch.testing.assert_close(once, twice, atol=1e-3, rtol=0)
    assert (once.mean(0) - other.mean(0)).abs().max() > 1


def test_drawn_places(corpus: Path) -> None:
    cuts = Cuts.open(cuts_path(corpus, "train"))
    places = draw_places(cuts, cuts.hours / 2, seed=0)
    assert 0 < len(places) < len(cuts)
    assert (np.diff(places) > 0).all()
    assert (places == draw_places(cuts, cuts.hours / 2, seed=0)).all()
    assert (draw_places(cuts, 10.0, seed=0) == np.arange(len(cuts))).all()
