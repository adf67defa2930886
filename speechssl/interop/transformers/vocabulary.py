"""The vocabulary of a CTC model in transformers' files, and as ``Tokens``.

transformers' ``Wav2Vec2CTCTokenizer`` keeps symbols with their ids in vocab.json, in any order, and
names the blank (``pad_token``) and the space between words (``word_delimiter_token``) in
tokenizer_config.json. ``Tokens`` have the blank first and the space second, so the rows of the CTC
head change places with the symbols.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.data.text import BLANK_SYMBOL, SEPARATOR, Tokens
from speechssl.errors import CheckpointError
from speechssl.interop.conversion import character_tokens
from speechssl.interop.weights import read_json

VOCABULARY = "vocab.json"
TOKENIZER = "tokenizer_config.json"
SPECIAL = "special_tokens_map.json"
ADDED = "added_tokens.json"
FILES = (VOCABULARY, TOKENIZER, SPECIAL, ADDED)

_TOKENIZER_CLASS = "Wav2Vec2CTCTokenizer"
_OLD_TOKENIZER_CLASS = "Wav2Vec2Tokenizer"  # its name until 2021, which old folders still have


@dataclass(frozen=True)
class Vocabulary:
    """Tokens, and where each stood in the other project's head."""

    tokens: Tokens
    order: list[int]
    """``order[i]`` is the other project's id of token i."""
    notes: list[str]
    """What transformers' decoding does with this vocabulary and ours does not."""


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """The ``size`` symbols of the CTC head whose tokenizer files are in ``folder``.

    Raises ``CheckpointError`` where a file is missing or malformed, or asks for what ``Tokens``
    cannot do.
    """
    where = folder / VOCABULARY
    settings = read_json(folder / TOKENIZER) if (folder / TOKENIZER).is_file() else {}
    if "added_tokens_decoder" not in settings and (folder / SPECIAL).is_file():
        settings |= read_json(folder / SPECIAL)  # transformers reads it under this condition, too
    _check_settings(settings, folder / TOKENIZER)
    symbols = _symbols_by_id(folder, settings)
    present = sum(0 <= i < size for i in symbols)
    if present < size:
        first = next(i for i in range(size) if i not in symbols)
        raise CheckpointError(
            f"{where}: has no symbol for {size - present} of the head's {size} outputs (the first "
            f"is {first}); restore the vocabulary that the model was trained with."
        )

    def place(name: str, default: str, meaning: str) -> int:
        symbol = _content(settings.get(name)) or default
        for i in range(size):
            if symbols[i] == symbol:
                return i
        raise CheckpointError(
            f"{where}: has no {symbol!r}, which stands for {meaning}; vocabularies without it "
            "have no counterpart here."
        )

    blank = place("pad_token", "<pad>", "the CTC blank")
    space = place("word_delimiter_token", SEPARATOR, "the space between words")
    order = [blank, space, *(i for i in range(size) if i not in (blank, space))]
    written = [symbols[i] for i in order[2:]]
    if settings.get("do_lower_case"):
        written = [symbol.lower() for symbol in written]
    notes = []
    if settings.get("clean_up_tokenization_spaces"):
        notes.append(
            f"{TOKENIZER} asks transformers to remove spaces before punctuation "
            "(clean_up_tokenization_spaces); speechssl transcribe leaves them"
        )
    return Vocabulary(character_tokens(written, where), order, notes)


def write_vocabulary(tokens: Tokens) -> dict[str, str]:
    """The tokenizer files for ``tokens`` in their own order: texts by file name."""
    blank = BLANK_SYMBOL if "<pad>" in tokens.symbols else "<pad>"
    symbols = [blank, *tokens.symbols[1:]]
    settings = {
        "tokenizer_class": _TOKENIZER_CLASS,
        "pad_token": blank,
        "unk_token": "<unk>",
        "bos_token": None,
        "eos_token": None,
        "word_delimiter_token": SEPARATOR,
        "replace_word_delimiter_char": " ",
        "do_lower_case": False,
        "clean_up_tokenization_spaces": False,
    }
    special = {"pad_token": blank, "unk_token": "<unk>"}
    vocabulary = {symbol: i for i, symbol in enumerate(symbols)}
    contents = {VOCABULARY: vocabulary, TOKENIZER: settings, SPECIAL: special}
    return {
        name: json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        for name, content in contents.items()
    }


def _check_settings(settings: dict[str, Any], where: Path) -> None:
    """Raises ``CheckpointError`` for a setting that has no counterpart."""
    allowed = {
        "tokenizer_class": (None, _TOKENIZER_CLASS, _OLD_TOKENIZER_CLASS),
        "target_lang": (None,),
        "replace_word_delimiter_char": (None, " "),
    }
    for name, choices in allowed.items():
        if settings.get(name) not in choices:
            raise CheckpointError(
                f"{where}: {name} is {settings[name]!r}; speechssl has no counterpart for that."
            )


def _symbols_by_id(folder: Path, settings: dict[str, Any]) -> dict[int, str]:
    """The symbol of each id, from vocab.json and what was added to it."""
    ids: list[tuple[str, str, Any]] = []  # (file, symbol, id)
    added = settings.get("added_tokens_decoder")
    for key, entry in (added if isinstance(added, dict) else {}).items():
        content = _content(entry)
        if str(key).isdecimal() and content:
            ids.append((TOKENIZER, content, int(key)))
    for name in (ADDED, VOCABULARY):
        if name == VOCABULARY or (folder / name).is_file():
            ids += [(name, symbol, i) for symbol, i in read_json(folder / name).items()]
    symbols: dict[int, str] = {}
    for name, symbol, i in ids:
        if not isinstance(i, int) or isinstance(i, bool):
            raise CheckpointError(
                f"{folder / name}: the id of {symbol!r} must be a number, is {str(i)[:40]!r}; "
                "vocabularies of several languages have no counterpart here."
            )
        if symbols.setdefault(i, symbol) != symbol:
            raise CheckpointError(
                f"{folder / name}: {symbol!r} and {symbols[i]!r} have the same id {i}; restore "
                "the file from the model's source."
            )
    return symbols


def _content(entry: Any) -> str | None:
    """A special token, written as text or as an object with ``content``."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) and entry else None
