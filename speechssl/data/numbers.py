"""Digits in transcripts become words, as they are spoken in the language; num2words knows how."""

from __future__ import annotations

import re
from decimal import Decimal

_DECIMAL_POINT_LANGUAGES = (
    "am bn cy en fil ga gu ha he hi ig ja kn ko ml mr ms mt my ne pa si sw ta te th ur yo yue zh"
)
"""Languages that write 1,000.5; the others write 1.000,5."""

_ORDINAL_ENDINGS = {"en": "st|nd|rd|th", "fr": "er|ème|eme|e", "es": "º", "it": "º|°", "pt": "º"}
"""What makes a number an ordinal in writing (1st, 1er, 1º)."""

_NAMES_IN_NUM2WORDS = {"kk": "kz", "nb": "no", "nn": "no"}
"""Languages that num2words has under another code."""

_LONGEST_NUMBER = 15
"""Digits above which a number is read digit by digit, as is one that begins with 0."""

_LONGEST_NUMBERS = {"am": 6}
"""The same where num2words never comes back from longer ones."""


def plain_digits(text: str) -> str:
    """The digits of every script as 0 to 9, and thousands apart by a hard space together."""
    text = re.sub(r"\d", lambda m: str(int(m[0])), text)
    return re.sub(r"(?<=\d)[\u00a0\u202f](?=\d{3}(?!\d))", "", text)


def numbers_to_words(text: str, language: str, region: str | None = None) -> str:
    """``text`` (lower case) with its numbers in words of ``language`` ("pt", region "br").

    1,000.5 in English and 1.000,5 in Spanish have thousands; a single mark otherwise is the
    decimal point; what has more marks (1.2.3) is read part by part. Numbers that begin with 0 or
    are very long are read digit by digit. Digits stay where num2words does not know the language.
    """
    if not any(map(str.isdecimal, text)):
        return text
    text = plain_digits(text)
    code = _num2words_code(language, region)
    if code is None:
        return text
    endings = _ORDINAL_ENDINGS.get(language)
    if endings:
        text = re.sub(rf"(\d+)(?:{endings})(?!\w)", lambda m: _say(m[1], code, "ordinal"), text)
    marks = (".", ",") if language in _DECIMAL_POINT_LANGUAGES.split() else (",", ".")
    return re.sub(r"\d+(?:[.,]\d+)*", lambda m: _say_written(m[0], code, *marks), text)


def _num2words_code(language: str, region: str | None) -> str | None:
    """The converter of num2words for a language; it takes any code by its first two letters
    itself, and so reads Filipino ("fil") as Finnish."""
    from num2words import CONVERTER_CLASSES  # only corpora with digits need it

    language = _NAMES_IN_NUM2WORDS.get(language, language)
    regional = f"{language}_{region.upper()}" if region else language
    return next((code for code in (regional, language) if code in CONVERTER_CLASSES), None)


def _say_written(written: str, code: str, point: str, thousands: str) -> str:
    """A number with its points and commas, in words."""
    grouped = re.fullmatch(
        rf"(\d{{1,3}}(?:{re.escape(thousands)}\d{{3}})+)(?:{re.escape(point)}\d+)?", written
    )
    if grouped:
        written = written.replace(thousands, "")
    parts = re.split("[.,]", written)
    if len(parts) <= 2:
        return _say(".".join(parts), code)
    return " ".join(_say(part, code) for part in parts)


def _say(number: str, code: str, kind: str = "cardinal") -> str:
    """``number`` (digits, perhaps with one point) in words, between spaces."""
    from num2words import num2words

    whole = number.split(".")[0]
    longest = _LONGEST_NUMBERS.get(code, _LONGEST_NUMBER)
    by_digit = "." not in number and (len(number) > longest or _has_leading_zero(number))
    try:
        if by_digit:
            words = " ".join(num2words(int(digit), lang=code) for digit in number)
        elif "." in number and len(whole) <= longest:
            words = num2words(Decimal(number), lang=code)
        else:
            words = num2words(int(number), lang=code, to=kind)
    except (LookupError, NotImplementedError, OverflowError, TypeError, ValueError):
        return number
    return f" {words.lower()} "


def _has_leading_zero(number: str) -> bool:
    return len(number) > 1 and number[0] == "0"
