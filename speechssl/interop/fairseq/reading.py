"""From a checkpoint file of fairseq to a model folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechssl.config import build
from speechssl.data.text import Tokens
from speechssl.errors import CheckpointError, ConfigError
from speechssl.frames import SAMPLE_RATE
from speechssl.interop.certificate import Certificate
from speechssl.interop.conversion import Ours, fill_from_theirs
from speechssl.interop.fairseq.dictionary import read_dictionary, symbols_of, to_tokens
from speechssl.interop.fairseq.layout import (
    ARCHITECTURES,
    CTC_OVERRIDES,
    FIXED,
    OTHER_LOSS,
    SETTINGS,
    Settings,
    Task,
    known_settings,
    renames,
)
from speechssl.interop.fairseq.parity import certify
from speechssl.interop.folders import write_imported
from speechssl.interop.pickles import plain, read_checkpoint
from speechssl.interop.weights import checked_tensors
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder
from speechssl.objectives.clusters import Clusters
from speechssl.objectives.contrastive import Contrastive


def import_fairseq(source: Path, model_dir: Path) -> tuple[Certificate, list[str]]:
    """Writes the model folder ``model_dir`` from the checkpoint file ``source``.

    Returns the certificate and what the user should know about. Raises ``CheckpointError`` where
    the file is damaged, asks to run code, has no counterpart, or does not compute the same after
    conversion; ``RunFolderError`` where ``model_dir`` is something else. Nothing is written then.
    """
    checkpoint = read_checkpoint(source)
    told = _plain_parts(checkpoint, source)
    cfg = _read_cfg(told, source)
    architecture, task, settings, normalize, notes = read_settings(cfg, source)
    tensors = checked_tensors(checkpoint.get("model"), source)
    symbols = _symbols(told, cfg, task, source)
    tokens, order = None, None
    if task == "ctc":
        tokens, order = to_tokens(symbols or [""], str(source))
    ours = _outline(architecture, settings, normalize, tokens, tensors, source)
    ours.order = order
    notes += fill_from_theirs(ours, renames(task), tensors, str(source), "the settings in it")
    certificate = certify(ours, settings, tensors)
    kept = {"cfg": cfg, "symbols": symbols}
    texts = {SETTINGS: json.dumps(kept, indent=2, ensure_ascii=False) + "\n"}
    write_imported(
        model_dir,
        ours,
        certificate,
        project="fairseq",
        source=str(source),
        architecture=architecture,
        files=[source],
        kept={} if architecture == "wavlm" else texts,  # fairseq could not read it again
    )
    return certificate, notes


def _plain_parts(checkpoint: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """What a checkpoint says of its weights, as plain values."""
    try:
        return {name: plain(checkpoint.get(name)) for name in ("cfg", "args", "task_state")}
    except RecursionError:
        raise CheckpointError(f"{source}: its settings contain themselves.") from None


def _read_cfg(told: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """The settings: ``model`` and ``task`` at least."""
    for name in ("cfg", "args"):
        if isinstance(told[name], dict):
            return _sections(told[name])
    raise CheckpointError(
        f"{source}: holds no settings (cfg or args), so it is no checkpoint of fairseq's trainer."
    )


def read_settings(
    cfg: Mapping[str, Any], source: Path
) -> tuple[str, Task, Settings, bool, list[str]]:
    """fairseq's name of the model, what it is for, its settings, whether it takes normalised
    waveforms, and notes. Raises ``CheckpointError`` for what has no counterpart."""
    architecture = cfg["model"].get("_name")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise CheckpointError(f"{source}: holds model {architecture!r}; supported are {known}.")
    encoder_name, task = ARCHITECTURES[architecture]
    model, inner = cfg["model"], cfg
    if task == "ctc":
        if not isinstance(model.get("w2v_args"), dict):
            raise CheckpointError(
                f"{source}: has no w2v_args, the settings of the encoder that was fine-tuned; save "
                "it again with a fairseq that keeps them (0.10 or later)."
            )
        inner = _sections(model["w2v_args"])
        if inner["model"].get("_name") != encoder_name:
            raise CheckpointError(
                f"{source}: {architecture} of {inner['model'].get('_name')!r}; only "
                f"{encoder_name!r} has a counterpart."
            )
        overrides = {
            theirs: model[name]
            for name, theirs in CTC_OVERRIDES.items()
            if model.get(name) is not None
        }
        model = {**inner["model"], **overrides, "blank_weight": model.get("blank_weight")}
    for name, only in FIXED.items():
        if model.get(name) not in (None, only):
            raise CheckpointError(
                f"{source}: {name} is {model[name]!r}; only {only!r} has a counterpart."
            )
    rate = inner["task"].get("sample_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise CheckpointError(f"{source}: sample_rate is {rate}; only {SAMPLE_RATE} is possible.")
    labels = inner["task"].get("labels")
    if architecture == "hubert" and isinstance(labels, list) and len(labels) > 1:
        raise CheckpointError(
            f"{source}: predicts {len(labels)} sets of labels at once; only one has a counterpart."
        )
    notes = [
        f"it was trained with {name}={model[name]}, which the loss here does not have"
        for name in OTHER_LOSS
        if model.get(name) and task == "pretraining"
    ]
    settings = build(Settings, known_settings(model), str(source))
    return architecture, task, settings, bool(inner["task"].get("normalize")), notes


def _sections(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with a section for the model and one for the task, each with its ``_name``; older
    fairseq, and WavLM, kept all in one."""
    if isinstance(values.get("model"), dict):
        model, task = values["model"], values.get("task")
        named = {"_name": model.get("arch"), **model}
        return {**values, "model": named, "task": task if isinstance(task, dict) else {}}
    name = "wavlm" if "relative_position_embedding" in values else values.get("arch")
    return {
        "model": {**values, "_name": name},
        "task": {**values, "_name": values.get("task")},
    }


