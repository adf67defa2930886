"""Weights from other projects' models, by renaming, to check the encoder against them."""

from __future__ import annotations

import re

import torch
from torch import nn

from speechssl.models.encoder import Encoder

RENAMES = [
    (r"^feature_extractor\.conv_layers\.(\d+)\.conv\.", r"frontend.layers.\1."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.layer_norm\.", r"frontend.layers.\1.norm."),
    (r"^feature_projection\.layer_norm\.", "feature_norm."),
    (r"^feature_projection\.projection\.", "projection."),
    (r"^masked_spec_embed$", "mask_embedding"),
    (r"^encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original0$", "position.scale"),
    (r"^encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original1$", "position.direction"),
    (r"^encoder\.pos_conv_embed\.conv\.bias$", "position.bias"),
    (r"^encoder\.layer_norm\.", "norm."),
    (r"^encoder\.(layers\.\d+)\.layer_norm\.", r"\1.attention_norm."),
    (r"^encoder\.(layers\.\d+)\.final_layer_norm\.", r"\1.feed_forward_norm."),
    (r"^encoder\.(layers\.\d+)\.attention\.q_proj\.", r"\1.attention.query."),
    (r"^encoder\.(layers\.\d+)\.attention\.k_proj\.", r"\1.attention.key."),
    (r"^encoder\.(layers\.\d+)\.attention\.v_proj\.", r"\1.attention.value."),
    (r"^encoder\.(layers\.\d+)\.attention\.out_proj\.", r"\1.attention.out."),
    (r"^encoder\.(layers\.\d+)\.feed_forward\.intermediate_dense\.", r"\1.feed_forward.expand."),
    (r"^encoder\.(layers\.\d+)\.feed_forward\.output_dense\.", r"\1.feed_forward.contract."),
]
"""From names in transformers' Wav2Vec2Model (and HubertModel) to ours."""


def copy_from_transformers(model: nn.Module, encoder: Encoder) -> None:
    """Copies every weight of a transformers ``Wav2Vec2Model`` or ``HubertModel``; none may be left
    over on either side, except a mask embedding that the model was built without."""
    weights = {_rename(name): value for name, value in model.state_dict().items()}
    if encoder.config.frontend.norm == "group":
        for part in ("weight", "bias"):
            weights[f"frontend.group_norm.{part}"] = weights.pop(f"frontend.layers.0.norm.{part}")
    weights.setdefault("mask_embedding", encoder.mask_embedding.detach())
    encoder.load_state_dict(weights)


def copy_from_torchaudio(model: nn.Module, encoder: Encoder) -> None:
    """The same from a torchaudio ``Wav2Vec2Model`` (its HuBERT for pretraining holds one)."""
    weights = {}
    for name, value in model.state_dict().items():
        name = re.sub(r"^encoder\.feature_projection\.", "feature_projection.", name)
        weights[re.sub(r"^encoder\.transformer\.", "encoder.", name)] = value
    copy_from_transformers(_Weights(weights), encoder)


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Gives every parameter values that are not those of a fresh model (whose biases are zero and
    whose norms do nothing), small enough to keep the network well conditioned."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.1 * noise if parameter.dim() == 1 else 0.3 * parameter.std() * noise)


class _Weights(nn.Module):
    """Some tensors with the face of a module."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.weights = weights

    def state_dict(self) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return self.weights


def _rename(name: str) -> str:
    for pattern, ours in RENAMES:
        name, count = re.subn(pattern, ours, name)
        if count:
            return name
    raise AssertionError(f"{name} has no counterpart")
