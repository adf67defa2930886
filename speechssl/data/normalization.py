"""Transcripts as they are spoken: one spelling per word, without case, punctuation or digits.

What the texts of all languages share is in ``normalize_text``; what one language needs beyond it
is in ``_RULES``, one line each. Nothing here changes how a word is spelled: ß, ё, hamza, tones and
accents stay.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from speechssl.data.numbers import numbers_to_words, plain_digits

_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "＇": "'", "`": "'", "´": "'"})
_JOINERS = "\u200c\u200d"
_LOOKS = re.compile("[\u0640\u20dd-\u20e4\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""What only changes the look of a letter: the Arabic tatweel, enclosing marks (as of keycaps) and
variation selectors (of ideographs and emoji)."""

_SAME_LANGUAGE = {"cmn": "zh", "iw": "he", "pes": "fa", "arb": "ar", "azj": "az", "uzn": "uz"}
"""Codes of the same language, as corpora use them."""

_FORMS = re.compile("[\ufb00-\ufdff\ufe70-\ufefe\uff00-\uffef]+")
"""Ligatures (ﬁ), positional Arabic letters (ﻻ), full-width letters (Ａ), half-width kana (ｶ)."""

NO_SPACES = frozenset({"ja", "yue", "zh"})
"""Languages written without spaces between words; their error rate is counted in characters."""


def normalize_text(text: str, language: str | None = None) -> str:
    """``text`` as it is spoken, for training and scoring: lower-case words with single spaces.

    In order: Unicode NFC, with ligatures, positional and full-width forms as plain letters; the
    letters that ``language`` ("en", "pt-BR", "cmn_hans_cn") writes in more than one way as one;
    lower case; digits as words (they stay, as 0 to 9, where num2words does not know the language or
    it is not given); apostrophes inside words are kept and made plain; the points of abbreviations
    (a.m.) and what only changes the look of a letter (tatweel, variation selectors) vanish; every
    other character that is neither a letter, a combining mark nor a number becomes a space.
    Chinese, Cantonese and Japanese end without spaces beside their characters. Works for any
    script.
    """
    language, region = split_code(language)
    text = _FORMS.sub(lambda m: unicodedata.normalize("NFKC", m[0]), text)
    text = _LOOKS.sub("", text)
    text = unicodedata.normalize("NFC", text).translate(_APOSTROPHES)
    text = _RULES.get(language or "", _as_it_is)(text)
    text = text.lower().replace("i\u0307", "i")  # what lower() makes of İ
    text = numbers_to_words(text, language, region) if language else plain_digits(text)
    text = re.sub(r"\b([^\W\d_])\.(?=[^\W\d_]\b)", r"\1", text)
    kept = "".join(_spoken(text, i) for i in range(len(text)))
    kept = unicodedata.normalize("NFC", " ".join(kept.split()))
    return _without_spaces(kept) if language in NO_SPACES else kept


def split_code(code: str | None) -> tuple[str | None, str | None]:
    """Language and region, both lower-case, of a code such as "pt-BR", "de_DE", "cmn_hans_cn"."""
    if not code:
        return None, None
    language, *rest = re.split("[-_]", code.lower())
    return _SAME_LANGUAGE.get(language, language), rest[-1] if rest else None


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


def _without_spaces(text: str) -> str:
    """Removes spaces that have a Chinese character or a kana on either side."""
    cjk = "[\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
    return re.sub(f"(?<={cjk}) | (?={cjk})", "", text)


def _as_it_is(text: str) -> str:
    return text


def _replacing(old: str, new: str) -> Callable[[str], str]:
    """A rule: each character of ``old`` becomes the one of ``new`` in its place."""
    table = str.maketrans(old, new)
    return lambda text: text.translate(table)


def _joining_elisions(words: str) -> Callable[[str], str]:
    """A rule: an elided word and the next are one (l' heure, l'heure), whatever the space."""
    pattern = re.compile(rf"\b({words.replace(' ', '|')})'\s+(?=\w)", re.IGNORECASE)
    return lambda text: pattern.sub(r"\1'", text)


def _arabic(text: str) -> str:
    """Without vowel signs (harakat, superscript alef, Quranic marks), which few texts write."""
    return re.sub("[\u064b-\u0652\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed]", "", text)


def _persian(text: str) -> str:
    """As Arabic; yeh and kaf are the Persian letters, whatever keyboard typed them."""
    return _arabic(text).replace("\u064a", "\u06cc").replace("\u0643", "\u06a9")


def _hebrew(text: str) -> str:
    """Without niqqud and cantillation; geresh is an apostrophe, gershayim of acronyms vanish."""
    text = re.sub("[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7]", "", text)
    text = text.replace("\u05f3", "'").replace("\u05f4", '"')
    return re.sub('(?<=[\u05d0-\u05ea])"(?=[\u05d0-\u05ea])', "", text)


_RULES: dict[str, Callable[[str], str]] = {
    "ar": _arabic,
    "az": _replacing("Iİ", "ıi"),
    "ca": _joining_elisions("d l m n s t"),
    "fa": _persian,
    "fr": _joining_elisions("c d j l m n s t qu jusqu lorsqu puisqu quoiqu"),
    "he": _hebrew,
    "it": _joining_elisions(
        "l d c un all dall dell nell sull coll quell quest bell sant com dov cos m s t v"
    ),
    "nl": lambda text: text.replace("ĳ", "ij").replace("Ĳ", "IJ"),
    "ro": _replacing("şţŞŢ", "șțȘȚ"),  # letters with a comma, which old fonts had as cedillas
    "tr": _replacing("Iİ", "ıi"),
    "ur": _persian,
    "uz": _replacing("ʻ", "'"),  # oʻ and gʻ, also written o' and o‘
}
"""What a language writes in more than one way and says in one; on NFC text before lower case."""
