from __future__ import annotations

from pathlib import Path

import pytest

from speechssl.data.text import BLANK, Tokens
from speechssl.errors import TokensError


def test_tokens_are_blank_separator_and_sorted_characters() -> None:
    tokens = Tokens.from_texts(["да нет", "don't"])
    assert tokens.symbols == ["<blank>", "|", *sorted(set("данетdon't"))]
    assert len(tokens) == len(tokens.symbols)
    assert tokens.symbols[BLANK] == "<blank>"


@pytest.mark.parametrize("text", ["hello world", "да нет", "नमस्ते दुनिया", "", "a"])
def test_encode_and_decode_are_inverse(text: str) -> None:
    tokens = Tokens.from_texts([text, "x"])
    ids = tokens.encode(text)
    assert len(ids) == len(text)
    assert BLANK not in ids
    assert tokens.decode(ids) == text


def test_white_space_is_one_separator_and_blanks_write_nothing() -> None:
    tokens = Tokens.from_texts(["ab"])
    assert tokens.encode("  a \n b ") == [2, 1, 3]
    assert tokens.decode([1, 2, 0, 1, 1, 3, 1]) == "a b"


def test_unknown_character_is_named() -> None:
    tokens = Tokens.from_texts(["abc"])
    with pytest.raises(TokensError, match=r"'a cab é'.*'é' \(U\+00E9\).*normalise"):
        tokens.encode("a cab é")
    with pytest.raises(TokensError, match=r"'\|'"):
        tokens.encode("a|b")


@pytest.mark.parametrize("texts", [["a|b"], [], ["  "]])
def test_texts_that_give_no_tokens(texts: list[str]) -> None:
    with pytest.raises(TokensError):
        Tokens.from_texts(texts)


def test_save_and_load(tmp_path: Path) -> None:
    tokens = Tokens.from_texts(["наÏve l'été ते", "\x85 \u2028z"])
    tokens.save(tmp_path / "tokens.txt")
    assert Tokens.load(tmp_path / "tokens.txt") == tokens
    assert (tmp_path / "tokens.txt").read_text("utf-8").split("\n")[:2] == ["<blank>", "|"]
    assert tokens != Tokens.from_texts(["b"])


def test_imported_models_have_symbols_in_brackets(tmp_path: Path) -> None:
    tokens = Tokens(["<blank>", "|", "a", "<unk>", "[UNK]", "<"])
    tokens.save(tmp_path / "tokens.txt")
    assert Tokens.load(tmp_path / "tokens.txt") == tokens
    assert tokens.decode([2, 3, 1, 4]) == "a<unk> [UNK]"
    with pytest.raises(TokensError, match=r"'\['"):
        tokens.encode("[UNK]")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"\xff\xfe", "UTF-8"),
        (b"", "first two symbols"),
        (b"a\nb\nc\n", "first two symbols"),
        (b"<blank>\n|\n", "no character"),
        (b"<blank>\n|\na\nbc\n", "line 4 must be one character"),
        (b"<blank>\n|\na\n\nb\n", "line 4 must be one character"),
        (b"<blank>\n|\na\n \nb\n", "line 4 must be one character"),
        (b"<blank>\n|\na\nb\na\n", "more than once"),
    ],
)
def test_malformed_file(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "tokens.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TokensError, match=message) as caught:
        Tokens.load(path)
    assert str(path) in str(caught.value)


# --- subwords and phones ------------------------------------------------------------------------

SUBWORDS = Tokens(["<blank>", "|", *"abch", "ha", "ab", "haha"], "bpe")
PHONES = Tokens.from_pronunciations({"hello": ["HH", "AH", "L", "OW"], "oh": ["OW"]})


def written(tokens: Tokens, text: str) -> list[str]:
    return [tokens.symbols[i] for i in tokens.encode(text)]


def test_subwords_are_joined_in_the_order_in_which_they_were_learnt() -> None:
    assert written(SUBWORDS, "hahaha") == ["haha", "ha"]
    assert written(SUBWORDS, " hab \n ab") == ["ha", "b", "|", "ab"]
    assert written(SUBWORDS, "cc h a") == ["c", "c", "|", "h", "|", "a"]
    for text in ("hahaha cab", "a", ""):
        assert SUBWORDS.decode(SUBWORDS.encode(text)) == text
    with pytest.raises(TokensError, match=r"no token for 'é' \(U\+00E9\)"):
        SUBWORDS.encode("hahé")


def test_phones_spell_words_with_a_lexicon_only() -> None:
    assert PHONES.symbols == ["<blank>", "|", "AH", "HH", "L", "OW"]
    assert written(PHONES, "oh hello") == ["OW", "|", "HH", "AH", "L", "OW"]
    assert PHONES.as_decoded("oh hello") == "OW HH-AH-L-OW"
    assert SUBWORDS.as_decoded("not spelled") == "not spelled"
    with pytest.raises(TokensError, match="'help' has no pronunciation"):
        PHONES.encode("oh help")
    with pytest.raises(TokensError, match=r"writes phones.*--lexicon"):
        Tokens(PHONES.symbols, "phones").encode("oh")


@pytest.mark.parametrize("tokens", [SUBWORDS, PHONES])
def test_units_are_saved_as_text(tmp_path: Path, tokens: Tokens) -> None:
    path = tmp_path / "tokens.txt"
    tokens.save(path)
    first, *others = path.read_text("utf-8").splitlines()
    assert (first, others) == (f"<blank> {tokens.units}", tokens.symbols[1:])
    loaded = Tokens.load(path)
    assert loaded == tokens
    assert loaded != Tokens(tokens.symbols, "phones" if tokens.units == "bpe" else "bpe")
    assert loaded.decode([2, 1, 3]) == tokens.decode([2, 1, 3])
    assert loaded.pronunciations is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<blank> bpe\n|\na\na|b\n", "line 4 must be a symbol without spaces"),
        ("<blank> phones\n|\nAH\n\n", "line 4 must be a symbol without spaces"),
        ("<blank> phones\n|\n", "no phone"),
        ("<blank> words\n|\na\n", "first two symbols"),
    ],
)
def test_malformed_units(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "tokens.txt").write_text(content)
    with pytest.raises(TokensError, match=message):
        Tokens.load(tmp_path / "tokens.txt")
