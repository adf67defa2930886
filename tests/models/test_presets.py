import pytest
import torch
import transformers
from torch import nn

from speechssl.errors import ConfigError
from speechssl.models.encoder import Encoder
from speechssl.models.presets import PRESETS, encoder_config

LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "do_stable_layer_norm": True,
}


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("preset", "published", "changes"), [("base", 94_371_712, {}), ("large", 315_438_720, LARGE)]
)
def test_as_many_parameters_as_published(
    preset: str, published: int, changes: dict[str, object]
) -> None:
    with torch.device("meta"):
        ours = Encoder(encoder_config(preset))
        theirs = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**changes))
    assert _parameters(ours) == _parameters(theirs) == published


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_built(preset: str) -> None:
    with torch.device("meta"):
        assert _parameters(Encoder(encoder_config(preset))) > 1e6


def test_overrides_reach_inside() -> None:
    config = encoder_config("tiny", {"layers": 2, "frontend": {"mel_bins": 40}})
    assert (config.layers, config.frontend.mel_bins, config.dim) == (2, 40, 256)
    assert config.frontend.kind == "fbank"


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="unknown preset 'bsae'; did you mean 'base'"):
        encoder_config("bsae")
    with pytest.raises(ConfigError, match="unknown setting 'layer'; did you mean 'layers'"):
        encoder_config("tiny", {"layer": 3})
    with pytest.raises(ConfigError, match="heads must be a divisor of dim"):
        encoder_config("tiny", {"heads": 5})
