"""Named sizes of encoders, each given by what it is and nothing more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechssl.config import build, merge, to_dict, unknown_key
from speechssl.errors import ConfigError
from speechssl.models.encoder import EncoderConfig
from speechssl.models.frontend import FrontendConfig

_TINY = EncoderConfig(
    frontend=FrontendConfig(kind="fbank"),
    dim=256,
    layers=6,
    heads=4,
    ffn_dim=1024,
    norm="pre",
    squeeze=2,
    convolution_kernel=15,
    position_kernel=32,
    attention_dropout=0.0,
)

_BASE = EncoderConfig(input_dropout=0.1, layer_drop=0.05, frontend_gradient=0.1)

_LARGE = EncoderConfig(
    frontend=FrontendConfig(norm="layer", bias=True, normalize_waveform=True),
    dim=1024,
    layers=24,
    heads=16,
    ffn_dim=4096,
    norm="pre",
    dropout=0.0,
    attention_dropout=0.0,
)

PRESETS: dict[str, EncoderConfig] = {
    "tiny": _TINY,  # 6 M parameters: minutes on a laptop
    "small": EncoderConfig(
        **{**vars(_TINY), "dim": 384, "layers": 12, "heads": 6, "ffn_dim": 1536}
    ),
    "base": _BASE,  # 94 M: wav2vec 2.0 base and HuBERT base
    "large": _LARGE,  # 315 M: wav2vec 2.0 large (LV-60) and HuBERT large
}
"""Encoder configurations by name."""


def encoder_config(preset: str, overrides: Mapping[str, Any] | None = None) -> EncoderConfig:
    """The preset with some settings changed, e.g. ``{"layers": 8, "frontend": {"mel_bins": 40}}``.

    Raises ``ConfigError`` for an unknown preset, an unknown setting or a value out of range.
    """
    if preset not in PRESETS:
        raise ConfigError(unknown_key("encoder", preset, list(PRESETS), "preset"))
    values = merge(to_dict(PRESETS[preset]), overrides or {})
    return build(EncoderConfig, values, f"encoder ({preset})")
