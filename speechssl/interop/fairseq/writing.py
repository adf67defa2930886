"""From a model folder to a folder with fairseq's checkpoint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from speechssl.errors import CheckpointError, ConfigError
from speechssl.files import atomic_path
from speechssl.frames import FRAME_RATE, SAMPLE_RATE
from speechssl.interop.certificate import FILE as CERTIFICATE
from speechssl.interop.certificate import Certificate
from speechssl.interop.conversion import (
    Ours,
    load_ours,
    require_counterpart,
    to_theirs,
)
from speechssl.interop.fairseq.dictionary import (
    SPECIAL,
    from_tokens,
    to_tokens,
    write_dictionary,
)
from speechssl.interop.fairseq.layout import (
    CHECKPOINT,
    CTC_OVERRIDES,
    SETTINGS,
    clusters_settings,
    contrastive_settings,
    encoder_settings,
    renames,
)
from speechssl.interop.fairseq.parity import certify
from speechssl.interop.fairseq.reading import read_settings
from speechssl.interop.folders import new_folder
from speechssl.interop.weights import read_json
from speechssl.models.ctc import CTCModel
from speechssl.models.folder import LoadedModel
from speechssl.objectives.clusters import Clusters
from speechssl.objectives.contrastive import Contrastive

NEVER = -1e4
"""Bias of an output that must never win: its probability is 0 in float32."""


def export_fairseq(model_dir: Path, out: Path) -> tuple[Certificate, list[str]]:
    """Writes the folder ``out``: fairseq's checkpoint.pt and the dictionary that belongs to it.

    Returns the certificate and what the user should know about. Raises ``CheckpointError`` where
    the encoder has no counterpart, ``out`` exists, or torchaudio does not compute the same;
    ``ModelFolderError`` where ``model_dir`` is no sound model folder. Nothing is written then.
    """
    loaded, ours, notes = load_ours(model_dir, ("contrastive", "clusters"), "fairseq")
    cfg, symbols = _kept(loaded)
    if cfg is None:
        ours, symbols, more = _with_special_symbols(ours)
        notes += more
        cfg = _own_cfg(ours)
    if ours.tokens is not None and symbols is not None:
        _, ours.order = to_tokens(symbols, str(model_dir))
    _, task, settings, normalize, _ = read_settings(cfg, model_dir)
    try:
        require_counterpart(loaded, settings.encoder(normalize), "fairseq")
    except ConfigError as error:
        raise CheckpointError(f"{model_dir}: {error}") from None
    tensors = {name: value.contiguous() for name, value in to_theirs(ours, renames(task)).items()}
    certificate = certify(ours, settings, tensors)
    checkpoint = {
        "args": None,
        "cfg": cfg,
        "model": tensors,
        "task_state": {},
        "extra_state": {},
        "optimizer_history": [
            {"optimizer_name": "FairseqAdam", "lr_scheduler_state": {}, "num_updates": 0}
        ],
    }
    with new_folder(out) as folder:
        with atomic_path(folder / CHECKPOINT) as file:
            torch.save(checkpoint, file)
        if symbols is not None:
            name = f"dict.{_labels(cfg)}.txt"
            (folder / name).write_text(write_dictionary(symbols), encoding="utf-8")
        (folder / CERTIFICATE).write_text(certificate.to_json(), encoding="utf-8")
    return certificate, notes


def _kept(loaded: LoadedModel) -> tuple[dict[str, Any] | None, list[str] | None]:
    """The settings and symbols that the model was imported with, if they are still its own."""
    file = loaded.path / SETTINGS
    if not file.is_file():
        return None, None
    kept = read_json(file)
    cfg, symbols = kept.get("cfg"), kept.get("symbols")
    if loaded.tokens is not None and to_tokens(symbols or [""], str(file))[0] != loaded.tokens:
        return None, None
    return cfg, symbols


def _with_special_symbols(ours: Ours) -> tuple[Ours, list[str] | None, list[str]]:
    """A model that was made here, its symbols, and notes: fairseq's dictionaries begin with symbols
    of their own, for which the model gets outputs."""
    if isinstance(ours.model, CTCModel) and ours.tokens is not None:
        symbols = from_tokens(ours.tokens)
        tokens, order = to_tokens(symbols, "tokens.txt")
        model = CTCModel(ours.encoder, len(tokens))
        torch.nn.init.zeros_(model.head.weight)
        torch.nn.init.constant_(model.head.bias, NEVER)
        theirs = [0, *(symbols.index(symbol) for symbol in ours.tokens.symbols[1:])]
        places = [order.index(place) for place in theirs]
        with torch.no_grad():
            model.head.weight[places] = ours.model.head.weight
            model.head.bias[places] = ours.model.head.bias
        return Ours(model.eval(), ours.objective, tokens), symbols, []
    if not isinstance(ours.objective, Clusters):
        return ours, None, []
    config, learned = ours.objective.config, ours.objective.cluster_embeddings
    objective = Clusters(config, ours.encoder.config, len(SPECIAL) + len(learned))
    rows = torch.rand(
        len(SPECIAL), config.projection_size, generator=torch.Generator().manual_seed(0)
    )
    values = ours.objective.state_dict()
    objective.load_state_dict({**values, "cluster_embeddings": torch.cat([rows, learned.detach()])})
    note = (
        f"fairseq's labels begin with {len(SPECIAL)} symbols of its own: cluster k is class "
        f"k + {len(SPECIAL)} there"
    )
    symbols = [*SPECIAL, *map(str, range(len(learned)))]
    return Ours(ours.model, objective.eval()), symbols, [note]


def _own_cfg(ours: Ours) -> dict[str, Any]:
    """fairseq's settings for a model that was made here."""
    config = ours.encoder.config
    model = encoder_settings(config)
    task = {
        "_name": "audio_pretraining",
        "data": ".",
        "sample_rate": SAMPLE_RATE,
        "normalize": config.frontend.normalize_waveform,
    }
    hubert = {**task, "_name": "hubert_pretraining", "label_dir": ".", "labels": ["km"]}
    hubert["label_rate"] = FRAME_RATE
    if isinstance(ours.model, CTCModel):
        inner = {"model": {"_name": "wav2vec2", **model}, "task": task}
        outer = {
            "_name": "wav2vec_ctc",
            "w2v_path": "",
            "w2v_args": inner,
            "data": ".",
            "normalize": task["normalize"],
            **{name: model[inside] for name, inside in CTC_OVERRIDES.items()},
        }
        return {"model": outer, "task": {**task, "_name": "audio_finetuning", "labels": "ltr"}}
    if isinstance(ours.objective, Contrastive):
        heads = contrastive_settings(ours.objective.config)
        return {"model": {"_name": "wav2vec2", **model, **heads}, "task": task}
    heads = {}
    if isinstance(ours.objective, Clusters):
        heads = clusters_settings(ours.objective.config)
    return {
        "model": {"_name": "hubert", "label_rate": FRAME_RATE, **model, **heads},
        "task": hubert,
    }


def _labels(cfg: dict[str, Any]) -> str:
    """What the dictionary file is called after."""
    labels = cfg["task"].get("labels")
    name = labels[0] if isinstance(labels, list) and labels else labels
    return name if isinstance(name, str) and re.fullmatch(r"\w+", name) else "ltr"
