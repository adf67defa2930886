"""What transformers calls the settings and the tensors of a model that both sides have."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from speechssl.errors import ConfigError
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.models.frontend import CONV_KERNELS, CONV_STRIDES, FrontendConfig
from speechssl.objectives.contrastive import Contrastive, ContrastiveConfig

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
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
}
"""Class in transformers -> its ``model_type`` and what it is for."""

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

RENAMES = (
    (r"frontend\.layers\.(\d+)\.norm\.", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"frontend\.layers\.(\d+)\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"frontend\.group_norm\.", r"feature_extractor.conv_layers.0.layer_norm."),
    (r"feature_norm\.", r"feature_projection.layer_norm."),
    (r"projection\.", r"feature_projection.projection."),
    (r"mask_embedding$", r"masked_spec_embed"),
    (r"position\.scale$", r"encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"position\.direction$", r"encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    (r"position\.bias$", r"encoder.pos_conv_embed.conv.bias"),
    (r"norm\.", r"encoder.layer_norm."),
    (r"layers\.(\d+)\.attention_norm\.", r"encoder.layers.\1.layer_norm."),
    (r"layers\.(\d+)\.feed_forward_norm\.", r"encoder.layers.\1.final_layer_norm."),
    (r"layers\.(\d+)\.attention\.query\.", r"encoder.layers.\1.attention.q_proj."),
    (r"layers\.(\d+)\.attention\.key\.", r"encoder.layers.\1.attention.k_proj."),
    (r"layers\.(\d+)\.attention\.value\.", r"encoder.layers.\1.attention.v_proj."),
    (r"layers\.(\d+)\.attention\.out\.", r"encoder.layers.\1.attention.out_proj."),
    (
        r"layers\.(\d+)\.feed_forward\.expand\.",
        r"encoder.layers.\1.feed_forward.intermediate_dense.",
    ),
    (r"layers\.(\d+)\.feed_forward\.contract\.", r"encoder.layers.\1.feed_forward.output_dense."),
)
"""From our names of the encoder's tensors to transformers'; the first that fits holds."""

HEAD_RENAMES = {
    "head.weight": "lm_head.weight",
    "head.bias": "lm_head.bias",
    "objective.quantizer.logits.weight": "quantizer.weight_proj.weight",
    "objective.quantizer.logits.bias": "quantizer.weight_proj.bias",
    "objective.quantizer.codebooks": "quantizer.codevectors",
    "objective.project_context.weight": "project_hid.weight",
    "objective.project_context.bias": "project_hid.bias",
    "objective.project_target.weight": "project_q.weight",
    "objective.project_target.bias": "project_q.bias",
}

OLD_NAMES = {
    "pos_conv_embed.conv.weight_g": "pos_conv_embed.conv.parametrizations.weight.original0",
    "pos_conv_embed.conv.weight_v": "pos_conv_embed.conv.parametrizations.weight.original1",
}
"""How weight normalisation was called before torch 2.1; most published files have these names."""


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

    def encoder(self, normalize_waveform: bool) -> EncoderConfig:
        """Our configuration of the encoder. Raises ``ConfigError`` for sizes that do not fit."""
        if len(set(self.conv_dim)) != 1 or len(self.conv_dim) != len(CONV_KERNELS):
            raise ConfigError(
                f"conv_dim is {list(self.conv_dim)}; speechssl has {len(CONV_KERNELS)} "
                "convolutions of one width."
            )
        return EncoderConfig(
            frontend=FrontendConfig(
                channels=self.conv_dim[0],
                norm=self.feat_extract_norm,
                bias=self.conv_bias,
                normalize_waveform=normalize_waveform,
            ),
            dim=self.hidden_size,
            layers=self.num_hidden_layers,
            heads=self.num_attention_heads,
            ffn_dim=self.intermediate_size,
            norm="pre" if self.do_stable_layer_norm else "post",
            position_kernel=self.num_conv_pos_embeddings,
            position_groups=self.num_conv_pos_embedding_groups,
            dropout=self.hidden_dropout,
            attention_dropout=self.attention_dropout,
            activation_dropout=self.activation_dropout,
            input_dropout=self.feat_proj_dropout,
            layer_drop=self.layerdrop,
        )

    def contrastive(self) -> ContrastiveConfig:
        """Our configuration of the objective. Raises ``ConfigError`` for a value out of range."""
        return ContrastiveConfig(
            distractors=self.num_negatives,
            similarity_temperature=self.contrastive_logits_temperature,
            groups=self.num_codevector_groups,
            entries=self.num_codevectors_per_group,
            codeword_size=self.codevector_dim,
            projection_size=self.proj_codevector_dim,
            quantizer_dropout=self.feat_quantizer_dropout,
            diversity_weight=self.diversity_loss_weight,
        )


def known_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of config.json that ``Settings`` has."""
    names = {field.name for field in dataclasses.fields(Settings)}
    return {name: value for name, value in values.items() if name in names}


