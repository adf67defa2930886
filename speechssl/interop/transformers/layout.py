"""What transformers calls the settings and the tensors of a model that both sides have.

A ``model_type`` is a ``Family``: which of its settings is which of ours. All families share one
table of tensor names; which of its rows are in use follows from the encoder's configuration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from speechssl.config import build
from speechssl.errors import ConfigError
from speechssl.interop.conversion import Renames
from speechssl.interop.settings import PRE_NORM, SettingsTable, one_width
from speechssl.models.encoder import EncoderConfig
from speechssl.models.frontend import CONV_KERNELS, CONV_STRIDES
from speechssl.objectives.contrastive import ContrastiveConfig

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
KEPT = "transformers"
"""Folder inside an imported model folder with the JSON files that it came with."""
EXTRA = "interop"
"""The extra of this package that installs transformers."""

Task = Literal["encoder", "pretraining", "ctc"]

ARCHITECTURES: dict[str, tuple[str, Task]] = {
    "Wav2Vec2Model": ("wav2vec2", "encoder"),
    "Wav2Vec2ForPreTraining": ("wav2vec2", "pretraining"),
    "Wav2Vec2ForCTC": ("wav2vec2", "ctc"),
    "HubertModel": ("hubert", "encoder"),
    "HubertForCTC": ("hubert", "ctc"),
    "WavLMModel": ("wavlm", "encoder"),
    "WavLMForCTC": ("wavlm", "ctc"),
    "Data2VecAudioModel": ("data2vec-audio", "encoder"),
    "Data2VecAudioForCTC": ("data2vec-audio", "ctc"),
}
"""Class in transformers -> its ``model_type`` and what it is for."""


@dataclass(frozen=True)
class Settings:
    """What config.json says about the network; the defaults are transformers'."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.1
    feat_proj_dropout: float = 0.0
    layerdrop: float = 0.1
    feat_extract_norm: Literal["group", "layer"] = "group"
    conv_dim: tuple[int, ...] = (512,) * len(CONV_KERNELS)
    conv_bias: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    do_stable_layer_norm: bool = False
    mask_time_prob: float = 0.05
    mask_feature_prob: float = 0.0
    vocab_size: int = 32
    num_negatives: int = 100
    num_codevector_groups: int = 2
    num_codevectors_per_group: int = 320
    codevector_dim: int = 256
    proj_codevector_dim: int = 256
    contrastive_logits_temperature: float = 0.1
    diversity_loss_weight: float = 0.1
    feat_quantizer_dropout: float = 0.0

    @property
    def has_mask_embedding(self) -> bool:
        """Whether transformers builds the model with one."""
        return self.mask_time_prob > 0 or self.mask_feature_prob > 0


@dataclass(frozen=True)
class WavLMSettings(Settings):
    num_buckets: int = 320
    max_bucket_distance: int = 800


@dataclass(frozen=True)
class Data2VecSettings(Settings):
    feat_extract_norm: Literal["group", "layer"] = "layer"
    num_conv_pos_embeddings: int = 5
    conv_pos_kernel_size: int = 19


@dataclass(frozen=True)
class Family:
    """One ``model_type`` of transformers."""

    prefix: str
    """Stands before the encoder's tensors where there is a head."""
    settings: type[Settings]
    encoder: SettingsTable
    """Settings in config.json, and ours."""


_SHARED = {
    "hidden_size": "dim",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "ffn_dim",
    "hidden_dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "feat_proj_dropout": "input_dropout",
    "layerdrop": "layer_drop",
    "conv_dim": "frontend.channels",
    "conv_bias": "frontend.bias",
    "num_conv_pos_embedding_groups": "position_groups",
}
_WAV2VEC2 = {
    **_SHARED,
    "feat_extract_norm": "frontend.norm",
    "num_conv_pos_embeddings": "position_kernel",
    "do_stable_layer_norm": "norm",
}
_WAVLM = {
    **_WAV2VEC2,
    "num_buckets": "relative_buckets",
    "max_bucket_distance": "relative_distance",
}
_DATA2VEC = {
    **_SHARED,
    "num_conv_pos_embeddings": "position_layers",
    "conv_pos_kernel_size": "position_kernel",
}

_FORMS = {
    "conv_dim": (one_width, lambda width: [width] * len(CONV_KERNELS)),
    "do_stable_layer_norm": PRE_NORM,
}

FAMILIES = {
    "wav2vec2": Family("wav2vec2.", Settings, SettingsTable(_WAV2VEC2, forms=_FORMS)),
    "hubert": Family("hubert.", Settings, SettingsTable(_WAV2VEC2, forms=_FORMS)),
    "wavlm": Family("wavlm.", WavLMSettings, SettingsTable(_WAVLM, forms=_FORMS)),
    "data2vec-audio": Family(
        "data2vec_audio.",
        Data2VecSettings,
        SettingsTable(_DATA2VEC, {"frontend": {"norm": "layer"}}, _FORMS),
    ),
}

FIXED: dict[str, Any] = {
    "conv_kernel": list(CONV_KERNELS),
    "conv_stride": list(CONV_STRIDES),
    "feat_extract_activation": "gelu",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
    "add_adapter": False,
    "adapter_attn_dim": None,
}
"""Settings of config.json that have a single value here."""

_CONTRASTIVE = {
    "num_negatives": "distractors",
    "contrastive_logits_temperature": "similarity_temperature",
    "num_codevector_groups": "groups",
    "num_codevectors_per_group": "entries",
    "codevector_dim": "codeword_size",
    "proj_codevector_dim": "projection_size",
    "feat_quantizer_dropout": "quantizer_dropout",
    "diversity_loss_weight": "diversity_weight",
}
"""From names in config.json to names in ``ContrastiveConfig``."""


