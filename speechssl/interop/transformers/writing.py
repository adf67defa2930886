"""From a model folder to a folder that transformers loads."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from speechssl.config import build, to_dict
from speechssl.errors import CheckpointError, ModelFolderError
from speechssl.files import atomic_path
from speechssl.frames import SAMPLE_RATE
from speechssl.interop.certificate import FILE as CERTIFICATE
from speechssl.interop.certificate import Certificate
from speechssl.interop.transformers.layout import (
    ARCHITECTURES,
    CONFIG,
    KEPT,
    PREPROCESSOR,
    WEIGHTS,
    Converted,
    Settings,
    Task,
    contrastive_settings,
    encoder_settings,
    known_settings,
)
from speechssl.interop.transformers.parity import certify
from speechssl.interop.transformers.vocabulary import FILES as TOKENIZER_FILES
from speechssl.interop.transformers.vocabulary import (
    VOCABULARY,
    read_vocabulary,
    write_vocabulary,
)
from speechssl.interop.weights import read_json
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import EncoderConfig
from speechssl.models.folder import LoadedModel, load_model_folder, load_objective_weights
from speechssl.objectives.contrastive import Contrastive, ContrastiveConfig

CARD = "README.md"


def export_transformers(model_dir: Path, out: Path) -> tuple[Certificate, list[str]]:
    """Writes the folder ``out``, which transformers loads, from the model folder ``model_dir``.

    Returns the certificate and what does not travel. Raises ``CheckpointError`` where the encoder
    has no counterpart in transformers, ``out`` exists, or transformers does not compute the same;
    ``ModelFolderError`` where ``model_dir`` is no sound model folder. Nothing is written then.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise CheckpointError(f"{out}: exists already; give a new folder.")
    loaded = load_model_folder(model_dir)
    _require_counterpart(_encoder_of(loaded), model_dir)
    objective, notes = _load_objective(loaded)
    architecture = _choose_architecture(loaded, objective)
    config, tokenizer, order = _describe(loaded, objective, architecture)
    converted = Converted(architecture, loaded.model, objective, order)
    settings = build(Settings, known_settings(config), str(model_dir))
    tensors = {}
    for name, (theirs, value) in converted.their_tensors().items():
        if name != "encoder.mask_embedding" or settings.has_mask_embedding:
            tensors[theirs] = value.contiguous()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".tmp-{out.name}-") as temporary:
        fresh = Path(temporary) / "new"
        fresh.mkdir()
        with atomic_path(fresh / WEIGHTS[0]) as file:  # safetensors lets only the owner read
            save_file(tensors, file, metadata={"format": "pt"})
        (fresh / CONFIG).write_text(_json(config), encoding="utf-8")
        preprocessor = _preprocessor(loaded)
        (fresh / PREPROCESSOR).write_text(_json(preprocessor), encoding="utf-8")
        for name, text in tokenizer.items():
            (fresh / name).write_text(text, encoding="utf-8")
        certificate = certify(converted, fresh)
        (fresh / CERTIFICATE).write_text(certificate.to_json(), encoding="utf-8")
        card = model_card(loaded, architecture, out.name, certificate)
        (fresh / CARD).write_text(card, encoding="utf-8")
        if out.exists():
            out.rmdir()
        fresh.rename(out)
    return certificate, notes


def _require_counterpart(config: EncoderConfig, model_dir: Path) -> None:
    """Raises ``CheckpointError`` naming the setting that transformers has no word for."""
    values = known_settings(encoder_settings(config))
    again = build(Settings, values, str(model_dir)).encoder(config.frontend.normalize_waveform)
    wanted = _flat(to_dict(config))
    for name, value in _flat(to_dict(again)).items():
        # How the gradient reaches the frontend does not change what the model computes.
        if name != "frontend_gradient" and wanted[name] != value:
            raise CheckpointError(
                f"{model_dir}: the encoder's {name} is {wanted[name]!r}, which transformers' "
                f"wav2vec 2.0 and HuBERT do not have (only {value!r})."
            )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _load_objective(loaded: LoadedModel) -> tuple[Contrastive | None, list[str]]:
    """The contrastive objective's heads where the folder has them, and a note about others."""
    weights = load_objective_weights(loaded.path)
    if not weights or loaded.kind == "ctc":
        return None, []
    recipe = loaded.info.get("recipe")
    settings = dict(recipe.get("objective") or {}) if isinstance(recipe, dict) else {}
    kind = settings.pop("kind", "unknown")
    if kind != "contrastive":
        note = f"transformers has no class for pretraining with objective {kind!r}: its heads stay"
        return None, [note]
    config = build(ContrastiveConfig, settings, f"{loaded.path}: objective")
    with torch.device("meta"):
        objective = Contrastive(config, _encoder_of(loaded))
    try:
        objective.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        problem = " ".join(str(error).split())
        raise ModelFolderError(
            f"{loaded.path}: the objective's weights do not fit its settings ({problem}); export "
            "the model again."
        ) from None
    return objective.eval(), []


