"""Writing systems: which one a language is written in, and how much of a text is in it."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

from fontTools.unicodedata import script
from langcodes import Language
from langcodes.data_dicts import LIKELY_SUBTAGS

SEVERAL = {
    "Hans": {"Hani"},
    "Hant": {"Hani"},
    "Jpan": {"Hani", "Hira", "Kana"},
    "Kore": {"Hang", "Hani"},
}
"""Codes of ISO 15924 that stand for characters of other codes."""

SHARED = ("Zyyy", "Zinh", "Zzzz")
"""Codes of characters that no script has to itself."""


@lru_cache(maxsize=1024)
def scripts_of(language: str | None) -> frozenset[str]:
    """The scripts (ISO 15924, as "Cyrl") of a language tag (BCP 47, as "ru" or "sr-Latn").

    The usual script of the language by Unicode's CLDR, unless the tag names one; empty where the
    language is not given, no tag, or not known to CLDR.
    """
    try:
        tag = Language.get(language) if language else None
    except ValueError:
        tag = None
    if tag is None or not (tag.script or tag.language in LIKELY_SUBTAGS):
        return frozenset()
    code = str(tag.script or tag.maximize().script)
    return frozenset(SEVERAL.get(code, {code}))


def script_share(text: str, scripts: Collection[str]) -> float:
    """The share of the letters of ``text`` that are in ``scripts``; 1 if it has no letter."""
    letters = [script(character) for character in text if character.isalpha()]
    own = [code for code in letters if code not in SHARED]
    return sum(code in scripts for code in own) / len(own) if own else 1.0
