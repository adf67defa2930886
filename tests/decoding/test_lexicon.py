import pytest

from speechssl.data.text import Tokens
from speechssl.decoding.lexicon import (
    arpa_words,
    is_binary,
    read_lexicon,
    read_pronunciations,
    spell,
    write_lexicon,
)
from speechssl.decoding.ngram import estimate
from speechssl.errors import LanguageModelError

TOKENS = Tokens.from_texts(["abcü"])
A, B, C, Ü = TOKENS.encode("abcü")
BAR = 1


def test_spell_leaves_out_what_has_no_tokens():
    assert spell(["ab", "x", "cü"], TOKENS) == {"ab": [[A, B, BAR]], "cü": [[C, Ü, BAR]]}


def test_written_and_read(tmp_path):
    write_lexicon(tmp_path / "lexicon.txt", ["ab", "cü"])
    assert read_lexicon(tmp_path / "lexicon.txt", TOKENS) == spell(["ab", "cü"], TOKENS)


def test_several_spellings(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text("x a b\n\nx\tb c |\n", encoding="utf-8")
    assert read_lexicon(path, TOKENS) == {"x": [[A, B, BAR], [B, C, BAR]]}


def test_written_on_windows(tmp_path):
    """A mark at the beginning and other line ends are no part of the words."""
    path = tmp_path / "lexicon.txt"
    path.write_bytes("\ufeffab a b |\r\ncü c ü |\r\n".encode())
    assert read_lexicon(path, TOKENS) == spell(["ab", "cü"], TOKENS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ab a b |\nx x |\n", "line 2: the model spells no word with 'x'"),
        ("ab a b |\n\n\nx x |\n", "line 4: the model spells no word with 'x'"),
        ("ab a <blank> b |\n", "line 1: the model spells no word with '<blank>'"),
        ("ab a | b |\n", r"line 1: the model spells no word with '\|'"),
        ("ab\n", "line 1: has no spelling"),
        ("\n", "has no words"),
        (None, "cannot be read"),
    ],
)
def test_bad_lexicons(tmp_path, content, message):
    path = tmp_path / "lexicon.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(LanguageModelError, match=message) as caught:
        read_lexicon(path, TOKENS)
    assert str(path) in str(caught.value)


def test_words_of_an_arpa_file(tmp_path):
    path = tmp_path / "lm.arpa"
    estimate([["hello", "wörld"], ["hello"]], 2).save(path)
    assert sorted(arpa_words(path)) == ["hello", "wörld"]
    assert not is_binary(path)
    path.write_text("\\data\\\n")
    with pytest.raises(LanguageModelError, match="no ARPA file"):
        arpa_words(path)


def test_subwords_spell_what_is_spelled_by_characters(tmp_path):
    subwords = Tokens(["<blank>", "|", "a", "b", "c", "ab"], "bpe")
    path = tmp_path / "lexicon.txt"
    path.write_text("abc a b c |\nbee b a\n")
    assert read_lexicon(path, subwords) == {"abc": [[5, 4, BAR]], "bee": [[3, 2, BAR]]}
    assert spell(["abc"], subwords) == {"abc": [[5, 4, BAR]]}


def test_pronunciations(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text("hello\tHH AH L OW\nhello HH EH L OW\noh OW |\n")
    assert read_pronunciations(path) == {"hello": ["HH", "AH", "L", "OW"], "oh": ["OW"]}
    path.write_text("hello\n")
    with pytest.raises(LanguageModelError, match=r"lexicon\.txt: line 1: has no spelling"):
        read_pronunciations(path)
