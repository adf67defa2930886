"""Finding a card of fairseq2, and what belongs to it: settings, checkpoint, symbols."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fairseq2.assets import AssetCard, get_asset_download_manager, get_asset_store
from fairseq2.models.wav2vec2 import Wav2Vec2Config, get_wav2vec2_model_hub
from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig, get_wav2vec2_asr_model_hub

from speechssl.errors import CheckpointError
from speechssl.interop.fairseq2 import card_documents
from speechssl.interop.fairseq2.layout import Family

Config = Wav2Vec2Config | Wav2Vec2AsrConfig

HUBS: dict[str, Any] = {
    "wav2vec2": get_wav2vec2_model_hub,
    "wav2vec2_asr": get_wav2vec2_asr_model_hub,
}

_LARGE = {"attn_dropout_p": 0.0, "dropout_p": 0.0}
_SIZES = {
    "300m": {},
    "1b": {"model_dim": 1280, "num_encoder_layers": 48, "ffn_inner_dim": 5120},
    "3b": {"model_dim": 2048, "num_encoder_layers": 60, "ffn_inner_dim": 8192},
    "7b": {"model_dim": 2048, "num_encoder_layers": 128, "ffn_inner_dim": 8192},
}
_CTC = {"ffn_inner_dropout_p": 0.1, "layer_drop_p": 0.1}

OMNILINGUAL: dict[tuple[str, str], dict[str, Any]] = {
    **{
        ("wav2vec2", name): {
            "final_dim": 1024,
            "quantized_dim": 1024,
            "encoder_config": {**_LARGE, **size, "first_pass_dropout_p": 0.1},
        }
        for name, size in _SIZES.items()
        if name != "300m"
    },
    **{
        ("wav2vec2_asr", name + version): {
            "target_vocab_size": vocabulary,
            "use_masking": False,
            "encoder_config": {
                **_LARGE,
                **size,
                **_CTC,
                "first_pass_dropout_p": 0.0 if name == "300m" else 0.1,
            },
        }
        for name, size in _SIZES.items()
        for version, vocabulary in (("", 9812), ("_v2", 10288))
    },
}
"""Architectures of Omnilingual ASR (arXiv 2511.09690), whose package need not be installed: what
they change in fairseq2's large_lv60k."""

_BASES = {"wav2vec2": "large_lv60k", "wav2vec2_asr": "large_lv60k_10h"}


def is_known_card(name: str) -> bool:
    """Whether fairseq2's asset store has a model of that name."""
    card = get_asset_store().maybe_retrieve_card(name)
    return card is not None and card.has_field("model_family")


def find_card(source: str) -> AssetCard:
    """The card in a file or folder, or the one of that name. Raises ``CheckpointError``."""
    path = Path(source)
    if not path.exists():
        card = get_asset_store().maybe_retrieve_card(source)
        if card is None:
            raise CheckpointError(f"{source}: no such file, and no card of this name in fairseq2.")
        return card
    found = card_documents(path)
    if len(found) != 1:
        raise CheckpointError(f"{source}: holds {len(found)} cards of models; give one of them.")
    [(file, values)] = found
    base = None
    if "base" in values:
        with one_line(source):
            base = get_asset_store().retrieve_card(str(values["base"]))
    return AssetCard(
        str(values.get("name")), {**values, "__base_path__": file.parent.resolve()}, base
    )


def family_of(card: AssetCard) -> Family:
    """The card's family. Raises ``CheckpointError`` where it has no counterpart."""
    field = card.maybe_get_field("model_family")
    family = None if field is None else field.value
    if family == "wav2vec2":
        return "wav2vec2"
    if family == "wav2vec2_asr":
        return "wav2vec2_asr"
    raise CheckpointError(
        f"{card.name}: is of family {family!r}; supported are {' and '.join(HUBS)}."
    )


def config_of(card: AssetCard) -> Config:
    """The card's whole configuration. Raises ``CheckpointError`` where fairseq2 refuses it."""
    family = family_of(card)
    hub = HUBS[family]()
    arch = card.maybe_get_field("model_arch")
    key = (family, str(arch.value) if arch is not None else "")
    with one_line(card.name):
        if key in OMNILINGUAL and key[1] not in hub.get_archs():
            changes = {"model_arch": _BASES[family], "model_config": OMNILINGUAL[key]}
            card = AssetCard(card.name, {**card.metadata, **changes}, card.base)
        config: Config = hub.get_model_config(card)
    return config


def checkpoint_of(card: AssetCard) -> Path:
    """The card's checkpoint, fetched where it is not local. Raises ``CheckpointError``."""
    return _file(card, "checkpoint")


def symbols_of(card: AssetCard) -> list[str]:
    """What the outputs of a recogniser stand for, in their order.

    From the file that ``tokens`` names (one symbol a line, as speechssl exports it), or from the
    SentencePiece model of the card's tokenizer. Raises ``CheckpointError`` where there is neither.
    """
    from fairseq2.data.tokenizers.sentencepiece import SentencePieceModel

    if card.has_field("tokens"):
        file = _file(card, "tokens")
        try:
            return file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{file}: cannot be read ({error}).") from None
    reference = card.maybe_get_field("tokenizer_ref")
    with one_line(card.name):
        owner = card
        if reference is not None:
            owner = get_asset_store().retrieve_card(str(reference.value))
        if not owner.has_field("tokenizer"):
            raise CheckpointError(
                f"{card.name}: its card names no tokenizer, so its outputs have no meaning; add "
                "`tokenizer: FILE.model`."
            )
        model = SentencePieceModel(_file(owner, "tokenizer"))
        return [model.index_to_token(i) for i in range(model.vocabulary_size)]


def to_plain(config: Config) -> dict[str, Any]:
    """A configuration as a card writes it."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: plain(entry) for name, entry in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(entry) for entry in value]
        return getattr(value, "name", value)  # enumerations by the names of their members

    result: dict[str, Any] = plain(dataclasses.asdict(config))
    return result


def _file(card: AssetCard, field: str) -> Path:
    """The file that a field names, fetched where it is not local."""
    with one_line(card.name):
        uri = card.field(field).as_uri()
        if uri.scheme == "file":
            return uri.to_path()
        manager = get_asset_download_manager()
        fetch = manager.download_model if field == "checkpoint" else manager.download_tokenizer
        return fetch(uri)


@contextmanager
def one_line(where: str) -> Iterator[None]:
    """Turns whatever fairseq2 raises into a ``CheckpointError``."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        problem = " ".join(str(error).split())[:200].rstrip(". ")
        raise CheckpointError(f"{where}: fairseq2 says: {problem}.") from None
