"""Small models of transformers with random weights, saved as their users save them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from torch import nn

from tests.models.reference import randomize

VOCABULARY = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAOIN'"]
"""In the order of facebook's CTC models."""

LAYOUTS = {
    "post": {},
    "pre": {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True},
    "stack": {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5},  # data2vec has only this
}

PLAIN = {"squeeze": 1, "convolution_kernel": 0}
"""Settings that make a plain transformer of our presets, as the other projects have it."""

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "num_codevectors_per_group": 5,
    "codevector_dim": 8,
    "proj_codevector_dim": 12,
    "num_negatives": 9,
    "num_buckets": 24,
    "max_bucket_distance": 30,
}


def layouts(architecture: str) -> list[str]:
    """The layouts that the class has."""
    return ["stack"] if architecture.startswith("Data2Vec") else ["post", "pre"]


def build(architecture: str, layout: str | None = None, **settings: object) -> nn.Module:
    """A transformers model of that class, its weights not those of a fresh one."""
    layout = layout or layouts(architecture)[0]
    kind = getattr(transformers, architecture)
    torch.manual_seed(0)
    config = kind.config_class(
        **{**SIZES, "vocab_size": len(VOCABULARY), **LAYOUTS[layout], **settings}
    )
    model = kind(config)
    randomize(model)
    for name, parameter in model.named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            parameter.data.mul_(8)  # in a fresh model all frames get the same attention
        if name.endswith("gru_rel_pos_const"):
            nn.init.uniform_(parameter, 0.5, 2.0)
    model.eval()
    if hasattr(model, "lm_head"):  # symbols take turns, in place of one everywhere
        with torch.no_grad():
            nn.init.normal_(model.lm_head.weight)
            model.lm_head.bias.sub_(model(torch.randn(1, 16_000)).logits.mean((0, 1)))
    return model


def filled(model: nn.Module) -> nn.Module:
    """A large model that was outlined on the meta device, with values: for its own initial weights
    it would take many seconds."""
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data.fill_(1.0) if parameter.dim() == 1 else parameter.data.uniform_(-0.1, 0.1)
    return model.eval()


def save(
    model: nn.Module,
    folder: Path,
    *,
    normalize: bool = True,
    symbols: list[str] | None = None,
    safe: bool = True,
    **tokenizer: object,
) -> Path:
    """Saves the model with preprocessor and, for CTC, tokenizer, all by transformers."""
    model.save_pretrained(folder, safe_serialization=safe)
    group_norm = getattr(model.config, "feat_extract_norm", "layer") == "group"
    extractor = transformers.Wav2Vec2FeatureExtractor(
        do_normalize=normalize, return_attention_mask=not group_norm
    )
    extractor.save_pretrained(folder)
    if hasattr(model, "lm_head"):
        vocabulary = folder.parent / f"{folder.name}-vocab.json"
        ids = {symbol: i for i, symbol in enumerate(symbols or VOCABULARY)}
        vocabulary.write_text(json.dumps(ids))
        transformers.Wav2Vec2CTCTokenizer(vocabulary, **tokenizer).save_pretrained(folder)
        vocabulary.unlink()
    return folder


def edit(file: Path, **changes: object) -> None:
    """Changes settings of a JSON file; None removes one."""
    values = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
