"""What torchaudio calls the settings and the tensors of a model that both sides have.

All its factories end in one of three functions (``FACTORIES``). Which arguments those got is read
off the network that a factory built, so that presets and a user's own networks are alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from speechssl.interop.conversion import Renames
from speechssl.interop.settings import PRE_NORM, SettingsTable, conv_layers, one_width
from speechssl.interop.transformers.layout import encoder_names
from speechssl.objectives.clusters import ClustersConfig, ClustersMaskConfig

_WAV2VEC2 = {
    "extractor_mode": "frontend.norm",
    "extractor_conv_layer_config": "frontend.channels",
    "extractor_conv_bias": "frontend.bias",
    "encoder_embed_dim": "dim",
    "encoder_projection_dropout": "input_dropout",
    "encoder_pos_conv_kernel": "position_kernel",
    "encoder_pos_conv_groups": "position_groups",
    "encoder_num_layers": "layers",
    "encoder_num_heads": "heads",
    "encoder_attention_dropout": "attention_dropout",
    "encoder_ff_interm_features": "ffn_dim",
    "encoder_ff_interm_dropout": "activation_dropout",
    "encoder_dropout": "dropout",
    "encoder_layer_norm_first": "norm",
    "encoder_layer_drop": "layer_drop",
}
_WAVLM = {
    **_WAV2VEC2,
    "encoder_num_buckets": "relative_buckets",
    "encoder_max_distance": "relative_distance",
}
_PRETRAIN = {**_WAV2VEC2, "feature_grad_mult": "frontend_gradient"}

_FORMS = {
    "extractor_mode": (lambda mode: mode.removesuffix("_norm"), lambda norm: f"{norm}_norm"),
    "extractor_conv_layer_config": (
        lambda layers: one_width([width for width, _, _ in layers]),
        conv_layers,
    ),
    "encoder_layer_norm_first": PRE_NORM,
    "feature_grad_mult": (
        lambda factor: 1.0 if factor is None else factor,
        lambda factor: factor if 0.0 < factor < 1.0 else None,
    ),
}

WAV2VEC2, WAVLM, PRETRAIN = "wav2vec2_model", "wavlm_model", "hubert_pretrain_model"

FACTORIES = {
    WAV2VEC2: SettingsTable(_WAV2VEC2, forms=_FORMS),
    WAVLM: SettingsTable(_WAVLM, forms=_FORMS),
    PRETRAIN: SettingsTable(_PRETRAIN, forms=_FORMS),
}
"""torchaudio's functions that build a network of any size, and their arguments."""

UNCHANGED_MASKS: dict[str, Any] = {
    "mask_selection": "static",
    "mask_other": 0.0,
    "no_mask_overlap": False,
    "mask_min_space": 1,
    "mask_channel_prob": 0.0,
    "mask_channel_selection": "static",
    "mask_channel_other": 0.0,
    "mask_channel_length": 10,
    "no_mask_channel_overlap": False,
    "mask_channel_min_space": 1,
}
"""Arguments of ``hubert_pretrain_model`` for masks as they are here: spans of one length."""


def renames(factory: str) -> Renames:
    """From the names in a model folder to those of the network that ``factory`` builds."""
    pretrain = factory == PRETRAIN
    prefix = "wav2vec2." if pretrain else ""
    attention = rf"{prefix}encoder.transformer.layers.\1.attention.attention."
    joined = (
        (r"encoder\.layers\.(\d+)\.attention\.(?:query|key|value)\.", rf"{attention}in_proj_"),
        (r"encoder\.layers\.(\d+)\.attention\.out\.", rf"{attention}out_proj."),
    )
    return (
        (r"encoder\.mask_embedding$", "mask_generator.mask_embedding" if pretrain else ""),
        (r"head\.", "aux."),
        (r"objective\.project_context\.", "logit_generator.final_proj."),
        (r"objective\.cluster_embeddings$", "logit_generator.label_embeddings"),
        *(joined if factory == WAVLM else ()),
        *encoder_names("encoder.feature_projection.", "encoder.transformer.", prefix),
    )


def read_arguments(network: Any) -> tuple[str, dict[str, Any]]:
    """The name in ``FACTORIES``, and the arguments of it, that give this network."""
    body = getattr(network, "wav2vec2", network)
    convolutions = body.feature_extractor.conv_layers
    transformer, layer = body.encoder.transformer, body.encoder.transformer.layers[0]
    position, group = transformer.pos_conv_embed, convolutions[0].layer_norm
    arguments = {
        "extractor_mode": "group_norm" if isinstance(group, nn.GroupNorm) else "layer_norm",
        "extractor_conv_layer_config": [
            [c.conv.out_channels, c.kernel_size, c.stride] for c in convolutions
        ],
        "extractor_conv_bias": convolutions[0].conv.bias is not None,
        "encoder_embed_dim": position.embed_dim,
        "encoder_projection_dropout": body.encoder.feature_projection.dropout.p,
        "encoder_pos_conv_kernel": position.kernel_size,
        "encoder_pos_conv_groups": position.conv.groups,
        "encoder_num_layers": len(transformer.layers),
        "encoder_num_heads": layer.attention.num_heads,
        "encoder_attention_dropout": layer.attention.dropout,
        "encoder_ff_interm_features": layer.feed_forward.intermediate_dense.out_features,
        "encoder_ff_interm_dropout": layer.feed_forward.intermediate_dropout.p,
        "encoder_dropout": layer.dropout.p,
        "encoder_layer_norm_first": layer.layer_norm_first,
        "encoder_layer_drop": transformer.layer_drop,
    }
    if body is not network:
        return PRETRAIN, arguments | _pretrain_arguments(network)
    arguments["aux_num_out"] = None if body.aux is None else body.aux.out_features
    if hasattr(layer.attention, "num_buckets"):
        arguments["encoder_num_buckets"] = layer.attention.num_buckets
        arguments["encoder_max_distance"] = layer.attention.max_distance
        return WAVLM, arguments
    return WAV2VEC2, arguments


def _pretrain_arguments(network: Any) -> dict[str, Any]:
    """What ``hubert_pretrain_model`` has beyond the encoder."""
    masks, heads = network.mask_generator, network.logit_generator
    names = ("mask_prob", "mask_length", *UNCHANGED_MASKS)
    return {
        **{name: getattr(masks, name) for name in names},
        "skip_masked": heads.skip_masked,
        "skip_nomask": heads.skip_nomask,
        "num_classes": len(heads.label_embeddings),
        "final_dim": heads.final_proj.out_features,
        "feature_grad_mult": network.feature_grad_mult,
    }


def clusters_config(arguments: Mapping[str, Any]) -> ClustersConfig:
    """Our configuration of the objective. Raises ``ConfigError`` for a value out of range."""
    return ClustersConfig(
        mask=ClustersMaskConfig(probability=arguments["mask_prob"], span=arguments["mask_length"]),
        projection_size=arguments["final_dim"],
    )


def clusters_arguments(config: ClustersConfig, clusters: int) -> dict[str, Any]:
    """torchaudio's arguments for the objective: the inverse of ``clusters_config``."""
    return {
        **UNCHANGED_MASKS,
        "mask_prob": config.mask.probability,
        "mask_length": config.mask.span,
        "skip_masked": False,
        "skip_nomask": config.unmasked_weight == 0,
        "num_classes": clusters,
        "final_dim": config.projection_size,
    }
