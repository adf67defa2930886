from __future__ import annotations

import pytest

from speechssl.data.scripts import script_share, scripts_of


@pytest.mark.parametrize(
    ("language", "scripts"),
    [
        ("ru", {"Cyrl"}),
        ("pt-BR", {"Latn"}),
        ("sr", {"Cyrl"}),
        ("sr-Latn", {"Latn"}),
        ("cmn_hans_cn", {"Hani"}),
        ("ja", {"Hani", "Hira", "Kana"}),
        ("ko", {"Hang", "Hani"}),
        ("hi", {"Deva"}),
        ("xx", set()),  # CLDR does not know it
        ("no such tag", set()),
        (None, set()),
    ],
)
def test_scripts_of_languages(language: str | None, scripts: set[str]) -> None:
    assert scripts_of(language) == scripts


def test_share_of_letters() -> None:
    assert script_share("мир, 123!", {"Cyrl"}) == 1
    assert script_share("мир abc", {"Cyrl"}) == 0.5
    assert script_share("東京タワー", {"Hani", "Kana"}) == 1
    assert script_share("नमस्ते", {"Deva"}) == 1
    assert script_share("123", {"Cyrl"}) == 1
