"""The tokens that a CTC model writes: from normalised text to token ids and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, cast, get_args

from speechssl.errors import TokensError
from speechssl.files import write_text

BLANK = 0
"""The index of the CTC blank in every token list."""

BLANK_SYMBOL = "<blank>"

SEPARATOR = "|"
"""The symbol that stands for the space between words."""

_SEPARATOR_ID = 1

Units = Literal["characters", "bpe", "phones"]
"""What the symbols are, besides blank and separator."""

_IN_BRACKETS = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")


class Tokens:
    """The symbols that a CTC model writes: "<blank>", "|" for the space, then its units.

    ``symbols`` is the list; the position of a symbol in it is its token id. ``units`` says what
    they are and how words are spelled with them:

    - characters. Imported models may also have symbols in brackets ("<unk>", "[UNK]"): they are
      written as they are, and no transcript is spelled with them;
    - bpe: characters and frequent sequences of them within words, in the order in which byte-pair
      encoding has learnt them (Sennrich et al. 2016, arXiv 1508.07909). A word is spelled by
      joining, again and again, the neighbours that make the earliest learnt symbol;
    - phones, joined by "-" where they are read. Words are spelled by ``pronunciations``, which are
      not saved with the tokens.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        units: Units = "characters",
        pronunciations: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Raises ``TokensError`` unless ``symbols`` is such a list without repetitions."""
        self.symbols = list(symbols)
        self.units: Units = units
        self.pronunciations = pronunciations
        problem = _problem(self.symbols, units)
        if problem:
            raise TokensError(f"not a token list: {problem}.")
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols)}
        del self._ids[SEPARATOR]

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

    @classmethod
    def from_pronunciations(cls, pronunciations: Mapping[str, Sequence[str]]) -> Tokens:
        """The phones of all words in ``pronunciations``, sorted. Raises ``TokensError``."""
        phones = {phone for spelling in pronunciations.values() for phone in spelling}
        return cls([BLANK_SYMBOL, SEPARATOR, *sorted(phones)], "phones", pronunciations)

    def encode(self, text: str) -> list[int]:
        """The token ids of ``text``; white space between words is one "|".

        Raises ``TokensError`` naming the first character that has no token, or the first word that
        has no pronunciation.
        """
        ids: list[int] = []
        for word in text.split():
            if ids:
                ids.append(_SEPARATOR_ID)
            try:
                ids += [self._ids[symbol] for symbol in self._spell(word)]
            except KeyError as error:
                symbol = error.args[0]
                code = "" if self.units == "phones" else f" (U+{ord(symbol):04X})"
                raise TokensError(
                    f"transcript {' '.join(text.split())[:60]!r}: the model has no token for "
                    f"{symbol!r}{code}; normalise the transcripts as for training, or fine-tune on "
                    "transcripts that have it."
                ) from None
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text that collapsed token ``ids`` spell; blanks write nothing."""
        words: list[list[str]] = [[]]
        for i in ids:
            if i == _SEPARATOR_ID:
                words.append([])
            elif i != BLANK:
                words[-1].append(self.symbols[i])
        joint = "-" if self.units == "phones" else ""
        return " ".join(joint.join(word) for word in words if word)

    def as_decoded(self, text: str) -> str:
        """``text`` as ``decode`` writes it: phones in place of words, or else as it is."""
        return self.decode(self.encode(text)) if self.units == "phones" else text

    def _spell(self, word: str) -> Sequence[str]:
        """The symbols that spell ``word``; characters without a token are among them."""
        if self.units == "characters":
            return word
        if self.units == "bpe":
            return _merge(word, self._ids)
        if self.pronunciations is None:
            raise TokensError(
                "the model writes phones, and nothing says how words are pronounced; give "
                "--lexicon, a file with a word and its phones per line."
            )
        if word not in self.pronunciations:
            raise TokensError(f"word {word!r} has no pronunciation; add it to the lexicon.")
        return self.pronunciations[word]

    def save(self, path: Path | str) -> None:
        """Writes one symbol per line; behind the first, the units if they are not characters."""
        units = "" if self.units == "characters" else f" {self.units}"
        lines = [BLANK_SYMBOL + units, *self.symbols[1:]]
        write_text(path, "".join(f"{line}\n" for line in lines))

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
        units: Units = "characters"
        blank, _, named = symbols[0].partition(" ")
        if blank == BLANK_SYMBOL and named in get_args(Units):
            symbols[0], units = blank, cast(Units, named)
        problem = _problem(symbols, units)
        if problem:
            raise TokensError(f"{path}: {problem}; restore the file from the model's source.")
        return cls(symbols, units)

    def __len__(self) -> int:
        return len(self.symbols)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokens):
            return False
        return (self.symbols, self.units) == (other.symbols, other.units)

    def __hash__(self) -> int:
        return hash(tuple(self.symbols))

    def __repr__(self) -> str:
        return f"Tokens({self.symbols!r}, {self.units!r})"


def _merge(word: str, ranks: Mapping[str, int]) -> list[str]:
    """The characters of ``word``, joined pair by pair; the pair of the lowest rank comes first."""
    pieces = list(word)
    while len(pieces) > 1:
        pairs = [left + right for left, right in pairwise(pieces)]
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks) + 2))
        if best not in ranks:
            break
        first = pairs.index(best)
        pieces[first : first + 2] = [best]
    return pieces


def ctc_frames(ids: Sequence[int]) -> int:
    """The fewest frames in which CTC can write tokens: one each, one more between two that are
    equal."""
    return len(ids) + sum(a == b for a, b in pairwise(ids))


def _problem(symbols: list[str], units: Units) -> str:
    """What is wrong with a list of symbols, or nothing."""
    if symbols[:2] != [BLANK_SYMBOL, SEPARATOR]:
        return f"the first two symbols must be {BLANK_SYMBOL} and {SEPARATOR}, are {symbols[:2]}"
    if len(symbols) < 3:
        return f"there is no {units.removesuffix('s')}"
    for line, symbol in enumerate(symbols[2:], start=3):
        if units == "characters":
            if (len(symbol) != 1 or symbol.isspace()) and not _IN_BRACKETS.fullmatch(symbol):
                return f"line {line} must be one character, is {symbol!r}"
        elif symbol.split() != [symbol] or SEPARATOR in symbol:
            return f"line {line} must be a symbol without spaces and {SEPARATOR}, is {symbol!r}"
    repeated = {symbol for symbol in symbols if symbols.count(symbol) > 1}
    return f"{sorted(repeated)} stand there more than once" if repeated else ""
