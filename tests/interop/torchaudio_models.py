"""Small networks of torchaudio with random weights, saved with what built them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torchaudio
from torch import nn

from speechssl.models.frontend import CONV_KERNELS, CONV_STRIDES
from tests.models.reference import randomize

LABELS = ["-", "|", *"ETAOIN'"]

SIZES: dict[str, Any] = {
    "extractor_conv_layer_config": [[16, k, s] for k, s in zip(CONV_KERNELS, CONV_STRIDES)],
    "encoder_embed_dim": 32,
    "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 8,
    "encoder_pos_conv_groups": 2,
    "encoder_num_layers": 2,
    "encoder_num_heads": 2,
    "encoder_attention_dropout": 0.2,
    "encoder_ff_interm_features": 48,
    "encoder_ff_interm_dropout": 0.15,
    "encoder_dropout": 0.05,
    "encoder_layer_drop": 0.01,
}
LAYOUTS = {
    "post": {
        "extractor_mode": "group_norm",
        "extractor_conv_bias": False,
        "encoder_layer_norm_first": False,
    },
    "pre": {
        "extractor_mode": "layer_norm",
        "extractor_conv_bias": True,
        "encoder_layer_norm_first": True,
    },
}
EXTRA: dict[str, dict[str, Any]] = {
    "wav2vec2_model": {"aux_num_out": None},
    "wavlm_model": {"aux_num_out": None, "encoder_num_buckets": 24, "encoder_max_distance": 30},
    "hubert_pretrain_model": {
        "mask_prob": 0.7,
        "mask_selection": "static",
        "mask_other": 0.0,
        "mask_length": 5,
        "no_mask_overlap": False,
        "mask_min_space": 1,
        "mask_channel_prob": 0.0,
        "mask_channel_selection": "static",
        "mask_channel_other": 0.0,
        "mask_channel_length": 10,
        "no_mask_channel_overlap": False,
        "mask_channel_min_space": 1,
        "skip_masked": False,
        "skip_nomask": False,
        "num_classes": 7,
        "final_dim": 12,
        "feature_grad_mult": 0.1,
    },
}


def build(factory: str, layout: str = "post", **changes: Any) -> tuple[nn.Module, dict[str, Any]]:
    """A small network whose weights are not those of a fresh one, and torchaudio.json."""
    arguments = {**SIZES, **LAYOUTS[layout], **EXTRA[factory], **changes}
    torch.manual_seed(0)
    model = getattr(torchaudio.models, factory)(**arguments)
    randomize(model)
    for name, parameter in model.named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            parameter.data.mul_(8)  # in a fresh model all frames get the same attention
        if name.endswith("gru_rel_pos_const"):
            nn.init.uniform_(parameter, 0.5, 2.0)
        if name.startswith("aux."):
            nn.init.normal_(parameter)
    description = {"factory": factory, "arguments": arguments}
    if arguments.get("aux_num_out"):
        description["labels"] = LABELS
    return model.eval(), description


def save(model: nn.Module, folder: Path, description: dict[str, Any], **changes: Any) -> Path:
    folder.mkdir()
    torch.save(model.state_dict(), folder / "weights.pth")
    (folder / "torchaudio.json").write_text(json.dumps({**description, **changes}))
    return folder