def _symbols(
    told: Mapping[str, Any], cfg: Mapping[str, Any], task: Task, source: Path
) -> list[str] | None:
    """What the outputs stand for: letters of a recogniser, HuBERT's clusters. From the checkpoint,
    or, for a recogniser, from ``dict.<labels>.txt`` beside it."""
    state = told["task_state"] if isinstance(told["task_state"], dict) else {}
    if task == "pretraining":
        dictionaries = state.get("dictionaries")
        if not isinstance(dictionaries, list) or not dictionaries:
            return None
        return symbols_of(dictionaries[0])
    symbols = symbols_of(state.get("target_dictionary"))
    if symbols is not None:
        return symbols
    labels = cfg["task"].get("labels")
    file = source.parent / f"dict.{labels if isinstance(labels, str) else 'ltr'}.txt"
    if Path(file.name).name != file.name or not file.is_file():
        raise CheckpointError(
            f"{file}: is missing; put the dictionary that the model was trained with beside it."
        )
    return read_dictionary(file)


def _outline(
    architecture: str,
    settings: Settings,
    normalize: bool,
    tokens: Tokens | None,
    tensors: Mapping[str, Tensor],
    source: Path,
) -> Ours:
    """The model without values."""
    try:
        config = settings.encoder(normalize)
        with torch.device("meta"):
            encoder = Encoder(config)
            if tokens is not None:
                labels = tensors.get("w2v_encoder.w2v_model.label_embs_concat")
                left = None if labels is None else {"cluster_embeddings": torch.empty_like(labels)}
                model = CTCModel(encoder, len(tokens)).eval()
                return Ours(model, None if left is None else nn.ParameterDict(left), tokens)
            if architecture == "wav2vec2":
                return Ours(encoder.eval(), Contrastive(settings.contrastive(), config).eval())
            labels = tensors.get("label_embs_concat")
            if labels is None and "final_proj.weight" not in tensors:
                return Ours(encoder.eval())
            clusters = len(labels) if labels is not None and labels.dim() else 2
            return Ours(encoder.eval(), Clusters(settings.clusters(), config, clusters).eval())
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error}") from None
