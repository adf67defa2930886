"""From a folder of transformers, or a name on the hub, to a model folder."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from speechssl.errors import CheckpointError, ConfigError, MissingExtraError
from speechssl.files import sha256
from speechssl.interop.certificate import Certificate
from speechssl.interop.conversion import Ours, fill_from_theirs
from speechssl.interop.folders import write_imported
from speechssl.interop.transformers.layout import (
    ARCHITECTURES,
    CONFIG,
    EXTRA,
    FAMILIES,
    FIXED,
    KEPT,
    WEIGHTS,
    Settings,
    contrastive_config,
    encoder_config,
    new_name,
    read_settings,
    renames,
)
from speechssl.interop.transformers.parity import certify
from speechssl.interop.transformers.preprocessor import FILES as PREPROCESSOR_FILES
from speechssl.interop.transformers.preprocessor import read_preprocessor
from speechssl.interop.transformers.vocabulary import FILES as TOKENIZER_FILES
from speechssl.interop.transformers.vocabulary import Vocabulary, read_vocabulary
from speechssl.interop.weights import REMEDY, read_json, read_weights
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder
from speechssl.objectives.contrastive import Contrastive


def import_transformers(source: str, model_dir: Path) -> tuple[Certificate, list[str]]:
    """Writes the model folder ``model_dir`` from transformers' folder, or hub name, ``source``.

    Returns the certificate and what the user should know about. Raises ``CheckpointError`` where
    the source is incomplete, has no counterpart, or does not compute the same after conversion;
    ``ConfigError`` for settings out of range; ``MissingExtraError`` where a hub name needs
    huggingface_hub; ``RunFolderError`` where ``model_dir`` is something else. Nothing is
    written then.
    """
    folder = find_source(source)
    architecture, settings = _read_config(folder / CONFIG)
    normalize, notes = read_preprocessor(folder, settings.feat_extract_norm)
    is_ctc = ARCHITECTURES[architecture][1] == "ctc"
    vocabulary = read_vocabulary(folder, settings.vocab_size) if is_ctc else None
    ours = _outline(architecture, settings, normalize, vocabulary, folder / CONFIG)
    files = _weight_files(fetch_weights(source, folder))
    given = _read_tensors(files, architecture)
    where = f"the settings of {CONFIG}"
    notes += fill_from_theirs(ours, renames(architecture), given, str(folder), where)
    certificate = certify(ours, folder, architecture)
    kept = (CONFIG, *PREPROCESSOR_FILES, *(TOKENIZER_FILES if vocabulary else ()))
    write_imported(
        model_dir,
        ours,
        certificate,
        project="transformers",
        source=source,
        architecture=architecture,
        files=files,
        kept={
            f"{KEPT}/{name}": (folder / name).read_text(encoding="utf-8")
            for name in kept
            if (folder / name).is_file()
        },
    )
    return certificate, notes + (vocabulary.notes if vocabulary else [])


def find_source(source: str) -> Path:
    """The local folder ``source``, or the hub's model of that name without its weights: there may
    be gigabytes of them, so they are fetched once everything else has a counterpart."""
    path = Path(source)
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{source}: is a file; give the folder that holds it and {CONFIG}.")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", source):
        raise CheckpointError(f"{source}: no such folder; give a folder with {CONFIG} and weights.")
    return _fetch(source, "*.json")


def fetch_weights(source: str, folder: Path) -> Path:
    """``folder``, which ``find_source`` found for ``source``, with its weights."""
    if Path(source).is_dir():
        return folder
    folder = _fetch(source, "model*.safetensors", folder.name)
    if not any(folder.glob("model*.safetensors")):
        folder = _fetch(source, "pytorch_model*.bin", folder.name)
    return folder


def _fetch(name: str, pattern: str, revision: str | None = None) -> Path:
    """The folder of the hub's cache with the files ``pattern`` of the model ``name``."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtraError(
            f"{name}: no such folder; to fetch the model of this name from the Hugging Face "
            f"hub, install huggingface_hub (pip install -e '.[{EXTRA}]')."
        ) from None
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=pattern))
    except (OSError, ValueError) as error:
        problem = " ".join(str(error).split())[:200].rstrip(". ")
        raise CheckpointError(
            f"{name}: is no folder here and cannot be fetched from the Hugging Face hub "
            f"({problem}); check name and network, or copy the files and give their folder."
        ) from None


