from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from speechssl.data.text import BLANK, Tokens, normalize_text
from speechssl.errors import TokensError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Hello,\tWORLD!\n", "hello world"),
        ("re-record and/or stop", "re record and or stop"),
        ("don't say 'yes' or ''no''", "don't say yes or no"),
        ("the dogs' bowls", "the dogs bowls"),
        ("l’heure, l`heure, l´heure", "l'heure l'heure l'heure"),
        ("At 5 a.m. in the U.S.A.", "at 5 am in the usa"),
        ("Stop. Go.Now", "stop go now"),
        ("under_score — dash – dash", "under score dash dash"),
        ("“quoted” «слово» …", "quoted слово"),
        ("soft\u00adhyphen \ufeffmark", "softhyphen mark"),
        ("", ""),
        ("?! ...", ""),
    ],
)
def test_punctuation_and_case(text: str, expected: str) -> None:
    assert normalize_text(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("НАЖМИТЕ РЕШЁТКУ.", "нажмите решётку"),
        ("Cafe\u0301 ÉTÉ", "café été"),
        ("नमस्ते, दुनिया।", "नमस्ते दुनिया"),
        ("สวัสดี ชาวโลก!", "สวัสดี ชาวโลก"),
        ("مَرْحَبًا، بالعالم؟", "مَرْحَبًا بالعالم"),
        ("你好，世界。", "你好 世界"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("п’ять", "п'ять"),
        ("ΟΔΟΣ", "οδος"),
    ],
)
def test_every_script_keeps_its_letters_and_marks(text: str, expected: str) -> None:
    normalized = normalize_text(text)
    assert normalized == unicodedata.normalize("NFC", expected)
    assert unicodedata.is_normalized("NFC", normalized)


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Press 1, then 21.", "en", "press one then twenty one"),
        ("a 28.8 kilobit modem", "en", "a twenty eight point eight kilobit modem"),
        ("1,000 or 1,000.5", "en", "one thousand or one thousand point five"),
        ("the 1st and 22nd", "en", "the first and twenty second"),
        ("code 007", "en", "code zero zero seven"),
        ("version 1.2.3 at 10:30", "en", "version one two three at ten thirty"),
        ("3D audio", "en", "three d audio"),
        ("Marque 1 o 500", "es", "marque uno o quinientos"),
        ("1.000 veces, el 1º", "es-MX", "mil veces el primero"),
        ("appuyez sur 5", "fr", "appuyez sur cinq"),
        ("le 1er et 28,8", "fr", "le premier et vingt huit virgule huit"),
        ("premere 8", "it", "premere otto"),
        ("нажмите 2 или 11", "ru", "нажмите два или одиннадцать"),
        ("28,8 килобит", "ru", "двадцать восемь целых восемь десятых килобит"),
        ("drücken Sie 5", "de_DE", "drücken sie fünf"),
        ("اضغط ٣", "ar", "اضغط ثلاثة"),
        ("IĞDIR", "tr", "ığdır"),
        ("no words for 12", "xx", "no words for 12"),
        ("language unknown 12", None, "language unknown 12"),
    ],
)
def test_digits_become_words(text: str, language: str | None, expected: str) -> None:
    assert normalize_text(text, language) == expected


@pytest.mark.parametrize("language", ["en", "es", "fr", "it", "ru", "de"])
@pytest.mark.parametrize("number", ["0", "7", "99", "1234", "2,5", "12345678901234567890"])
def test_no_digit_and_no_mark_is_left(language: str, number: str) -> None:
    text = normalize_text(f"{number}.", language)
    assert text.replace(" ", "").isalpha()
    assert normalize_text(text, language) == text


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
