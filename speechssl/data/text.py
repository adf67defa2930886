"""Transcripts: from text as people write it to the tokens that a CTC model is trained on."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path

from speechssl.errors import TokensError
from speechssl.files import write_text

BLANK = 0
"""The index of the CTC blank in every token list."""

BLANK_SYMBOL = "<blank>"

SEPARATOR = "|"
"""The symbol that stands for the space between words."""

_DECIMAL_POINT_LANGUAGES = {"en", "he", "hi", "ja", "ko", "th", "zh"}
"""Languages that write 1,000.5; the others write 1.000,5."""

_ORDINAL_ENDINGS = {"en": "st|nd|rd|th", "fr": "er|ème|eme|e", "es": "º", "it": "º|°", "pt": "º"}
"""What makes a number an ordinal in writing (1st, 1er, 1º)."""

_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "＇": "'", "`": "'", "´": "'"})
_JOINERS = "\u200c\u200d"
_IN_BRACKETS = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
_LONGEST_NUMBER = 15
"""Digits above which a number is read digit by digit, as is one that begins with 0."""


def normalize_text(text: str, language: str | None = None) -> str:
    """``text`` as it is spoken, for training and scoring: lower-case words with single spaces.

    The rules, in order: Unicode NFC, lower case; digits become words of ``language`` ("en",
    "pt-BR"; digits stay where num2words does not know it); apostrophes inside words are kept and
    made plain; the points of abbreviations (a.m.) vanish; every other character that is neither
    a letter, a combining mark nor a number becomes a space. Works for any script.
    """
    language = re.split("[-_]", language)[0].lower() if language else None
    text = unicodedata.normalize("NFC", text)
    if language in ("tr", "az"):
        text = text.replace("I", "ı").replace("İ", "i")
    text = _numbers_to_words(text.lower().translate(_APOSTROPHES), language)
    text = re.sub(r"\b([^\W\d_])\.(?=[^\W\d_]\b)", r"\1", text)
    kept = "".join(_spoken(text, i) for i in range(len(text)))
    return unicodedata.normalize("NFC", " ".join(kept.split()))


def _spoken(text: str, i: int) -> str:
    """The character at ``i``, or a space or nothing in its place."""
    character = text[i]
    category = unicodedata.category(character)
    if category[0] in "LMN":
        return character
    if character == "'" or character in _JOINERS:
        inside = 0 < i < len(text) - 1 and _is_word(text[i - 1]) and _is_word(text[i + 1])
        return character if inside else " " if character == "'" else ""
    return "" if category == "Cf" else " "


def _is_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"


def _numbers_to_words(text: str, language: str | None) -> str:
    if language is None or not any(map(str.isdecimal, text)):
        return text
    endings = _ORDINAL_ENDINGS.get(language)
    if endings:
        text = re.sub(rf"(\d+)(?:{endings})(?!\w)", lambda m: _say(m[1], language, "ordinal"), text)
    return re.sub(r"\d+(?:[.,]\d+)*", lambda m: _say_number(m[0], language), text)


def _say_number(written: str, language: str) -> str:
    """A number with its points and commas, in words.

    1,000.5 in English and 1.000,5 in Spanish have thousands; a single mark otherwise is the
    decimal point; what has more marks (1.2.3) is read part by part.
    """
    point, thousands = (".", ",") if language in _DECIMAL_POINT_LANGUAGES else (",", ".")
    grouped = re.fullmatch(
        rf"(\d{{1,3}}(?:{re.escape(thousands)}\d{{3}})+)(?:{re.escape(point)}\d+)?", written
    )
    if grouped:
        written = written.replace(thousands, "")
    parts = re.split("[.,]", written)
    if len(parts) <= 2:
        return _say(".".join(parts), language)
    return " ".join(_say(part, language) for part in parts)


def _say(number: str, language: str, kind: str = "cardinal") -> str:
    """``number`` (digits, perhaps with one point) in words, between spaces."""
    from num2words import num2words  # only corpora with digits need it

    number = "".join(c if c == "." else str(int(c)) for c in number)
    whole = number.split(".")[0]
    by_digit = "." not in number and (len(number) > _LONGEST_NUMBER or _has_leading_zero(number))
    try:
        if by_digit:
            words = " ".join(num2words(int(digit), lang=language) for digit in number)
        elif "." in number and len(whole) <= _LONGEST_NUMBER:
            words = num2words(Decimal(number), lang=language)
        else:
            words = num2words(int(number), lang=language, to=kind)
    except (NotImplementedError, OverflowError, TypeError, ValueError):
        return number
    return f" {words.lower()} "


def _has_leading_zero(number: str) -> bool:
    return len(number) > 1 and number[0] == "0"


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
