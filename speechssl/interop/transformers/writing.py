"""From a model folder to a folder that transformers loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from speechssl.files import atomic_path
from speechssl.frames import SAMPLE_RATE
from speechssl.interop.certificate import FILE as CERTIFICATE
from speechssl.interop.certificate import Certificate
from speechssl.interop.conversion import (
    MASK,
    Ours,
    load_ours,
    pads,
    rename,
    require_counterpart,
    to_theirs,
)
from speechssl.interop.folders import imported_from, new_folder, origin
from speechssl.interop.transformers.layout import (
    ARCHITECTURES,
    CONFIG,
    KEPT,
    WEIGHTS,
    Task,
    contrastive_settings,
    encoder_config,
    encoder_settings,
    read_settings,
    renames,
)
from speechssl.interop.transformers.parity import certify
from speechssl.interop.transformers.preprocessor import PREPROCESSOR, write_preprocessor
from speechssl.interop.transformers.vocabulary import FILES as TOKENIZER_FILES
from speechssl.interop.transformers.vocabulary import (
    VOCABULARY,
    read_vocabulary,
    write_vocabulary,
)
from speechssl.interop.weights import read_json
from speechssl.models.encoder import EncoderConfig
from speechssl.models.folder import LoadedModel
from speechssl.objectives.contrastive import Contrastive

CARD = "README.md"


def export_transformers(model_dir: Path, out: Path) -> tuple[Certificate, list[str]]:
    """Writes the folder ``out``, which transformers loads, from the model folder ``model_dir``.

    Returns the certificate and what does not travel. Raises ``CheckpointError`` where the encoder
    has no counterpart in transformers, ``out`` exists, or transformers does not compute the same;
    ``ModelFolderError`` where ``model_dir`` is no sound model folder. Nothing is written then.
    """
    loaded, ours, notes = load_ours(model_dir, ("contrastive",), "transformers")
    model_type = _model_type(loaded, ours.encoder.config)
    if not (isinstance(ours.objective, Contrastive) and model_type == "wav2vec2"):
        if isinstance(ours.objective, Contrastive):
            notes.append(f"transformers has no class for pretraining {model_type}: its heads stay")
        ours.objective = None
    _require_counterpart(loaded, ours.encoder.config, model_type)
    task: Task = "ctc" if ours.tokens else "pretraining" if ours.objective else "encoder"
    [architecture] = [
        name for name, is_for in ARCHITECTURES.items() if is_for == (model_type, task)
    ]
    config, tokenizer = _describe(loaded, ours, architecture)
    table = renames(architecture)
    tensors = {name: value.contiguous() for name, value in to_theirs(ours, table).items()}
    settings = read_settings(config, model_type, str(model_dir))
    if not settings.has_mask_embedding:
        del tensors[rename(MASK, table)]
    with new_folder(out) as fresh:
        with atomic_path(fresh / WEIGHTS[0]) as file:  # safetensors lets only the owner read
            save_file(tensors, file, metadata={"format": "pt"})
        (fresh / CONFIG).write_text(_json(config), encoding="utf-8")
        preprocessor = write_preprocessor(ours.encoder.config.frontend, loaded.path / KEPT)
        (fresh / PREPROCESSOR).write_text(_json(preprocessor), encoding="utf-8")
        for name, text in tokenizer.items():
            (fresh / name).write_text(text, encoding="utf-8")
        certificate = certify(ours, fresh, architecture)
        (fresh / CERTIFICATE).write_text(certificate.to_json(), encoding="utf-8")
        card = model_card(loaded, ours, architecture, out.name, certificate)
        (fresh / CARD).write_text(card, encoding="utf-8")
    return certificate, notes


def _require_counterpart(loaded: LoadedModel, config: EncoderConfig, model_type: str) -> None:
    """Raises ``CheckpointError`` naming the setting that transformers has no word for."""
    where = str(loaded.path)
    settings = read_settings(encoder_settings(config, model_type), model_type, where)
    again = encoder_config(settings, model_type, config.frontend.normalize_waveform, where)
    # How the gradient reaches the frontend does not change what the model computes; nor does the
    # longest distance where none is looked at.
    ignored = ["frontend_gradient"]
    if config.relative_buckets == 0:
        ignored.append("relative_distance")
    require_counterpart(loaded, again, f"transformers' {model_type}", ignored)


def _model_type(loaded: LoadedModel, config: EncoderConfig) -> str:
    """transformers' name of the network: that it was imported as, or the one that fits."""
    origin = imported_from(loaded, "transformers")
    if origin in ARCHITECTURES:
        return ARCHITECTURES[origin][0]
    if config.relative_buckets > 0:
        return "wavlm"
    return "data2vec-audio" if config.position_layers > 1 else "wav2vec2"


def _describe(
    loaded: LoadedModel, ours: Ours, architecture: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """config.json and the tokenizer files; sets the order of the CTC head."""
    model_type = ARCHITECTURES[architecture][0]
    config = _kept(loaded, CONFIG)
    config.pop("dtype", None)
    config |= {
        "architectures": [architecture],
        "model_type": model_type,
        "torch_dtype": "float32",
        **encoder_settings(ours.encoder.config, model_type),
    }
    if isinstance(ours.objective, Contrastive):
        config |= contrastive_settings(ours.objective.config)
    if loaded.tokens is None:
        return config, {}
    size = len(loaded.tokens)
    if (loaded.path / KEPT / VOCABULARY).is_file():
        vocabulary = read_vocabulary(loaded.path / KEPT, size)
        if vocabulary.tokens == loaded.tokens:
            files = [loaded.path / KEPT / name for name in TOKENIZER_FILES]
            texts = {f.name: f.read_text(encoding="utf-8") for f in files if f.is_file()}
            ours.order = vocabulary.order
            return config | {"vocab_size": size}, texts
    ours.order = list(range(size))
    own = {"vocab_size": size, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    return config | own, write_vocabulary(loaded.tokens)


def _kept(loaded: LoadedModel, name: str) -> dict[str, Any]:
    """The JSON file that the model was imported with, if it was."""
    file = loaded.path / KEPT / name
    return read_json(file) if file.is_file() else {}


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def model_card(
    loaded: LoadedModel, ours: Ours, architecture: str, name: str, certificate: Certificate
) -> str:
    """README.md for people who find the exported folder."""
    config = ours.encoder.config
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    ctc = loaded.kind == "ctc"
    header = ["library_name: transformers", "tags:", "- speech", "- speechssl"]
    if ctc:
        header += ["pipeline_tag: automatic-speech-recognition"]
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
        if pads(config)
        else "\nIn transformers, padding a batch changes the outputs of this network; give "
        "recordings one by one.\n"
    )
    return (
        "---\n" + "\n".join(header) + "\n---\n\n"
        f"# {name}\n\n"
        f"{'A CTC speech recogniser' if ctc else 'A speech encoder'}: {architecture}, "
        f"{parameters / 1e6:.1f} M parameters, {config.layers} layers of {config.dim}, for audio "
        f"at {SAMPLE_RATE} Hz. Written by speechssl export.\n\n"
        f"{origin(loaded.info)}\n\n"
        f"```python\n{usage}\n```\n{padding}\n"
        "## Parity\n\n"
        f"{certificate.summary()} ({CERTIFICATE}).\n"
    )
