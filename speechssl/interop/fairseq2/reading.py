"""From a card of fairseq2 to a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from fairseq2.models.wav2vec2 import Wav2Vec2Config, convert_wav2vec2_state_dict
from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig, convert_wav2vec2_asr_state_dict
from torch import Tensor

from speechssl.data.text import SEPARATOR, Tokens
from speechssl.errors import CheckpointError, ConfigError
from speechssl.interop.certificate import Certificate
from speechssl.interop.conversion import Ours, character_tokens, fill_from_theirs
from speechssl.interop.fairseq2.cards import (
    Config,
    checkpoint_of,
    config_of,
    family_of,
    find_card,
    one_line,
    symbols_of,
    to_plain,
)
from speechssl.interop.fairseq2.layout import (
    KEPT,
    UPDATES,
    contrastive_config,
    encoder_config,
    renames,
)
from speechssl.interop.fairseq2.parity import certify
from speechssl.interop.folders import write_imported
from speechssl.interop.pickles import read_checkpoint
from speechssl.interop.weights import REMEDY, checked_tensors, read_safetensors
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder
from speechssl.objectives.contrastive import Contrastive

SPACES = ("▁", SEPARATOR)
"""How tokenizers write the space between words."""


def import_fairseq2(source: str, model_dir: Path) -> tuple[Certificate, list[str]]:
    """Writes the model folder ``model_dir`` from the card ``source``: a file, a folder, or a name.

    Returns the certificate and what the user should know about. Raises ``CheckpointError`` where
    the card or what belongs to it is missing, damaged, without counterpart, or does not compute
    the same after conversion; ``RunFolderError`` where ``model_dir`` is something else. Nothing
    is written then.
    """
    card = find_card(source)
    family, config, file = family_of(card), config_of(card), checkpoint_of(card)
    normalize, notes = _normalizes(card, config)
    symbols = symbols_of(card) if isinstance(config, Wav2Vec2AsrConfig) else None
    ours = _outline(config, normalize, symbols, card.name)
    tensors, updates = read_tensors(file, config)
    names = renames(family, ours.encoder.config.norm)
    notes += fill_from_theirs(ours, names, tensors, str(file), "the card's settings")
    if family == "wav2vec2":
        tensors[UPDATES] = torch.tensor(updates)
    certificate = certify(ours, config, tensors)
    kept = {
        "name": card.name,
        "family": family,
        "config": to_plain(config),
        "symbols": symbols,
        "updates": updates,
    }
    write_imported(
        model_dir,
        ours,
        certificate,
        project="fairseq2",
        source=source,
        architecture=family,
        files=_files(file),
        kept={KEPT: json.dumps(kept, indent=2, ensure_ascii=False) + "\n"},
    )
    return certificate, notes


def read_tensors(path: Path, config: Config) -> tuple[dict[str, Tensor], int]:
    """The tensors of a checkpoint by fairseq2's names, and the quantizer's count of updates.

    A safetensors or PyTorch file, or a folder where each process saved its share. Names of fairseq
    become fairseq2's. Raises ``CheckpointError`` where a file is missing or damaged.
    """
    shares = [_read(file) for file in _files(path)]
    state = shares[0]
    if len(shares) > 1:
        state = _joined(shares, path)
    with one_line(str(path)):
        if isinstance(config, Wav2Vec2AsrConfig):
            state = convert_wav2vec2_asr_state_dict(state, config)
        else:
            state = convert_wav2vec2_state_dict(state, config)
        found: Any = state.pop(UPDATES, 0)
        updates = int(found)
    return checked_tensors(state, path), updates


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    # Those of a hundred processes and more have one digit more.
    files = sorted(path.rglob("sdp_*.pt"), key=lambda file: (len(file.name), file))
    if not files:
        raise CheckpointError(f"{path}: is a folder without the sdp_*.pt of fairseq2's trainer.")
    return files


def _joined(shares: list[dict[str, Any]], path: Path) -> dict[str, Any]:
    """The rows of all processes, one behind the other; a number is the same in all."""
    state = {}
    for name, first in shares[0].items():
        rows: list[Any] = [share.get(name) for share in shares]
        if not all(isinstance(part, Tensor) and part.shape[1:] == first.shape[1:] for part in rows):
            raise CheckpointError(f"{path}: {name!r} is not a tensor in all sdp_*.pt; {REMEDY}.")
        state[name] = torch.cat(rows) if first.dim() else first
    return state


def _read(file: Path) -> dict[str, Any]:
    if file.suffix == ".safetensors":
        return dict(read_safetensors(file))
    found = read_checkpoint(file)
    return dict(found["model"]) if isinstance(found.get("model"), dict) else found


def _normalizes(card: Any, config: Config) -> tuple[bool, list[str]]:
    """Whether waveforms are normalised first, and a note where that had to be assumed: fairseq2
    leaves it to recipes."""
    field = card.maybe_get_field("normalize_waveform")
    if field is not None:
        if not isinstance(field.value, bool):
            raise CheckpointError(
                f"{card.name}: normalize_waveform must be true or false, but is {field.value!r}."
            )
        return field.value, []
    layered = config.encoder_config.feature_extractor_layer_norm_convs
    verb = "normalises" if layered else "does not normalise"
    norm = "layer" if layered else "group"
    return layered, [
        f"the card does not say whether waveforms are normalised: assumed that the model {verb} "
        f"them, as is usual with {norm} norm (normalize_waveform: true or false in the card)"
    ]


def _outline(config: Config, normalize: bool, symbols: list[str] | None, name: str) -> Ours:
    """The model without values."""
    try:
        ours_config = encoder_config(config.encoder_config, normalize)
        with torch.device("meta"):
            encoder = Encoder(ours_config)
            if isinstance(config, Wav2Vec2Config):
                objective = Contrastive(contrastive_config(config), ours_config)
                return Ours(encoder.eval(), objective.eval())
            tokens, order = to_tokens(symbols or [], config.target_vocab_size, name)
            return Ours(CTCModel(encoder, len(tokens)).eval(), None, tokens, order)
    except ConfigError as error:
        raise CheckpointError(f"{name}: {error}") from None


def to_tokens(symbols: list[str], size: int, where: str) -> tuple[Tokens, list[int]]:
    """Tokens, and the place of each in a head of ``size`` outputs, the first being the blank.

    Raises ``CheckpointError`` where the symbols are not characters, or too few or too many.
    """
    spaces = [i for i, symbol in enumerate(symbols) if symbol in SPACES]
    if len(symbols) != size or len(spaces) != 1 or spaces == [0]:
        raise CheckpointError(
            f"{where}: has {len(symbols)} symbols for {size} outputs, {len(spaces)} of them the "
            f"space between words ({' or '.join(SPACES)}); there must be as many symbols as "
            "outputs and one space, the CTC blank being the first."
        )
    order = [0, spaces[0], *(i for i in range(1, size) if i != spaces[0])]
    return character_tokens((symbols[i] for i in order[2:]), where), order
