"""From a model folder to a folder with a card and a checkpoint of fairseq2."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from fairseq2.models.wav2vec2 import get_wav2vec2_model_hub
from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig, get_wav2vec2_asr_model_hub
from safetensors.torch import load_file, save_file
from torch import Tensor

from speechssl.config import to_dict, write_yaml
from speechssl.errors import CheckpointError, ConfigError
from speechssl.files import atomic_path
from speechssl.interop.certificate import FILE as CERTIFICATE
from speechssl.interop.certificate import Certificate, compare, probe
from speechssl.interop.conversion import Ours, load_ours, outputs, require_counterpart, to_theirs
from speechssl.interop.fairseq2.cards import Config, to_plain
from speechssl.interop.fairseq2.family import (
    FAMILY,
    SpeechModelConfig,
    convert_state,
    create_model,
)
from speechssl.interop.fairseq2.layout import (
    CARD,
    KEPT,
    TOKENS,
    UPDATES,
    WEIGHTS,
    Family,
    encoder_config,
    renames,
    their_contrastive_config,
    their_encoder_config,
)
from speechssl.interop.fairseq2.parity import certify
from speechssl.interop.fairseq2.reading import to_tokens
from speechssl.interop.folders import new_folder
from speechssl.interop.weights import read_json
from speechssl.models.ctc import CTCModel
from speechssl.models.folder import WEIGHTS as OUR_WEIGHTS
from speechssl.models.folder import LoadedModel
from speechssl.objectives.contrastive import Contrastive, ContrastiveConfig

MASK = "masker.temporal_mask_embed"


def export_fairseq2(model_dir: Path, out: Path) -> tuple[Certificate, list[str]]:
    """Writes the folder ``out`` with card.yaml and what it names.

    The card is of fairseq2's families wav2vec2 or wav2vec2_asr where they have this network, and
    of our own (``family``) otherwise. Returns the certificate and notes. Raises ``CheckpointError``
    where ``out`` exists or fairseq2 does not compute the same; ``ModelFolderError`` where
    ``model_dir`` is no sound model folder. Nothing is written then.
    """
    loaded, ours, notes = load_ours(model_dir, ("contrastive",), "fairseq2")
    encoder, name = ours.encoder.config, _card_name(out.name)
    normalize = encoder.frontend.normalize_waveform
    try:
        again = encoder_config(their_encoder_config(encoder), normalize)
        require_counterpart(loaded, again, "fairseq2", ["frontend_gradient"])
    except (CheckpointError, ConfigError) as error:
        return _export_own_family(loaded, ours, out, name, [*notes, str(error)])
    family, config, symbols, updates = _describe(loaded, ours)
    if family == "wav2vec2" and ours.objective is None:
        ours.objective = _new_heads(ours)
        notes.append("its pretraining heads, which fairseq2's wav2vec2 must have, are new")
    tensors = to_theirs(ours, renames(family, encoder.norm))
    if isinstance(config, Wav2Vec2AsrConfig) and not config.use_masking:
        del tensors[MASK]
    if family == "wav2vec2":
        tensors[UPDATES] = torch.tensor(updates)
    certificate = certify(ours, config, tensors)
    card: dict[str, Any] = {
        "name": name,
        "model_family": family,
        "model_config": to_plain(config),
        "checkpoint": WEIGHTS,
        "normalize_waveform": normalize,
    }
    _write(out, card, tensors, symbols, certificate)
    return certificate, notes


def _export_own_family(
    loaded: LoadedModel, ours: Ours, out: Path, name: str, notes: list[str]
) -> tuple[Certificate, list[str]]:
    """The model as it is, with a card of the family that speechssl adds to fairseq2."""
    size = ours.model.vocabulary_size if isinstance(ours.model, CTCModel) else 0
    config = SpeechModelConfig(encoder=ours.encoder.config, vocabulary_size=size)
    tensors = load_file(loaded.path / OUR_WEIGHTS)
    model: Any = create_model(config).eval()
    model.load_state_dict(convert_state(dict(tensors), config))
    with torch.no_grad():
        before, after = (outputs(Ours(m), probe(), {}) for m in (loaded.model, model))
    certificate = compare(
        before, after, f"fairseq2's family {FAMILY}", "the probe recordings, padded"
    )
    card: dict[str, Any] = {
        "name": name,
        "model_family": FAMILY,
        "model_config": to_dict(config),
        "checkpoint": WEIGHTS,
    }
    symbols = None if ours.tokens is None else list(ours.tokens.symbols)
    _write(out, card, tensors, symbols, certificate)
    notes.append(f"the card is of family {FAMILY}, which fairseq2 has where speechssl is installed")
    return certificate, notes


def _write(
    out: Path,
    card: dict[str, Any],
    tensors: dict[str, Tensor],
    symbols: list[str] | None,
    certificate: Certificate,
) -> None:
    with new_folder(out) as folder:
        with atomic_path(folder / WEIGHTS) as file:
            save_file({name: value.contiguous() for name, value in tensors.items()}, file)
        if symbols is not None:
            card = {**card, "tokens": TOKENS}
            (folder / TOKENS).write_text("\n".join(symbols) + "\n", encoding="utf-8")
        (folder / CARD).write_text(write_yaml(card), encoding="utf-8")
        (folder / CERTIFICATE).write_text(certificate.to_json(), encoding="utf-8")


def _describe(loaded: LoadedModel, ours: Ours) -> tuple[Family, Config, list[str] | None, int]:
    """The family, its configuration, a recogniser's symbols (``ours.order`` is set to theirs), and
    the quantizer's updates: as the model came, or as fits it."""
    kept = read_json(loaded.path / KEPT) if (loaded.path / KEPT).is_file() else {}
    family: Family = "wav2vec2_asr" if isinstance(ours.model, CTCModel) else "wav2vec2"
    encoder = ours.encoder.config
    symbols = None if ours.tokens is None else list(ours.tokens.symbols)
    if kept.get("family") == family and kept.get("symbols") is not None and symbols is not None:
        tokens, order = to_tokens(kept["symbols"], len(kept["symbols"]), str(loaded.path))
        if tokens == ours.tokens:
            symbols, ours.order = kept["symbols"], order
        else:
            kept = {}
    if kept.get("family") == family:
        hub: Any = get_wav2vec2_asr_model_hub if symbols else get_wav2vec2_model_hub
        return family, _restore(hub(), kept), symbols, int(kept.get("updates") or 0)
    if isinstance(ours.model, CTCModel):
        config: Config = Wav2Vec2AsrConfig(
            encoder_config=their_encoder_config(encoder),
            target_vocab_size=ours.model.vocabulary_size,
        )
        ours.order = list(range(ours.model.vocabulary_size))
        return family, config, symbols, 0
    heads = ours.objective.config if isinstance(ours.objective, Contrastive) else None
    return family, their_contrastive_config(heads or ContrastiveConfig(), encoder), None, 0


def _restore(hub: Any, kept: dict[str, Any]) -> Config:
    """The configuration that the model came with."""
    from fairseq2.assets import AssetCard

    metadata = {"model_family": kept["family"], "model_config": kept["config"]}
    config: Config = hub.get_model_config(AssetCard(str(kept.get("name")), metadata))
    return config


def _new_heads(ours: Ours) -> Contrastive:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Contrastive(ContrastiveConfig(), ours.encoder.config).eval()


def _card_name(name: str) -> str:
    """A name that fairseq2 allows."""
    return re.sub(r"[^\w-]+", "_", name).strip("_") or "model"