def encoder_settings(config: EncoderConfig) -> dict[str, Any]:
    """config.json's settings for an encoder: the inverse of ``Settings.encoder``."""
    return {
        "hidden_size": config.dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.ffn_dim,
        "hidden_dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "feat_proj_dropout": config.input_dropout,
        "layerdrop": config.layer_drop,
        "feat_extract_norm": config.frontend.norm,
        "conv_dim": [config.frontend.channels] * len(CONV_KERNELS),
        "conv_bias": config.frontend.bias,
        "num_conv_pos_embeddings": config.position_kernel,
        "num_conv_pos_embedding_groups": config.position_groups,
        "do_stable_layer_norm": config.norm == "pre",
    }


def contrastive_settings(config: ContrastiveConfig) -> dict[str, Any]:
    """config.json's settings for the objective: the inverse of ``Settings.contrastive``."""
    return {
        "num_negatives": config.distractors,
        "contrastive_logits_temperature": config.similarity_temperature,
        "num_codevector_groups": config.groups,
        "num_codevectors_per_group": config.entries,
        "codevector_dim": config.codeword_size,
        "proj_codevector_dim": config.projection_size,
        "feat_quantizer_dropout": config.quantizer_dropout,
        "diversity_loss_weight": config.diversity_weight,
    }


@dataclass
class Converted:
    """A model on our side, and what it is called on theirs."""

    architecture: str
    model: Encoder | CTCModel
    objective: Contrastive | None = None
    order: list[int] | None = None
    """ctc: ``order[i]`` is the row of token i in transformers' head."""

    @property
    def encoder(self) -> Encoder:
        return self.model.encoder if isinstance(self.model, CTCModel) else self.model

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by the names that they have in a model folder."""
        prefix = "" if isinstance(self.model, CTCModel) else "encoder."
        named = {prefix + name: value for name, value in self.model.state_dict().items()}
        if self.objective is not None:
            for name, value in self.objective.state_dict().items():
                named[f"objective.{name}"] = value
        return named

    def their_tensors(self) -> dict[str, tuple[str, Tensor]]:
        """For each tensor of ours, name and value in transformers' form."""
        model_type, task = ARCHITECTURES[self.architecture]
        prefix = "" if task == "encoder" else f"{model_type}."
        return {
            name: (their_name(name, prefix), to_theirs(name, value, self.order))
            for name, value in self.tensors().items()
        }

    def fill(self, values: Mapping[str, Tensor]) -> None:
        """Puts in tensors of our names and shapes; none may be missing."""
        prefix = "" if isinstance(self.model, CTCModel) else "encoder."
        model, objective = {}, {}
        for name, value in values.items():
            if name.startswith("objective."):
                objective[name.removeprefix("objective.")] = value
            else:
                model[name.removeprefix(prefix)] = value
        self.model.load_state_dict(model, assign=True)
        if self.objective is not None:
            self.objective.load_state_dict(objective, assign=True)


def their_name(name: str, prefix: str) -> str:
    """transformers' name of our tensor ``name``; ``prefix`` stands before the encoder's."""
    if name in HEAD_RENAMES:
        return HEAD_RENAMES[name]
    for pattern, replacement in RENAMES:
        renamed, count = re.subn(f"^{pattern}", replacement, name.removeprefix("encoder."))
        if count:
            return prefix + renamed
    raise AssertionError(f"{name} has no counterpart")


def to_theirs(name: str, value: Tensor, order: list[int] | None) -> Tensor:
    """Our tensor in transformers' form: codebooks [G, V, E / G] -> [1, G V, E / G], and the rows of
    the CTC head in the order of vocab.json."""
    if name == "objective.quantizer.codebooks":
        return value.reshape(1, -1, value.shape[-1])
    if name.startswith("head.") and order is not None:
        return value[torch.tensor(order).argsort()]
    return value


def from_theirs(name: str, value: Tensor, shape: torch.Size, order: list[int] | None) -> Tensor:
    """The inverse of ``to_theirs``; ``shape`` is that of our tensor."""
    if name.startswith("head.") and order is not None:
        return value[order]
    return value.reshape(shape)


def new_name(name: str) -> str:
    for old, new in OLD_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
