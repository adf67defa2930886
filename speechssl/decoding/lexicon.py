"""The words that a beam search may write, and how the model's tokens spell them.

A lexicon file has one spelling per line: the word, white space, its tokens with spaces between them
(``hello h e l l o |``). The "|" at the end may be left out. A word may have several lines. Where
the tokens are phones, this is a pronouncing lexicon (``hello HH AH L OW``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from speechssl.data.text import SEPARATOR, Tokens
from speechssl.decoding.ngram import END, START, UNKNOWN
from speechssl.errors import LanguageModelError, TokensError
from speechssl.files import write_text

Lexicon = dict[str, list[list[int]]]
"""The spellings of each word in token ids; each ends with the separator."""


def spell(words: Iterable[str], tokens: Tokens) -> Lexicon:
    """The lexicon of the ``words`` that ``tokens`` can spell; the others are left out."""
    lexicon: Lexicon = {}
    for word in words:
        try:
            lexicon[word] = [[*tokens.encode(word), _separator(tokens)]]
        except TokensError:
            continue
    return lexicon


def read_lexicon(path: Path | str, tokens: Tokens) -> Lexicon:
    """Reads a lexicon file.

    Raises ``LanguageModelError`` if it is missing or empty, or if a line has no spelling or a
    symbol with which ``tokens`` spell no word. Where these are subwords, a word spelled by its
    characters is spelled by subwords.
    """
    ids = {symbol: i for i, symbol in enumerate(tokens.symbols[2:], start=2)}
    lexicon: Lexicon = {}
    for number, word, symbols in _spellings(path):
        unknown = [symbol for symbol in symbols if symbol not in ids]
        if unknown:
            raise _malformed(path, number, f"the model spells no word with {unknown[0]!r}")
        spelling = [ids[symbol] for symbol in symbols]
        if tokens.units == "bpe" and "".join(symbols) == word:
            spelling = tokens.encode(word)
        lexicon.setdefault(word, []).append([*spelling, _separator(tokens)])
    return lexicon


def read_pronunciations(path: Path | str) -> dict[str, list[str]]:
    """The phones of each word in a pronouncing lexicon, of several spellings the first.

    Raises ``LanguageModelError`` if the file is missing or empty, or a line has no spelling.
    """
    pronunciations: dict[str, list[str]] = {}
    for _, word, phones in _spellings(path):
        pronunciations.setdefault(word, phones)
    return pronunciations


def write_lexicon(path: Path | str, words: Iterable[str]) -> None:
    """Writes a lexicon file that spells ``words`` by their characters."""
    write_text(path, "".join(f"{word}\t{' '.join(word)} {SEPARATOR}\n" for word in words))


def arpa_words(path: Path | str) -> list[str]:
    """The words of an ARPA file, in its order, without ``<s>``, ``</s>`` and ``<unk>``.

    Raises ``LanguageModelError`` if the file is missing or no ARPA file.
    """
    words: list[str] = []
    section = ""
    for _, line in _lines(path):
        if line.startswith("\\"):
            if section == "\\1-grams:":
                return [word for word in words if word not in (START, END, UNKNOWN)]
            section = line.strip()
        elif section == "\\1-grams:":
            _, word, *_ = [*line.split(), ""]
            words.append(word)
    raise LanguageModelError(
        f"{path}: is no ARPA file, so its words are not known; give an ARPA file, or a lexicon "
        "beside a KenLM binary."
    )


def is_binary(path: Path | str) -> bool:
    """Whether a language model is a KenLM binary, which does not tell its words."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"mmap"
    except OSError as error:
        raise LanguageModelError(f"{path}: cannot be read ({error.strerror}).") from None


def _spellings(path: Path | str) -> Iterator[tuple[int, str, list[str]]]:
    """Line number, word and symbols (without the separator) of each line of a lexicon file."""
    number = 0
    for number, line in _lines(path):
        word, *symbols = line.split()
        if symbols[-1:] == [SEPARATOR]:
            symbols.pop()
        if not symbols:
            raise _malformed(path, number, "has no spelling")
        yield number, word, symbols
    if number == 0:
        raise LanguageModelError(f"{path}: has no words; write one word and its tokens per line.")


def _malformed(path: Path | str, number: int, problem: str) -> LanguageModelError:
    return LanguageModelError(
        f"{path}: line {number}: {problem}; a line is a word and its tokens, as in "
        f"'hello h e l l o {SEPARATOR}', in the case of the model's tokens."
    )


def _separator(tokens: Tokens) -> int:
    return tokens.symbols.index(SEPARATOR)


def _lines(path: Path | str) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not empty, each with its number."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield from ((i, line) for i, line in enumerate(file, start=1) if line.strip())
    except OSError as error:
        raise LanguageModelError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise LanguageModelError(f"{path}: is not UTF-8 text.") from None
