"""What fairseq2 calls the settings and the tensors of a model that both sides have."""

from __future__ import annotations

from typing import Any, Literal

from fairseq2.models.transformer import TransformerNormOrder
from fairseq2.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2EncoderConfig

from speechssl.errors import ConfigError
from speechssl.interop.conversion import Renames
from speechssl.models.encoder import EncoderConfig
from speechssl.models.frontend import CONV_KERNELS, CONV_STRIDES, FrontendConfig
from speechssl.objectives.contrastive import ContrastiveConfig

Family = Literal["wav2vec2", "wav2vec2_asr"]

CARD, WEIGHTS, TOKENS = "card.yaml", "model.safetensors", "tokens.txt"
KEPT = "fairseq2/card.json"
"""In an imported model folder: the settings and symbols that it came with."""

UPDATES = "quantizer.num_updates"
"""A count among fairseq2's tensors, for its temperature."""

FIXED: dict[str, Any] = {
    "use_fbank": False,
    "pos_encoder_type": "conv",
    "pos_encoder_depth": 1,
    "use_conformer": False,
}
"""Settings of the encoder that have a single value here."""


def renames(family: Family, norm: Literal["pre", "post"]) -> Renames:
    """From the names in a model folder to fairseq2's."""
    frontend, layer = "encoder_frontend.", r"encoder.layers.\1."
    encoder = (
        (r"frontend\.layers\.(\d+)\.norm\.", rf"{frontend}feature_extractor.layers.\1.layer_norm."),
        (r"frontend\.layers\.(\d+)\.", rf"{frontend}feature_extractor.layers.\1.conv."),
        (r"frontend\.group_norm\.", rf"{frontend}feature_extractor.layers.0.group_norm."),
        (r"feature_norm\.", rf"{frontend}post_extract_layer_norm."),
        (r"projection\.", rf"{frontend}model_dim_proj."),
        (r"mask_embedding$", r"masker.temporal_mask_embed"),
        (r"position\.scale$", rf"{frontend}pos_encoder.conv.weight_g"),
        (r"position\.direction$", rf"{frontend}pos_encoder.conv.weight_v"),
        (r"position\.bias$", rf"{frontend}pos_encoder.conv.bias"),
        (r"norm\.", "encoder.layer_norm." if norm == "pre" else f"{frontend}layer_norm."),
        (r"layers\.(\d+)\.attention_norm\.", f"{layer}self_attn_layer_norm."),
        (r"layers\.(\d+)\.feed_forward_norm\.", f"{layer}ffn_layer_norm."),
        (r"layers\.(\d+)\.attention\.query\.", f"{layer}self_attn.q_proj."),
        (r"layers\.(\d+)\.attention\.key\.", f"{layer}self_attn.k_proj."),
        (r"layers\.(\d+)\.attention\.value\.", f"{layer}self_attn.v_proj."),
        (r"layers\.(\d+)\.attention\.out\.", f"{layer}self_attn.output_proj."),
        (r"layers\.(\d+)\.feed_forward\.expand\.", f"{layer}ffn.inner_proj."),
        (r"layers\.(\d+)\.feed_forward\.contract\.", f"{layer}ffn.output_proj."),
    )
    return (
        (r"head\.", "final_proj."),
        (r"objective\.quantizer\.logits\.", "quantizer.entry_proj."),
        (r"objective\.quantizer\.codebooks$", "quantizer.entries"),
        (r"objective\.project_context\.", "final_proj."),
        (r"objective\.project_target\.", "final_target_proj."),
        *((rf"encoder\.{ours}", theirs) for ours, theirs in encoder),
    )


