"""What fairseq calls the settings and the tensors of a model that both sides have.

Source: ``fairseq.models.wav2vec.wav2vec2`` and ``fairseq.models.hubert.hubert`` of fairseq 0.12.2;
for WavLM, which is built upon them, ``wavlm/WavLM.py`` of github.com/microsoft/unilm.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from speechssl.errors import ConfigError
from speechssl.interop.conversion import Renames
from speechssl.interop.settings import PRE_NORM, SettingsTable, conv_layers, one_width
from speechssl.models.encoder import EncoderConfig
from speechssl.models.frontend import CONV_KERNELS, CONV_STRIDES
from speechssl.objectives.clusters import ClustersConfig
from speechssl.objectives.contrastive import ContrastiveConfig

CHECKPOINT = "checkpoint.pt"
KEPT = "fairseq"
"""Folder inside an imported model folder with the settings that it came with."""
SETTINGS = f"{KEPT}/cfg.json"

Task = Literal["pretraining", "ctc"]

ARCHITECTURES: dict[str, tuple[str, Task]] = {
    "wav2vec2": ("wav2vec2", "pretraining"),
    "hubert": ("hubert", "pretraining"),
    "wav2vec_ctc": ("wav2vec2", "ctc"),
    "hubert_ctc": ("hubert", "ctc"),
    "wavlm": ("wavlm", "pretraining"),
}
"""fairseq's name of a model -> the encoder that it has and what it is for. (WavLM's files do not
name their model, and hold no heads.)"""

FIXED: dict[str, Any] = {
    "activation_fn": "gelu",
    "layer_type": "transformer",
    "attn_type": "",
    "pos_enc_type": "abs",
    "pos_conv_depth": 1,
    "quantize_input": False,
    "quantizer_depth": 1,
    "target_glu": False,
    "mask_channel_before": False,
    "blank_weight": 0,  # added to a recogniser's logits of the blank
}
"""Settings of the network that have a single value here."""

OTHER_LOSS = ("cross_sample_negatives", "codebook_negatives", "negatives_from_everywhere")
"""Settings of wav2vec 2.0's loss that there are not here; they do not change the network."""

CTC_OVERRIDES = {
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "dropout_input": "dropout_input",
    "layerdrop": "encoder_layerdrop",
    "feature_grad_mult": "feature_grad_mult",
}
"""Settings of a CTC model that replace those of the encoder inside it, by their names there."""

_ENCODER: Renames = (
    (r"frontend\.layers\.(\d+)\.norm\.", r"feature_extractor.conv_layers.\1.2.1."),
    (r"frontend\.layers\.(\d+)\.", r"feature_extractor.conv_layers.\1.0."),
    (r"frontend\.group_norm\.", r"feature_extractor.conv_layers.0.2."),
    (r"feature_norm\.", r"layer_norm."),
    (r"projection\.", r"post_extract_proj."),
    (r"mask_embedding$", r"mask_emb"),
    (r"position\.scale$", r"encoder.pos_conv.0.weight_g"),
    (r"position\.direction$", r"encoder.pos_conv.0.weight_v"),
    (r"position\.bias$", r"encoder.pos_conv.0.bias"),
    (r"relative\.embedding$", r"encoder.layers.0.self_attn.relative_attention_bias.weight"),
    (r"norm\.", r"encoder.layer_norm."),
    (r"layers\.(\d+)\.attention_norm\.", r"encoder.layers.\1.self_attn_layer_norm."),
    (r"layers\.(\d+)\.feed_forward_norm\.", r"encoder.layers.\1.final_layer_norm."),
    (r"layers\.(\d+)\.attention\.query\.", r"encoder.layers.\1.self_attn.q_proj."),
    (r"layers\.(\d+)\.attention\.key\.", r"encoder.layers.\1.self_attn.k_proj."),
    (r"layers\.(\d+)\.attention\.value\.", r"encoder.layers.\1.self_attn.v_proj."),
    (r"layers\.(\d+)\.attention\.out\.", r"encoder.layers.\1.self_attn.out_proj."),
    (r"layers\.(\d+)\.attention\.gate\.scale$", r"encoder.layers.\1.self_attn.grep_a"),
    (r"layers\.(\d+)\.attention\.gate\.linear\.", r"encoder.layers.\1.self_attn.grep_linear."),
    (r"layers\.(\d+)\.feed_forward\.expand\.", r"encoder.layers.\1.fc1."),
    (r"layers\.(\d+)\.feed_forward\.contract\.", r"encoder.layers.\1.fc2."),
)

