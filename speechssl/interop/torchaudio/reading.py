"""From weights of torchaudio to a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from speechssl.errors import CheckpointError, ConfigError
from speechssl.interop.certificate import Certificate
from speechssl.interop.conversion import Ours, fill_from_theirs
from speechssl.interop.folders import write_imported
from speechssl.interop.torchaudio.layout import (
    FACTORIES,
    PRETRAIN,
    clusters_config,
    read_arguments,
    renames,
)
from speechssl.interop.torchaudio.parity import certify
from speechssl.interop.torchaudio.sources import DESCRIPTION, Description, find_source, tokens_of
from speechssl.interop.transformers.layout import new_name
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder
from speechssl.models.frontend import CONV_KERNELS, CONV_STRIDES
from speechssl.objectives.clusters import Clusters

KEPT = f"torchaudio/{DESCRIPTION}"
"""File inside an imported model folder that says what built the network."""


def import_torchaudio(source: str, model_dir: Path) -> tuple[Certificate, list[str]]:
    """Writes the model folder ``model_dir`` from weights, or a pipeline's name, ``source``.

    Returns the certificate and what the user should know about. Raises ``CheckpointError`` where
    the source is incomplete, has no counterpart, or does not compute the same after conversion;
    ``RunFolderError`` where ``model_dir`` is something else. Nothing is written then.
    """
    found = find_source(source)
    network = found.description.network(found.where)
    factory, arguments = read_arguments(network)
    ours = _outline(factory, arguments, found.description, found.where)
    tensors = {new_name(name): value for name, value in found.tensors().items()}
    notes = fill_from_theirs(
        ours, renames(factory), tensors, str(found.file), f"the settings of {found.where}"
    )
    certificate = certify(ours, network, tensors)
    normalize, labels = found.description.normalize_waveform, found.description.labels
    kept = Description(factory, arguments, normalize, labels if ours.tokens else None)
    write_imported(
        model_dir,
        ours,
        certificate,
        project="torchaudio",
        source=source,
        architecture=factory,
        files=[found.file],
        kept={KEPT: kept.to_json()},
    )
    return certificate, notes


def _outline(factory: str, arguments: dict[str, Any], told: Description, where: str) -> Ours:
    """The model without values."""
    _require_counterpart(arguments, where)
    try:
        config = FACTORIES[factory].encoder(arguments, told.normalize_waveform, where)
        with torch.device("meta"):
            encoder = Encoder(config).eval()
        if factory == PRETRAIN:
            objective = Clusters(clusters_config(arguments), config, arguments["num_classes"])
            return Ours(encoder, objective.eval())
        outputs = arguments["aux_num_out"]
        if outputs is None:
            return Ours(encoder)
        if told.labels is None or len(told.labels) != outputs:
            raise CheckpointError(
                f"{where}: the head has {outputs} outputs, but there are "
                f"{len(told.labels or [])} labels; say in {DESCRIPTION} what the outputs stand for."
            )
        tokens, order = tokens_of(told.labels, where)
        with torch.device("meta"):
            return Ours(CTCModel(encoder, outputs).eval(), None, tokens, order)
    except ConfigError as error:
        raise CheckpointError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from None


def _require_counterpart(arguments: dict[str, Any], where: str) -> None:
    """Raises ``CheckpointError`` for arguments that have a single value here."""
    shapes = [layer[1:] for layer in arguments["extractor_conv_layer_config"]]
    if shapes != [list(shape) for shape in zip(CONV_KERNELS, CONV_STRIDES)]:
        raise CheckpointError(
            f"{where}: the convolutions have kernels and strides {shapes}; only "
            f"{list(zip(CONV_KERNELS, CONV_STRIDES))} have a counterpart."
        )
    if arguments.get("skip_masked"):
        raise CheckpointError(
            f"{where}: skip_masked is True; a loss of unmasked frames alone has no counterpart."
        )
