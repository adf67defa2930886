"""Dataclasses from YAML, strictly: an unknown key is an error that names the nearest known one."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from speechssl.errors import ConfigError

T = TypeVar("T")


def build(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Builds the dataclass ``kind`` from ``values``, recursing into dataclass fields.

    ``where`` names the place in messages ("recipe.yaml: objective"). Raises ``ConfigError`` for
    an unknown key, a value of the wrong type, or whatever the dataclass itself refuses.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected a mapping of settings, found {values!r}.")
    hints = typing.get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind) if f.init]  # type: ignore[arg-type]
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(unknown_key(where, str(key), known))
        arguments[key] = _coerce(hints[key], value, f"{where}.{key}")
    try:
        return kind(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def unknown_key(where: str, key: str, known: list[str], what: str = "setting") -> str:
    """The message for an unknown ``key``, which is a ``what``: names the nearest of the ``known``
    ones."""
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(sorted(known))}."
    return f"{where}: unknown {what} {key!r}; {hint}"


def require(condition: bool, field: str, rule: str, value: object) -> None:
    """Raises ``ConfigError`` naming field, rule and value unless ``condition`` holds."""
    if not condition:
        raise ConfigError(f"{field} must be {rule}, but is {value!r}.")


def to_dict(instance: Any) -> dict[str, Any]:
    """A dataclass as plain YAML types (tuples become lists)."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if isinstance(value, Path):
            return str(value)
        return value

    result: dict[str, Any] = plain(instance)
    return result


_GIVE_YAML = "give the path of a YAML file."


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Reads a YAML mapping. Raises ``ConfigError`` if the file is missing, is not a mapping, or
    says a setting twice."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        nearest = difflib.get_close_matches(path.name, (p.name for p in path.parent.glob("*.yaml")))
        hint = f"did you mean {path.parent / nearest[0]}?" if nearest else _GIVE_YAML
        raise ConfigError(f"{path}: no such file; {hint}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; {_GIVE_YAML}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text; {_GIVE_YAML}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error}).") from None
    try:
        values = _parse_yaml(text)
    except ConfigError as problem:
        raise ConfigError(f"{path}: is not valid YAML ({problem}).") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of settings at the top level.")
    return values


def write_yaml(values: Mapping[str, Any]) -> str:
    """``values`` as YAML text, in the given order."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)


def merge(parent: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``parent`` with ``changes`` laid over it, mapping by mapping."""
    merged = dict(parent)
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def dotted(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings one by one, with their dotted names."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def parse_override(text: str) -> dict[str, Any]:
    """``"optimizer.lr=1e-3"`` as ``{"optimizer": {"lr": 0.001}}``. Raises ``ConfigError``."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"override {text!r}: expected setting=value, as in optimizer.lr=1e-3.")
    try:
        parsed: Any = _parse_yaml(value)
    except ConfigError as problem:
        raise ConfigError(f"override {text!r}: {value!r} is no YAML value ({problem}).") from None
    for key in reversed(name.split(".")):
        parsed = {key: parsed}
    result: dict[str, Any] = parsed
    return result


class _StrictLoader(yaml.SafeLoader):
    """Refuses a mapping with a key twice, of which YAML would keep the last without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.composer.ComposerError(
                    problem=f"{key.value!r} stands there twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return node


def _parse_yaml(text: str) -> Any:
    """What ``text`` says. Raises ``ConfigError`` whose message is the problem alone."""
    try:
        return yaml.load(text, _StrictLoader)
    except Exception as error:  # PyYAML lets those of int(), datetime() and recursion through
        raise ConfigError(" ".join(str(error).split())) from None


def _coerce(hint: Any, value: Any, where: str) -> Any:
    """``value`` as the type that ``hint`` names; YAML reads 1e-3 as text, so numbers are parsed."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        error: ConfigError | None = None
        for option in options:
            if option is not type(None):
                try:
                    return _coerce(option, value, where)
                except ConfigError as problem:
                    error = problem
        raise error or ConfigError(f"{where}: {value!r} is not allowed here.")
    if origin is typing.Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            names = ", ".join(map(str, choices))
            raise ConfigError(f"{where}: must be one of {names}, but is {value!r}.")
        return value
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: expected a list, found {value!r}.")
        args = typing.get_args(hint)
        fixed = origin is tuple and not (len(args) == 2 and args[1] is Ellipsis)
        if fixed and len(value) != len(args):
            raise ConfigError(f"{where}: expected {len(args)} values, found {len(value)}.")
        kinds = args if fixed else [args[0]] * len(value)
        return origin(_coerce(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value)))
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected a mapping, found {value!r}.")
        return dict(value)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, where)  # type: ignore[arg-type]
    if hint is bool or isinstance(value, bool):
        if hint is bool and isinstance(value, bool):
            return value
        raise ConfigError(f"{where}: expected {_name(hint)}, found {value!r}.")
    if hint is int and isinstance(value, int):
        return value  # float() would round it from 2^53 on
    if hint in (int, float):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(f"{where}: expected {_name(hint)}, found {value!r}.") from None
        if hint is int:
            if not number.is_integer():
                raise ConfigError(f"{where}: expected {_name(hint)}, found {value!r}.")
            return int(number)
        return number
    if hint is str and isinstance(value, str):
        return value
    raise ConfigError(f"{where}: expected {_name(hint)}, found {value!r}.")


def _name(hint: Any) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}.get(
        hint, str(hint)
    )