_HEADS: Renames = (
    (r"objective\.quantizer\.logits\.", r"quantizer.weight_proj."),
    (r"objective\.quantizer\.codebooks$", r"quantizer.vars"),
    (r"objective\.project_context\.", r"final_proj."),
    (r"objective\.project_target\.", r"project_q."),
    (r"objective\.cluster_embeddings$", r"label_embs_concat"),
)


def renames(task: Task) -> Renames:
    """From the names in a model folder to fairseq's."""
    prefix = "w2v_encoder.w2v_model." if task == "ctc" else ""
    inside = tuple((rf"encoder\.{ours}", prefix + theirs) for ours, theirs in _ENCODER)
    return (
        (r"head\.", r"w2v_encoder.proj."),
        *((ours, prefix + theirs) for ours, theirs in _HEADS),
        *inside,
    )


_TABLE = SettingsTable(
    {
        "extractor_mode": "frontend.norm",
        "conv_feature_layers": "frontend.channels",
        "conv_bias": "frontend.bias",
        "encoder_embed_dim": "dim",
        "encoder_layers": "layers",
        "encoder_attention_heads": "heads",
        "encoder_ffn_embed_dim": "ffn_dim",
        "layer_norm_first": "norm",
        "conv_pos": "position_kernel",
        "conv_pos_groups": "position_groups",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "activation_dropout": "activation_dropout",
        "dropout_input": "input_dropout",
        "encoder_layerdrop": "layer_drop",
        "feature_grad_mult": "frontend_gradient",
    },
    forms={
        "extractor_mode": (
            lambda mode: "group" if mode == "default" else "layer",
            lambda norm: "default" if norm == "group" else "layer_norm",
        ),
        "conv_feature_layers": (
            lambda text: one_width([width for width, _, _ in parse_convolutions(text)]),
            lambda width: str([tuple(layer) for layer in conv_layers(width)]),
        ),
        "layer_norm_first": PRE_NORM,
    },
)
"""fairseq's settings of an encoder, and ours."""


