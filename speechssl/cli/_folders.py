"""Folders that commands are given: of runs, and of models that ``import`` and ``export`` write."""

from __future__ import annotations

from pathlib import Path

import click

overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace what an earlier call wrote there."
)


def require_run(exp: Path) -> None:
    """Raises ``RunFolderError`` unless ``exp`` is the folder of a run."""
    from speechssl.errors import RunFolderError
    from speechssl.training.run_folder import RECIPE_FILE

    if not (exp / RECIPE_FILE).is_file():
        what = f"is not a run folder (no {RECIPE_FILE})" if exp.exists() else "no such folder"
        raise RunFolderError(f"{exp}: {what}; give the EXP of pretrain or finetune.")


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
    from speechssl.errors import RunFolderError
    from speechssl.files import require_replaceable

    require_replaceable(path, what, is_such)
    if is_such and not overwrite:
        raise RunFolderError(f"{path}: exists; give --overwrite to replace it.")