def encoder_names(projection: str, transformer: str, prefix: str = "") -> Renames:
    """What stands before their names of the feature projection and of the transformer, and before
    all -> the names of the encoder's tensors."""
    position, layer = f"{transformer}pos_conv_embed.", rf"{transformer}layers.\1."
    weight = f"{position}conv.parametrizations.weight."
    names = (
        (r"frontend\.layers\.(\d+)\.norm\.", r"feature_extractor.conv_layers.\1.layer_norm."),
        (r"frontend\.layers\.(\d+)\.", r"feature_extractor.conv_layers.\1.conv."),
        (r"frontend\.group_norm\.", "feature_extractor.conv_layers.0.layer_norm."),
        (r"feature_norm\.", f"{projection}layer_norm."),
        (r"projection\.", f"{projection}projection."),
        (r"mask_embedding$", "masked_spec_embed"),
        (r"position\.layers\.(\d+)\.", rf"{position}layers.\1.conv."),
        (r"position\.scale$", f"{weight}original0"),
        (r"position\.direction$", f"{weight}original1"),
        (r"position\.bias$", f"{position}conv.bias"),
        (r"relative\.embedding$", f"{transformer}layers.0.attention.rel_attn_embed.weight"),
        (r"norm\.", f"{transformer}layer_norm."),
        (r"layers\.(\d+)\.attention_norm\.", f"{layer}layer_norm."),
        (r"layers\.(\d+)\.feed_forward_norm\.", f"{layer}final_layer_norm."),
        (r"layers\.(\d+)\.attention\.query\.", f"{layer}attention.q_proj."),
        (r"layers\.(\d+)\.attention\.key\.", f"{layer}attention.k_proj."),
        (r"layers\.(\d+)\.attention\.value\.", f"{layer}attention.v_proj."),
        (r"layers\.(\d+)\.attention\.out\.", f"{layer}attention.out_proj."),
        (r"layers\.(\d+)\.attention\.gate\.scale$", f"{layer}attention.gru_rel_pos_const"),
        (r"layers\.(\d+)\.attention\.gate\.linear\.", f"{layer}attention.gru_rel_pos_linear."),
        (r"layers\.(\d+)\.feed_forward\.expand\.", f"{layer}feed_forward.intermediate_dense."),
        (r"layers\.(\d+)\.feed_forward\.contract\.", f"{layer}feed_forward.output_dense."),
    )
    return tuple((rf"encoder\.{ours}", prefix + theirs) for ours, theirs in names)


_HEADS: Renames = (
    (r"head\.", "lm_head."),
    (r"objective\.quantizer\.logits\.", "quantizer.weight_proj."),
    (r"objective\.quantizer\.codebooks$", "quantizer.codevectors"),
    (r"objective\.project_context\.", "project_hid."),
    (r"objective\.project_target\.", "project_q."),
)


def renames(architecture: str) -> Renames:
    """From the names in a model folder to those in transformers' class ``architecture``."""
    model_type, task = ARCHITECTURES[architecture]
    prefix = "" if task == "encoder" else FAMILIES[model_type].prefix
    return _HEADS + encoder_names("feature_projection.", "encoder.", prefix)


OLD_NAMES = {
    "pos_conv_embed.conv.weight_g": "pos_conv_embed.conv.parametrizations.weight.original0",
    "pos_conv_embed.conv.weight_v": "pos_conv_embed.conv.parametrizations.weight.original1",
}
"""How weight normalisation was called before torch 2.1; most published files have these names."""


def read_settings(values: Mapping[str, Any], model_type: str, where: str) -> Settings:
    """The settings of config.json that the family has. Raises ``ConfigError`` for a value of the
    wrong type."""
    kind = FAMILIES[model_type].settings
    names = {field.name for field in dataclasses.fields(kind)}
    known = {name: value for name, value in values.items() if name in names}
    return build(kind, known, where)


def encoder_config(
    settings: Settings, model_type: str, normalize_waveform: bool, where: str
) -> EncoderConfig:
    """Our configuration of the encoder. Raises ``ConfigError`` for sizes that do not fit."""
    config = FAMILIES[model_type].encoder.encoder(vars(settings), normalize_waveform, where)
    if model_type == "data2vec-audio" and config.position_layers == 1:
        raise ConfigError(
            f"{where}: num_conv_pos_embeddings is 1; a position embedding of a single convolution "
            "has weight normalisation here, and in data2vec it has not."
        )
    return config


def encoder_settings(config: EncoderConfig, model_type: str) -> dict[str, Any]:
    """config.json's settings for an encoder: the inverse of ``encoder_config``."""
    return FAMILIES[model_type].encoder.theirs(config)


def contrastive_config(settings: Settings) -> ContrastiveConfig:
    """Our configuration of the objective. Raises ``ConfigError`` for a value out of range."""
    values = {ours: getattr(settings, theirs) for theirs, ours in _CONTRASTIVE.items()}
    return ContrastiveConfig(**values)


def contrastive_settings(config: ContrastiveConfig) -> dict[str, Any]:
    """config.json's settings for the objective: the inverse of ``contrastive_config``."""
    return {theirs: getattr(config, ours) for theirs, ours in _CONTRASTIVE.items()}


def new_name(name: str) -> str:
    """A tensor's name as torch writes it today."""
    for old, new in OLD_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