def _read_config(file: Path) -> tuple[str, Settings]:
    """The class in transformers and its settings."""
    values = read_json(file)
    names = values.get("architectures")
    known = ", ".join(ARCHITECTURES)
    if not isinstance(names, list) or len(names) != 1 or str(names[0]) not in ARCHITECTURES:
        found = ", ".join(map(str, names)) if isinstance(names, list) and names else "missing"
        raise CheckpointError(f"{file}: architectures is {found}; supported are {known}.")
    model_type, task = ARCHITECTURES[names[0]]
    if values.get("model_type", model_type) != model_type:
        raise CheckpointError(
            f"{file}: model_type is {values['model_type']!r}; {names[0]} needs {model_type!r}."
        )
    for name, only in FIXED.items():
        if values.get(name, only) != only:
            raise CheckpointError(
                f"{file}: {name} is {values[name]!r}; only {only!r} has a counterpart."
            )
    settings = read_settings(values, model_type, str(file))
    if task == "pretraining" and not settings.has_mask_embedding:
        raise CheckpointError(
            f"{file}: mask_time_prob is 0; pretraining needs a mask embedding, and transformers "
            "builds the model without one."
        )
    return names[0], settings


def _outline(
    architecture: str,
    settings: Settings,
    normalize: bool,
    vocabulary: Vocabulary | None,
    file: Path,
) -> Ours:
    """The model without values."""
    model_type, task = ARCHITECTURES[architecture]
    try:
        config = encoder_config(settings, model_type, normalize, str(file))
        with torch.device("meta"):
            encoder = Encoder(config)
            if vocabulary is not None:
                model = CTCModel(encoder, settings.vocab_size).eval()
                return Ours(model, None, vocabulary.tokens, vocabulary.order)
        if task == "encoder":
            return Ours(encoder.eval())
        return Ours(encoder.eval(), Contrastive(contrastive_config(settings), config).eval())
    except ConfigError as error:
        problem = str(error).removeprefix(f"{file}: ")
        raise CheckpointError(f"{file}: {problem}") from None


def _weight_files(folder: Path) -> list[Path]:
    """The file with the weights, or all where they are spread over several."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            places = read_json(index).get("weight_map")
            names = list(places.values()) if isinstance(places, dict) else []
            sound = all(isinstance(n, str) and re.fullmatch(r"[\w.-]+", n) for n in names)
            if not names or not sound:
                raise CheckpointError(f"{index}: does not name files of its folder; {REMEDY}.")
            return [folder / n for n in sorted(set(names))]
    raise CheckpointError(f"{folder}: has neither {' nor '.join(WEIGHTS)}; {REMEDY}.")


def _read_tensors(files: list[Path], architecture: str) -> dict[str, Tensor]:
    """All tensors, named as transformers names them today."""
    given: dict[str, Tensor] = {}
    for file in tqdm(files, desc="read", unit="file", disable=None):
        check_download(file)
        given.update(read_weights(file))
    given = {new_name(name): value for name, value in given.items()}
    model_type, task = ARCHITECTURES[architecture]
    if task == "encoder":  # also saved from a model with a head
        prefix = FAMILIES[model_type].prefix
        given = {name.removeprefix(prefix): value for name, value in given.items()}
    return given


def check_download(file: Path) -> None:
    """Compares a file with the hash that the hub gave it: the cache names large files by it.

    Raises ``CheckpointError`` where they differ. Nothing happens for a file from elsewhere.
    """
    stored = file.resolve()
    if stored.parent.name != "blobs" or not re.fullmatch("[0-9a-f]{64}", stored.name):
        return
    if sha256(stored) != stored.name:
        raise CheckpointError(
            f"{file}: is not what the Hugging Face hub published (its SHA-256 is another); remove "
            f"{stored} and import again."
        )
