"""Another project's settings as a table: which of theirs is which of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from speechssl.config import build, merge, to_dict
from speechssl.errors import ConfigError
from speechssl.models.encoder import EncoderConfig
from speechssl.models.frontend import CONV_KERNELS, CONV_STRIDES


@dataclass(frozen=True)
class SettingsTable:
    """How another project describes an encoder."""

    names: Mapping[str, str]
    """From their names to ours in ``EncoderConfig`` ("frontend.channels")."""
    always: Mapping[str, Any] = field(default_factory=dict)
    """Settings of ``EncoderConfig`` of which they do not speak, where ours have other defaults."""
    forms: Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = field(
        default_factory=dict
    )
    """By their name: what makes our value of theirs, and theirs of ours."""

    def encoder(self, values: Mapping[str, Any], normalize: bool, where: str) -> EncoderConfig:
        """Our configuration; ``normalize`` says whether waveforms are normalised first.

        Raises ``ConfigError`` for values that do not fit; ``where`` is for the message.
        """
        ours = merge({"frontend": {"normalize_waveform": normalize}}, self.always)
        for theirs, name in self.names.items():
            value = values[theirs]
            ours = merge(ours, _nested(name, self._form(theirs, 0)(value)))
        return build(EncoderConfig, ours, where)

    def theirs(self, config: EncoderConfig) -> dict[str, Any]:
        """Their settings for an encoder: the inverse of ``encoder``."""
        values = to_dict(config)
        return {
            theirs: self._form(theirs, 1)(_value(values, name))
            for theirs, name in self.names.items()
        }

    def _form(self, name: str, direction: int) -> Callable[[Any], Any]:
        return self.forms[name][direction] if name in self.forms else lambda value: value


def one_width(widths: Any) -> Any:
    """The width of all convolutions of the frontend. Raises ``ConfigError`` where they differ."""
    if len(set(widths)) != 1 or len(widths) != len(CONV_KERNELS):
        raise ConfigError(
            f"the convolutions have widths {list(widths)}; speechssl has {len(CONV_KERNELS)} of "
            "one width."
        )
    return widths[0]


def conv_layers(channels: int) -> list[list[int]]:
    """[channels, kernel, stride] of each convolution of the frontend."""
    return [[channels, kernel, stride] for kernel, stride in zip(CONV_KERNELS, CONV_STRIDES)]


PRE_NORM = (lambda pre: "pre" if pre else "post", lambda norm: norm == "pre")
"""``SettingsTable.forms`` for a yes or no to "layer norm first"."""


def _nested(name: str, value: Any) -> dict[str, Any]:
    """("a.b", 1) -> {"a": {"b": 1}}."""
    for key in reversed(name.split(".")):
        value = {key: value}
    nested: dict[str, Any] = value
    return nested


def _value(values: Mapping[str, Any], name: str) -> Any:
    """The inverse of ``_nested``."""
    found: Any = values
    for key in name.split("."):
        found = found[key]
    return found