@dataclass(frozen=True)
class Settings:
    """What ``cfg.model`` says about the network; the defaults are fairseq's."""

    extractor_mode: Literal["default", "layer_norm"] = "default"
    conv_feature_layers: str = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2"
    conv_bias: bool = False
    encoder_embed_dim: int = 768
    encoder_layers: int = 12
    encoder_attention_heads: int = 12
    encoder_ffn_embed_dim: int = 3072
    layer_norm_first: bool = False
    conv_pos: int = 128
    conv_pos_groups: int = 16
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    dropout_input: float = 0.0
    dropout_features: float = 0.0
    encoder_layerdrop: float = 0.0
    feature_grad_mult: float = 1.0
    final_dim: int = 0
    logit_temp: float = 0.1
    latent_vars: int = 320
    latent_groups: int = 2
    latent_dim: int = 0
    num_negatives: int = 100

    relative_position_embedding: bool = False
    gru_rel_pos: bool = False
    num_buckets: int = 320
    max_distance: int = 1280
    """The last four are WavLM's."""

    def encoder(self, normalize_waveform: bool) -> EncoderConfig:
        """Our configuration of the encoder. Raises ``ConfigError`` for sizes that do not fit."""
        relative = self.relative_position_embedding
        if relative != self.gru_rel_pos:
            raise ConfigError(
                f"gru_rel_pos is {self.gru_rel_pos} and relative_position_embedding {relative}; "
                "only both together have a counterpart."
            )
        config = _TABLE.encoder(vars(self), normalize_waveform, "settings")
        if config.frontend.channels == config.dim:
            raise ConfigError(
                f"conv_feature_layers and encoder_embed_dim are both {config.dim}; fairseq has no "
                "projection between them then, and here there always is one."
            )
        if not relative:
            return config
        return replace(
            config, relative_buckets=self.num_buckets, relative_distance=self.max_distance
        )

    @property
    def projection(self) -> int:
        """Size of the space in which context is compared with targets."""
        return self.final_dim if self.final_dim > 0 else self.encoder_embed_dim

    def contrastive(self) -> ContrastiveConfig:
        """Our configuration of wav2vec 2.0's objective. Raises ``ConfigError``."""
        return ContrastiveConfig(
            distractors=self.num_negatives,
            similarity_temperature=self.logit_temp,
            groups=self.latent_groups,
            entries=self.latent_vars,
            codeword_size=self.latent_dim if self.latent_dim > 0 else self.projection,
            projection_size=self.projection,
            quantizer_dropout=self.dropout_features,
        )

    def clusters(self) -> ClustersConfig:
        """Our configuration of HuBERT's objective. Raises ``ConfigError``."""
        return ClustersConfig(
            similarity_temperature=self.logit_temp, projection_size=self.projection
        )


def known_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a fairseq model that ``Settings`` has, where they are set."""
    names = {field.name for field in dataclasses.fields(Settings)}
    return {n: value for n, value in values.items() if n in names and value is not None}


def encoder_settings(config: EncoderConfig) -> dict[str, Any]:
    """fairseq's settings for an encoder: the inverse of ``Settings.encoder``."""
    return _TABLE.theirs(config)


def contrastive_settings(config: ContrastiveConfig) -> dict[str, Any]:
    """fairseq's settings for wav2vec 2.0's objective."""
    return {
        "quantize_targets": True,
        "final_dim": config.projection_size,
        "latent_dim": config.codeword_size,
        "latent_groups": config.groups,
        "latent_vars": config.entries,
        "logit_temp": config.similarity_temperature,
        "num_negatives": config.distractors,
        "dropout_features": config.quantizer_dropout,
    }


def clusters_settings(config: ClustersConfig) -> dict[str, Any]:
    """fairseq's settings for HuBERT's objective."""
    return {"final_dim": config.projection_size, "logit_temp": config.similarity_temperature}


def parse_convolutions(text: str) -> list[tuple[int, int, int]]:
    """The (width, kernel, stride) of each convolution, which fairseq writes as a Python expression
    such as ``[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2``; nothing is evaluated.

    Raises ``ConfigError`` where the kernels and strides are not those that both sides have.
    """
    try:
        layers = _sequence(ast.parse(text.strip(), mode="eval").body)
        shapes = [(kernel, stride) for _, kernel, stride in layers]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        shapes = []
    if shapes != list(zip(CONV_KERNELS, CONV_STRIDES)):
        raise ConfigError(
            f"conv_feature_layers is {text[:120]!r}; speechssl has kernels {list(CONV_KERNELS)} "
            f"with strides {list(CONV_STRIDES)}."
        )
    return [(int(width), kernel, stride) for width, kernel, stride in layers]


def _sequence(node: ast.expr) -> list[Any]:
    """The value of a list literal, of lists added, or of a list times a small number."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _sequence(node.left) + _sequence(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        times = int(ast.literal_eval(node.right))
        return _sequence(node.left) * min(times, len(CONV_KERNELS))
    value = ast.literal_eval(node)
    if not isinstance(value, list):
        raise ValueError
    return value
