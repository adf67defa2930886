"""From a model folder to weights that torchaudio loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from speechssl.errors import CheckpointError
from speechssl.files import atomic_path
from speechssl.frames import SAMPLE_RATE
from speechssl.interop.certificate import FILE as CERTIFICATE
from speechssl.interop.certificate import Certificate
from speechssl.interop.conversion import Ours, load_ours, require_counterpart, to_theirs
from speechssl.interop.folders import imported_from, new_folder, origin
from speechssl.interop.torchaudio.layout import (
    FACTORIES,
    PRETRAIN,
    WAV2VEC2,
    WAVLM,
    clusters_arguments,
    renames,
)
from speechssl.interop.torchaudio.parity import certify
from speechssl.interop.torchaudio.reading import KEPT
from speechssl.interop.torchaudio.sources import (
    BLANK,
    DESCRIPTION,
    WEIGHTS,
    Description,
    read_description,
    tokens_of,
)
from speechssl.models.folder import LoadedModel
from speechssl.objectives.clusters import Clusters, ClustersConfig

CARD = "README.md"


def export_torchaudio(model_dir: Path, out: Path) -> tuple[Certificate, list[str]]:
    """Writes the folder ``out`` from the model folder ``model_dir``: model.pt (tensors alone),
    torchaudio.json (what builds the network), and a model card.

    Returns the certificate and what does not travel. Raises ``CheckpointError`` where the encoder
    has no counterpart in torchaudio, ``out`` exists, or torchaudio does not compute the same;
    ``ModelFolderError`` where ``model_dir`` is no sound model folder. Nothing is written then.
    """
    loaded, ours, notes = load_ours(model_dir, ("clusters",), "torchaudio")
    if not isinstance(ours.objective, Clusters):
        ours.objective = None
    factory = _factory(ours)
    table, config = FACTORIES[factory], ours.encoder.config
    normalize = config.frontend.normalize_waveform
    arguments = table.theirs(config)
    again = table.encoder(arguments, normalize, str(model_dir))
    require_counterpart(loaded, again, "torchaudio", _ignored(ours))
    description = _describe(loaded, ours, factory, arguments)
    tensors = {
        name: value.contiguous() for name, value in to_theirs(ours, renames(factory)).items()
    }
    with new_folder(out) as fresh:
        certificate = certify(ours, description.network(str(model_dir)), tensors)
        with atomic_path(fresh / WEIGHTS) as file:
            torch.save(tensors, file)
        (fresh / DESCRIPTION).write_text(description.to_json(), encoding="utf-8")
        (fresh / CERTIFICATE).write_text(certificate.to_json(), encoding="utf-8")
        card = _model_card(loaded, description, out.name, certificate)
        (fresh / CARD).write_text(card, encoding="utf-8")
    return certificate, notes


def _factory(ours: Ours) -> str:
    """torchaudio's function that builds such a network."""
    if ours.objective is not None:
        return PRETRAIN
    return WAVLM if ours.encoder.relative is not None else WAV2VEC2


def _ignored(ours: Ours) -> list[str]:
    """Settings of ours that torchaudio does not know and that change no output."""
    ignored = [] if ours.objective is not None else ["frontend_gradient"]
    return ignored if ours.encoder.relative is not None else [*ignored, "relative_distance"]


def _describe(
    loaded: LoadedModel, ours: Ours, factory: str, arguments: dict[str, Any]
) -> Description:
    """torchaudio.json; sets the order of the CTC head."""
    kept = read_description(loaded.path / KEPT) if (loaded.path / KEPT).is_file() else None
    labels = None
    if ours.tokens is not None:
        labels = [BLANK, *ours.tokens.symbols[1:]]
        if kept and kept.labels and tokens_of(kept.labels, str(loaded.path))[0] == ours.tokens:
            labels = kept.labels
        ours.order = tokens_of(labels, str(loaded.path))[1]
    if isinstance(ours.objective, Clusters):
        config, clusters = ours.objective.config, len(ours.objective.cluster_embeddings)
        temperature = ClustersConfig().similarity_temperature
        if config.similarity_temperature != temperature:
            raise CheckpointError(
                f"{loaded.path}: the objective's similarity_temperature is "
                f"{config.similarity_temperature}, which torchaudio does not have (only "
                f"{temperature})."
            )
        arguments |= clusters_arguments(config, clusters)
        if kept and imported_from(loaded, "torchaudio") == PRETRAIN:
            arguments["skip_nomask"] = kept.arguments["skip_nomask"]
    else:
        arguments["aux_num_out"] = None if labels is None else len(labels)
    return Description(factory, arguments, ours.encoder.config.frontend.normalize_waveform, labels)


def _model_card(
    loaded: LoadedModel, description: Description, name: str, certificate: Certificate
) -> str:
    """README.md for people who find the exported folder."""
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    normalize = (
        "waveform = torch.nn.functional.layer_norm(waveform, waveform.shape, eps=1e-7)\n"
        if description.normalize_waveform
        else ""
    )
    return (
        f"# {name}\n\n"
        f"{'A CTC speech recogniser' if description.labels else 'A speech encoder'}: torchaudio's "
        f"{description.factory}, {parameters / 1e6:.1f} M parameters, for audio at {SAMPLE_RATE} "
        f"Hz. Written by speechssl export.\n\n"
        f"{origin(loaded.info)}\n\n"
        "```python\n"
        "import json\n\n"
        "import torch\n"
        "import torchaudio\n\n"
        f'description = json.load(open("{name}/{DESCRIPTION}"))\n'
        'model = getattr(torchaudio.models, description["factory"])(**description["arguments"])\n'
        f'model.load_state_dict(torch.load("{name}/{WEIGHTS}", weights_only=True))\n'
        "model.eval()\n"
        f"{normalize}"
        "```\n\n"
        "## Parity\n\n"
        f"{certificate.summary()} ({CERTIFICATE}).\n"
    )
