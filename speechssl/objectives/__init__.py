"""Objectives, one pretext task per file; a file put into this folder is found by its name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from speechssl.config import build, unknown_key
from speechssl.errors import ConfigError
from speechssl.models.encoder import EncoderConfig
from speechssl.objectives.base import Objective


def objective_names() -> list[str]:
    """The kinds of objective there are, sorted: the files here that define one."""
    return [name for name in _file_names() if _find_objective(name) is not None]


def load_objective(kind: str) -> type[Objective]:
    """The ``Objective`` that ``<kind>.py`` in this folder defines.

    Raises ``ConfigError`` naming the nearest known kind where there is none, and all of them where
    ``kind`` is empty.
    """
    if not kind:
        names = ", ".join(objective_names())
        raise ConfigError(f"objective: has no kind; set objective.kind to one of {names}.")
    found = _find_objective(kind) if kind in _file_names() else None
    if found is None:
        raise ConfigError(unknown_key("objective", kind, objective_names(), "kind"))
    return found


def build_objective(
    settings: Mapping[str, Any], encoder: EncoderConfig, num_clusters: int | None = None
) -> Objective:
    """Builds the objective that a recipe's ``objective`` section names.

    ``settings`` holds ``kind`` and the settings of that kind's ``Config``; ``num_clusters`` is
    the size of the targets' codebook where the objective needs targets. Raises ``ConfigError``
    for an unknown kind or setting, or a value out of range.
    """
    objective = load_objective(str(settings.get("kind") or ""))
    values = {name: value for name, value in settings.items() if name != "kind"}
    return objective(build(objective.Config, values, "objective"), encoder, num_clusters)


def _file_names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def _find_objective(file_name: str) -> type[Objective] | None:
    """The subclass of ``Objective`` defined in that file; None for helpers such as masking."""
    module = importlib.import_module(f"{__name__}.{file_name}")
    for value in vars(module).values():
        is_objective = isinstance(value, type) and issubclass(value, Objective)
        if is_objective and value.__module__ == module.__name__ and value is not Objective:
            found: type[Objective] = value
            return found
    return None
