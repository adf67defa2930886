"""fairseq's list of symbols (``dict.ltr.txt``), and ``Tokens``.

A dictionary begins with ``<s>``, ``<pad>``, ``</s>``, ``<unk>``, which the file leaves out; the
other symbols follow in the file's order, each with a count. ``<s>`` is the CTC blank.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from speechssl.data.text import SEPARATOR, Tokens
from speechssl.errors import CheckpointError
from speechssl.interop.conversion import character_tokens

BLANK = "<s>"
SPECIAL = (BLANK, "<pad>", "</s>", "<unk>")
"""Symbols that every dictionary begins with."""


def symbols_of(dictionary: Any) -> list[str] | None:
    """The symbols of a pickled ``Dictionary``, or None if it is none.

    ``dictionary`` is what ``speechssl.interop.pickles.plain`` makes of it.
    """
    found = dictionary.get("symbols") if isinstance(dictionary, dict) else None
    if not isinstance(found, list) or not found or not all(isinstance(s, str) for s in found):
        return None
    return found


def read_dictionary(path: Path) -> list[str]:
    """The symbols of ``dict.<labels>.txt``. Raises ``CheckpointError`` where it is malformed."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}).") from None
    symbols = list(SPECIAL)
    for number, line in enumerate(lines, start=1):
        symbol, space, count = line.removesuffix(" #fairseq:overwrite").rpartition(" ")
        if not space or not symbol or not count.isdecimal():
            raise CheckpointError(
                f"{path}: line {number} must be a symbol and a count, is {line[:40]!r}."
            )
        symbols.append(symbol)
    return symbols


def write_dictionary(symbols: list[str]) -> str:
    """The text of ``dict.<labels>.txt`` for symbols that begin with ``SPECIAL``."""
    return "".join(f"{symbol} 1\n" for symbol in symbols[len(SPECIAL) :])


def to_tokens(symbols: list[str], where: str) -> tuple[Tokens, list[int]]:
    """Tokens, and the place of each among ``symbols``. Raises ``CheckpointError`` where they are
    not characters, or have no space between words."""
    if symbols[0] != BLANK or SEPARATOR not in symbols:
        raise CheckpointError(
            f"{where}: must begin with {BLANK} (the CTC blank) and have {SEPARATOR} (the space "
            "between words); other vocabularies have no counterpart here."
        )
    space = symbols.index(SEPARATOR)
    order = [0, space, *(i for i in range(1, len(symbols)) if i != space)]
    return character_tokens((symbols[i] for i in order[2:]), where), order


def from_tokens(tokens: Tokens) -> list[str]:
    """fairseq's symbols for tokens that were made here: ``SPECIAL``, then ours."""
    return [*SPECIAL, *(symbol for symbol in tokens.symbols[1:] if symbol not in SPECIAL)]
