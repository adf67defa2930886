"""The projects that checkpoints come from and go to: modules of this folder, found by their names.

A project is a file or folder ``speechssl/interop/<name>`` whose module has

``SOURCES``                        what of the project can be imported, in a few words
``recognises(source)``             whether ``source`` looks like one of its checkpoints; it reads
                                   names and headers, no weights
``import_model(source, folder)``   writes a model folder: ``(Certificate, notes)``
``export_model(folder, out)``      writes the project's form of it: ``(Certificate, notes)``; only
                                   where the project has one
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Protocol

import speechssl.interop
from speechssl.errors import CheckpointError
from speechssl.interop.certificate import Certificate
from speechssl.interop.pickles import is_cut_off
from speechssl.interop.weights import REMEDY

ALIASES = {"hf": "transformers"}
"""Other names that people know a project by."""


class Project(Protocol):
    """What a project's module has (see above)."""

    SOURCES: str

    def recognises(self, source: str) -> bool: ...

    def import_model(self, source: str, model_dir: Path) -> tuple[Certificate, list[str]]: ...

    def export_model(self, model_dir: Path, out: Path) -> tuple[Certificate, list[str]]: ...


def project_names() -> list[str]:
    """The projects there are, sorted."""
    names = [module.name for module in pkgutil.iter_modules(speechssl.interop.__path__)]
    return sorted(name for name in names if hasattr(_module(name), "import_model"))


def load_project(name: str) -> Project:
    """The project of that name. Raises ``CheckpointError`` where there is none."""
    name = ALIASES.get(name, name)
    names = project_names()
    if name not in names:
        raise CheckpointError(f"{name!r} is no project known here; known are {', '.join(names)}.")
    return _module(name)


def find_project(source: str) -> Project:
    """The project whose checkpoint ``source`` is.

    Raises ``CheckpointError`` where none recognises it, or several do.
    """
    found = [name for name in project_names() if _module(name).recognises(source)]
    if len(found) == 1:
        return _module(found[0])
    if found:
        raise CheckpointError(f"{source}: may be of {' or '.join(found)}; say which with --from.")
    if not Path(source).exists():
        raise CheckpointError(
            f"{source}: no such file or folder, and no name of a model that a project knows."
        )
    if Path(source).is_file() and is_cut_off(Path(source)):
        raise CheckpointError(f"{source}: is not a complete PyTorch file; {REMEDY}.")
    known = "; ".join(f"{name}: {_module(name).SOURCES}" for name in project_names())
    raise CheckpointError(f"{source}: is no checkpoint of a project known here ({known}).")


def _module(name: str) -> Project:
    module: Project = importlib.import_module(f"{speechssl.interop.__name__}.{name}")
    return module
