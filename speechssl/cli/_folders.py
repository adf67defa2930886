"""What ``import`` and ``export`` have in common: the folder they write, and not to overwrite."""

from __future__ import annotations

from pathlib import Path

import click

from speechssl.cli._options import require_overwrite

overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace what an earlier call wrote there."
)


def model_folder_once(path: Path, overwrite: bool) -> None:
    """Raises ``RunFolderError`` if a model folder is at ``path`` and must not be replaced, or if
    anything else is there but an empty folder."""
    from speechssl.models.folder import is_model_folder

    _once(path, overwrite, "a model folder", is_model_folder(path))


def conversion_once(path: Path, overwrite: bool) -> None:
    """Raises ``RunFolderError`` if another project's form of a model is at ``path`` and must not be
    replaced, or if anything else is there but an empty folder."""
    from speechssl.interop.certificate import FILE
    from speechssl.models.folder import is_model_folder

    converted = (path / FILE).is_file() and not is_model_folder(path)  # imports have one too
    _once(path, overwrite, "an export to another project", converted)


def _once(path: Path, overwrite: bool, what: str, is_such: bool) -> None:
    from speechssl.files import require_replaceable

    require_replaceable(path, what, is_such)
    if is_such:
        require_overwrite(path, overwrite)