def encoder_config(theirs: Wav2Vec2EncoderConfig, normalize_waveform: bool) -> EncoderConfig:
    """Our configuration of the encoder. Raises ``ConfigError`` for what has no counterpart."""
    for name, only in FIXED.items():
        if getattr(theirs, name) != only:
            raise ConfigError(
                f"{name} is {getattr(theirs, name)!r}; only {only!r} has a counterpart."
            )
    post = theirs.norm_order == TransformerNormOrder.POST
    if theirs.layer_norm_features != post:
        raise ConfigError(
            f"layer_norm_features is {theirs.layer_norm_features} with norm_order "
            f"{theirs.norm_order.name}; here the norm before the layers belongs to POST."
        )
    shapes = [(kernel, stride) for _, kernel, stride in theirs.feature_extractor_layer_descs]
    widths = {width for width, _, _ in theirs.feature_extractor_layer_descs}
    if shapes != list(zip(CONV_KERNELS, CONV_STRIDES)) or widths != {theirs.feature_dim}:
        raise ConfigError(
            f"feature_extractor_layer_descs is {theirs.feature_extractor_layer_descs}; speechssl "
            f"has kernels {list(CONV_KERNELS)} with strides {list(CONV_STRIDES)} of one width."
        )
    if theirs.feature_dim == theirs.model_dim:
        raise ConfigError(
            f"feature_dim and model_dim are both {theirs.model_dim}; fairseq2 has no projection "
            "between them then, and here there always is one."
        )
    return EncoderConfig(
        frontend=FrontendConfig(
            channels=theirs.feature_dim,
            norm="layer" if theirs.feature_extractor_layer_norm_convs else "group",
            bias=theirs.feature_extractor_bias,
            normalize_waveform=normalize_waveform,
        ),
        dim=theirs.model_dim,
        layers=theirs.num_encoder_layers,
        heads=theirs.num_encoder_attn_heads,
        ffn_dim=theirs.ffn_inner_dim,
        norm="post" if post else "pre",
        position_kernel=theirs.pos_conv_kernel_size,
        position_groups=theirs.num_pos_conv_groups,
        dropout=theirs.dropout_p,
        attention_dropout=theirs.attn_dropout_p,
        activation_dropout=theirs.ffn_inner_dropout_p,
        input_dropout=theirs.first_pass_dropout_p,
        layer_drop=theirs.layer_drop_p,
        frontend_gradient=theirs.feature_grad_scale,
    )


def their_encoder_config(ours: EncoderConfig) -> Wav2Vec2EncoderConfig:
    """The inverse of ``encoder_config``, as far as fairseq2 has words for it."""
    width = ours.frontend.channels
    return Wav2Vec2EncoderConfig(
        model_dim=ours.dim,
        feature_dim=width,
        first_pass_dropout_p=ours.input_dropout,
        layer_norm_features=ours.norm == "post",
        feature_extractor_layer_descs=[
            (width, kernel, stride) for kernel, stride in zip(CONV_KERNELS, CONV_STRIDES)
        ],
        feature_extractor_bias=ours.frontend.bias,
        feature_extractor_layer_norm_convs=ours.frontend.norm == "layer",
        feature_grad_scale=ours.frontend_gradient or 1.0,  # there, recipes freeze a frontend
        pos_conv_kernel_size=ours.position_kernel,
        num_pos_conv_groups=ours.position_groups,
        num_encoder_layers=ours.layers,
        num_encoder_attn_heads=ours.heads,
        ffn_inner_dim=ours.ffn_dim,
        dropout_p=ours.dropout,
        attn_dropout_p=ours.attention_dropout,
        ffn_inner_dropout_p=ours.activation_dropout,
        layer_drop_p=ours.layer_drop,
        norm_order=TransformerNormOrder.POST if ours.norm == "post" else TransformerNormOrder.PRE,
    )


def contrastive_config(theirs: Wav2Vec2Config) -> ContrastiveConfig:
    """Our configuration of the objective. Raises ``ConfigError`` for a value out of range."""
    if not theirs.final_proj_bias:
        raise ConfigError("final_proj_bias is False; only True has a counterpart.")
    start, end, _ = theirs.codebook_sampling_temperature
    return ContrastiveConfig(
        distractors=theirs.num_distractors,
        similarity_temperature=theirs.logit_temp,
        groups=theirs.num_codebooks,
        entries=theirs.num_codebook_entries,
        codeword_size=theirs.quantized_dim,
        projection_size=theirs.final_dim,
        quantizer_dropout=theirs.encoder_config.first_pass_dropout_p,
        temperature_start=start,
        temperature_end=end,
    )


def their_contrastive_config(ours: ContrastiveConfig, encoder: EncoderConfig) -> Wav2Vec2Config:
    """The inverse of ``contrastive_config``; what decays, decays as in fairseq2's own models."""
    decay = Wav2Vec2Config().codebook_sampling_temperature[2]
    return Wav2Vec2Config(
        encoder_config=their_encoder_config(encoder),
        final_dim=ours.projection_size,
        quantized_dim=ours.codeword_size,
        num_codebooks=ours.groups,
        num_codebook_entries=ours.entries,
        codebook_sampling_temperature=(ours.temperature_start, ours.temperature_end, decay),
        num_distractors=ours.distractors,
        logit_temp=ours.similarity_temperature,
        temporal_mask_span_len=ours.mask.span,
        max_temporal_mask_prob=ours.mask.probability,
    )
