from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from speechssl.config import build, parse_override, read_yaml
from speechssl.errors import ConfigError


@dataclass
class Numbers:
    count: int = 1
    rate: float = 1.0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("optimizer:\n  lr: 1\n  lr: 2\n", "'lr' stands there twice .*line 3"),
        ("seed: 1\nmodel: {dim: 8}\nseed: 2\n", "'seed' stands there twice"),
        ("started: 2024-13-45\n", "month must be in 1..12"),
        ("seed: !!int none\n", "invalid literal"),
        ("seed: " + "[" * 3000, "recursion"),
        ("? [1]\n: 2\n", "found unhashable key"),
        ("seed: [1", "expected ',' or ']'"),
    ],
)
def test_what_is_wrong_with_yaml_is_one_line(text: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"is not valid YAML .*{problem}") as caught:
        read_yaml(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def test_anchors_may_be_changed_where_they_are_used(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("one: &one {a: 1, b: 2}\ntwo: {<<: *one, b: 3}\n")
    assert read_yaml(file)["two"] == {"a": 1, "b": 3}


def test_values_of_overrides() -> None:
    assert parse_override("a.b=x=1,2") == {"a": {"b": "x=1,2"}}
    for value in ("2024-13-45", "{b: 1, b: 2}", "[1"):
        with pytest.raises(ConfigError, match="is no YAML value"):
            parse_override(f"a={value}")


def test_whole_numbers_are_kept_exactly() -> None:
    assert build(Numbers, {"count": 2**53 + 1}, "x").count == 2**53 + 1
    assert build(Numbers, {"count": "1e3"}, "x").count == 1000
    with pytest.raises(ConfigError, match="rate: expected a number"):
        build(Numbers, {"rate": 10**400}, "x")
