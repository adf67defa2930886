"""fairseq's checkpoint files, written from transformers' models: names, settings, classes.

The objects in them (``argparse.Namespace``, omegaconf's configurations, fairseq's dictionary) are
pickled under the names of the real classes, as fairseq's trainer leaves them.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "|", *"ETAOIN'"]
"""In the order of fairseq's dict.ltr.txt."""

NAMES = {
    "feature_projection.layer_norm": "layer_norm",
    "feature_projection.projection": "post_extract_proj",
    "encoder.pos_conv_embed.conv.parametrizations.weight.original0": "encoder.pos_conv.0.weight_g",
    "encoder.pos_conv_embed.conv.parametrizations.weight.original1": "encoder.pos_conv.0.weight_v",
    "encoder.pos_conv_embed.conv.bias": "encoder.pos_conv.0.bias",
    "attention.k_proj": "self_attn.k_proj",
    "attention.v_proj": "self_attn.v_proj",
    "attention.q_proj": "self_attn.q_proj",
    "attention.out_proj": "self_attn.out_proj",
    "attention.gru_rel_pos_const": "self_attn.grep_a",
    "attention.gru_rel_pos_linear": "self_attn.grep_linear",
    "attention.rel_attn_embed": "self_attn.relative_attention_bias",
    "feed_forward.intermediate_dense": "fc1",
    "feed_forward.output_dense": "fc2",
    "masked_spec_embed": "mask_emb",
    "quantizer.codevectors": "quantizer.vars",
    "project_hid": "final_proj",
}
"""From parts of transformers' names to fairseq's."""


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a transformers model by fairseq's names."""
    layered = model.config.feat_extract_norm == "layer"
    ctc = hasattr(model, "lm_head")
    found = {}
    for name, value in model.state_dict().items():
        if name.startswith("lm_head."):
            found[name.replace("lm_head.", "w2v_encoder.proj.")] = value
            continue
        name = name.removeprefix("wav2vec2.").removeprefix("hubert.")
        if name.startswith("feature_extractor.conv_layers."):
            name = name.replace(".conv.", ".0.")
            name = name.replace(".layer_norm.", ".2.1." if layered else ".2.")
        elif name.startswith("encoder.layers."):
            name = name.replace(".layer_norm.", ".self_attn_layer_norm.")
        for theirs, fairseq in NAMES.items():
            name = name.replace(theirs, fairseq)
        found["w2v_encoder.w2v_model." * ctc + name] = value
    return found


def settings_of(model: nn.Module) -> dict[str, Any]:
    """fairseq's settings of the encoder in a transformers model."""
    config = model.config
    width = config.conv_dim[0]
    return {
        "_name": "hubert" if config.model_type == "hubert" else "wav2vec2",
        "extractor_mode": "layer_norm" if config.feat_extract_norm == "layer" else "default",
        "conv_feature_layers": f"[({width}, 10, 5)] + [({width}, 3, 2)] * 4 + [({width},2,2)] * 2",
        "conv_bias": config.conv_bias,
        "encoder_embed_dim": config.hidden_size,
        "encoder_layers": config.num_hidden_layers,
        "encoder_attention_heads": config.num_attention_heads,
        "encoder_ffn_embed_dim": config.intermediate_size,
        "layer_norm_first": config.do_stable_layer_norm,
        "conv_pos": config.num_conv_pos_embeddings,
        "conv_pos_groups": config.num_conv_pos_embedding_groups,
        "dropout_features": 0.1,
        "feature_grad_mult": 0.1,
        "final_dim": getattr(config, "proj_codevector_dim", 12),
        "latent_dim": getattr(config, "codevector_dim", 0),
        "latent_vars": getattr(config, "num_codevectors_per_group", 320),
        "latent_groups": getattr(config, "num_codevector_groups", 2),
        "num_negatives": getattr(config, "num_negatives", 100),
        "latent_temp": [2.0, 0.5, 0.999995],
        "activation_fn": "gelu",
        "quantize_targets": True,
    }