def _choose_architecture(loaded: LoadedModel, objective: Contrastive | None) -> str:
    """The class in transformers: the one it was imported from, or the one that fits."""
    task: Task = "ctc" if loaded.kind == "ctc" else "pretraining" if objective else "encoder"
    imported = loaded.info.get("imported")
    origin = imported.get("architecture") if isinstance(imported, dict) else None
    if origin in ARCHITECTURES and ARCHITECTURES[origin][1] == task:
        return str(origin)
    return {"ctc": "Wav2Vec2ForCTC", "pretraining": "Wav2Vec2ForPreTraining"}.get(
        task, "Wav2Vec2Model"
    )


def _describe(
    loaded: LoadedModel, objective: Contrastive | None, architecture: str
) -> tuple[dict[str, Any], dict[str, str], list[int] | None]:
    """config.json, the tokenizer files, and the order of the CTC head."""
    config = _kept(loaded, CONFIG)
    config.pop("dtype", None)
    config |= {
        "architectures": [architecture],
        "model_type": ARCHITECTURES[architecture][0],
        "torch_dtype": "float32",
        **encoder_settings(_encoder_of(loaded)),
    }
    if objective is not None:
        config |= contrastive_settings(objective.config)
    if loaded.tokens is None:
        return config, {}, None
    size = len(loaded.tokens)
    if (loaded.path / KEPT / VOCABULARY).is_file():
        vocabulary = read_vocabulary(loaded.path / KEPT, size)
        if vocabulary.tokens == loaded.tokens:
            files = [loaded.path / KEPT / name for name in TOKENIZER_FILES]
            texts = {f.name: f.read_text(encoding="utf-8") for f in files if f.is_file()}
            return config | {"vocab_size": size}, texts, vocabulary.order
    own = {"vocab_size": size, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    return config | own, write_vocabulary(loaded.tokens), list(range(size))


def _preprocessor(loaded: LoadedModel) -> dict[str, Any]:
    """preprocessor_config.json."""
    frontend = _encoder_of(loaded).frontend
    fresh = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": SAMPLE_RATE,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": frontend.norm == "layer",
    }
    return (_kept(loaded, PREPROCESSOR) or fresh) | {"do_normalize": frontend.normalize_waveform}


def _kept(loaded: LoadedModel, name: str) -> dict[str, Any]:
    """The JSON file that the model was imported with, if it was."""
    file = loaded.path / KEPT / name
    return read_json(file) if file.is_file() else {}


def _encoder_of(loaded: LoadedModel) -> EncoderConfig:
    model = loaded.model
    return (model.encoder if isinstance(model, CTCModel) else model).config


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def model_card(loaded: LoadedModel, architecture: str, name: str, certificate: Certificate) -> str:
    """README.md for people who find the exported folder."""
    config = _encoder_of(loaded)
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    ctc = loaded.kind == "ctc"
    header = ["library_name: transformers", "tags:", "- speech", "- speechssl"]
    if ctc:
        header += ["pipeline_tag: automatic-speech-recognition"]
    origin = _origin(loaded.info)
    usage = (
        "from transformers import pipeline\n\n"
        f'recognise = pipeline("automatic-speech-recognition", "{name}")\n'
        'print(recognise("recording.wav")["text"])'
        if ctc
        else "from transformers import AutoFeatureExtractor, AutoModel\n\n"
        f'extractor = AutoFeatureExtractor.from_pretrained("{name}")\n'
        f'model = AutoModel.from_pretrained("{name}")'
    )
    padding = (
        ""
        if config.frontend.norm == "layer"
        else "\nThe frontend has group norm: in transformers, padding a batch changes the outputs; "
        "give recordings one by one.\n"
    )
    return (
        "---\n" + "\n".join(header) + "\n---\n\n"
        f"# {name}\n\n"
        f"{'A CTC speech recogniser' if ctc else 'A speech encoder'}: {architecture}, "
        f"{parameters / 1e6:.1f} M parameters, {config.layers} layers of {config.dim}, for audio "
        f"at {SAMPLE_RATE} Hz. Written by speechssl export.\n\n"
        f"{origin}\n\n"
        f"```python\n{usage}\n```\n{padding}\n"
        "## Parity\n\n"
        f"{certificate.summary()} ({CERTIFICATE}).\n"
    )


def _origin(info: Mapping[str, Any]) -> str:
    """Where the weights come from, in a sentence."""
    imported = info.get("imported")
    if isinstance(imported, dict):
        return f"The weights come from {imported.get('source')} ({imported.get('from')})."
    if "updates" in info:
        return f"Trained for {info['updates']} updates."
    return "How it was trained is not known."
