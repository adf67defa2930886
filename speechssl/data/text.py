"""The tokens that a CTC model writes: from normalised text to token ids and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from speechssl.errors import TokensError
from speechssl.files import write_text

BLANK = 0
"""The index of the CTC blank in every token list."""

BLANK_SYMBOL = "<blank>"

SEPARATOR = "|"
"""The symbol that stands for the space between words."""

_IN_BRACKETS = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")


class Tokens:
    """The symbols that a CTC model writes: "<blank>", "|" for the space, then characters.

    ``symbols`` is the list; the position of a symbol in it is its token id. Imported models may
    also have symbols in brackets ("<unk>", "[UNK]"): they are written as they are, and no
    transcript is spelled with them.
    """

    def __init__(self, symbols: Sequence[str]) -> None:
        """Raises ``TokensError`` unless ``symbols`` is such a list without repetitions."""
        self.symbols = list(symbols)
        problem = _problem(self.symbols)
        if problem:
            raise TokensError(f"not a token list: {problem}.")
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols)}
        self._ids[" "] = self._ids.pop(SEPARATOR)

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> Tokens:
        """The tokens that write all of ``texts``: their characters, sorted.

        Raises ``TokensError`` if a text holds "|" or if there is no character at all.
        """
        characters = {character for text in texts for character in "".join(text.split())}
        if SEPARATOR in characters:
            raise TokensError(
                f"a transcript holds {SEPARATOR!r}, which stands for the space between words; "
                "normalise the transcripts first."
            )
        return cls([BLANK_SYMBOL, SEPARATOR, *sorted(characters)])

    def encode(self, text: str) -> list[int]:
        """The token ids of ``text``, one per character; runs of white space are one "|".

        Raises ``TokensError`` naming the first character that has no token.
        """
        text = " ".join(text.split())
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            character = error.args[0]
            raise TokensError(
                f"transcript {text[:60]!r}: the model has no token for {character!r} "
                f"(U+{ord(character):04X}); normalise the transcripts as for training, or "
                "fine-tune on transcripts that have it."
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """The text that collapsed token ``ids`` spell; blanks write nothing."""
        symbols = ("" if i == BLANK else self.symbols[i] for i in ids)
        return " ".join("".join(symbols).replace(SEPARATOR, " ").split())

    def save(self, path: Path | str) -> None:
        """Writes one symbol per line."""
        write_text(path, "".join(f"{symbol}\n" for symbol in self.symbols))

    @classmethod
    def load(cls, path: Path | str) -> Tokens:
        """Reads what ``save`` wrote. Raises ``TokensError`` if missing or malformed."""
        try:
            text = Path(path).read_bytes().decode("utf-8")
        except FileNotFoundError:
            raise TokensError(f"{path}: no such file; a model folder has a tokens.txt.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise TokensError(f"{path}: cannot be read as UTF-8 text ({error}).") from None
        symbols = text.removesuffix("\n").split("\n")
        problem = _problem(symbols)
        if problem:
            raise TokensError(f"{path}: {problem}; restore the file from the model's source.")
        return cls(symbols)

    def __len__(self) -> int:
        return len(self.symbols)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokens) and self.symbols == other.symbols

    def __hash__(self) -> int:
        return hash(tuple(self.symbols))

    def __repr__(self) -> str:
        return f"Tokens({self.symbols!r})"


def _problem(symbols: list[str]) -> str:
    """What is wrong with a list of symbols, or nothing."""
    if symbols[:2] != [BLANK_SYMBOL, SEPARATOR]:
        return f"the first two symbols must be {BLANK_SYMBOL} and {SEPARATOR}, are {symbols[:2]}"
    if len(symbols) < 3:
        return "there is no character"
    for line, symbol in enumerate(symbols[2:], start=3):
        if (len(symbol) != 1 or symbol.isspace()) and not _IN_BRACKETS.fullmatch(symbol):
            return f"line {line} must be one character, is {symbol!r}"
    repeated = {symbol for symbol in symbols if symbols.count(symbol) > 1}
    return f"{sorted(repeated)} stand there more than once" if repeated else ""