def checkpoint_of(
    model: nn.Module, heads: dict[str, Tensor] | None = None, *, normalize: bool = True
) -> dict[str, Any]:
    """What fairseq's trainer saves of a model, with the settings as plain containers."""
    encoder = settings_of(model)
    task = {
        "_name": "audio_pretraining",
        "normalize": normalize,
        "sample_rate": 16_000,
        "data": "/corpus",
    }
    cfg: dict[str, Any] = {"model": encoder, "task": task, "common": {"fp16": True, "seed": 1}}
    if hasattr(model, "lm_head"):
        name = "hubert_ctc" if encoder["_name"] == "hubert" else "wav2vec_ctc"
        inner = {"model": encoder, "task": task}
        outer = {"_name": name, "w2v_args": inner, "layerdrop": 0.05, "activation_dropout": 0.2}
        cfg |= {"model": outer, "task": {**task, "_name": "audio_finetuning", "labels": "ltr"}}
    return {
        "args": None,
        "cfg": cfg,
        "model": {**tensors_of(model), **(heads or {})},
        "task_state": {},
        "criterion": None,
        "optimizer_history": [{"optimizer_name": "FairseqAdam", "num_updates": 4}],
        "extra_state": {"epoch": 1, "metrics": {}},
        "last_optimizer_state": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []},
    }


def save(checkpoint: dict[str, Any], file: Path, *, dictionary: bool = True, **how: Any) -> Path:
    """Saves a checkpoint, with dict.ltr.txt beside it."""
    with foreign_modules():
        torch.save(checkpoint, file, **how)
    if dictionary:
        lines = "".join(f"{symbol} {1000 - i}\n" for i, symbol in enumerate(SYMBOLS[4:]))
        (file.parent / "dict.ltr.txt").write_text(lines)
    return file


class ContainerMetadata:
    pass


class AnyNode:
    def __init__(self, value: object) -> None:
        self._val, self._parent, self._metadata = value, None, ContainerMetadata()


class DictConfig:
    def __init__(self, values: dict[str, Any]) -> None:
        self._content = {name: omega(value) for name, value in values.items()}
        for node in self._content.values():
            node._parent = self
        self._parent, self._metadata = None, ContainerMetadata()
        self._metadata.__dict__.update(object_type=dict, ref_type=Any, flags={"struct": True})


class ListConfig(DictConfig):
    def __init__(self, values: list[Any]) -> None:
        super().__init__({})
        self._content = [omega(value) for value in values]


class Dictionary:
    def __init__(self, symbols: list[str]) -> None:
        self.symbols, self.count = symbols, [1] * len(symbols)
        self.indices = {symbol: i for i, symbol in enumerate(symbols)}
        self.bos_word, self.pad_word = "<s>", "<pad>"


class Choice(str, enum.Enum):
    LAYER_NORM = "layer_norm"
    DEFAULT = "default"


def omega(value: Any) -> Any:
    """``value`` as omegaconf keeps it."""
    if isinstance(value, dict):
        return DictConfig(value)
    return ListConfig(value) if isinstance(value, list) else AnyNode(value)


def namespace(values: dict[str, Any]) -> argparse.Namespace:
    """Settings as fairseq kept them before it had omegaconf."""
    model = {name: value for name, value in values["model"].items() if name != "_name"}
    if "w2v_args" in model:
        model["w2v_args"] = namespace(model["w2v_args"])
    return argparse.Namespace(**values["task"], **model, arch=values["model"]["_name"])


REAL_NAMES = {
    DictConfig: "omegaconf.dictconfig",
    ListConfig: "omegaconf.listconfig",
    AnyNode: "omegaconf.nodes",
    ContainerMetadata: "omegaconf.base",
    Dictionary: "fairseq.data.dictionary",
    Choice: "fairseq.dataclass.constants",
}


@contextlib.contextmanager
def foreign_modules() -> Iterator[None]:
    """Inside, the classes above are found under the names of the real ones."""
    own = {kind: kind.__module__ for kind in REAL_NAMES}
    for kind, module in REAL_NAMES.items():
        kind.__module__ = module
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            sys.modules.setdefault(name, types.ModuleType(name))
        setattr(sys.modules[module], kind.__name__, kind)
    try:
        yield
    finally:
        for kind, module in own.items():
            kind.__module__ = module
        for name in list(sys.modules):
            if name.split(".")[0] in ("omegaconf", "fairseq"):
                del sys.modules[name]
