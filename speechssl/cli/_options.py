"""What many commands have in common: where and how much to compute, seeds, languages, and not to
overwrite."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])

LARGEST_SEED = 2**32 - 1
"""That numpy's generators take."""


def seed_option(what: str) -> Callable[[_Command], _Command]:
    """The option ``--seed``; ``what`` says what it decides."""
    seeds = click.IntRange(0, LARGEST_SEED)
    return click.option("--seed", type=seeds, default=0, show_default=True, help=what)


def language_option(what: str) -> Callable[[_Command], _Command]:
    """The option ``--language``, a code; the name of a language is refused."""
    return click.option("--language", callback=_language_code, help=what)


def _language_code(
    _context: click.Context, _option: click.Parameter, language: str | None
) -> str | None:
    if language is not None and re.match("[A-Za-z]{4}", language):
        raise click.BadParameter(f"{language!r} is no code of a language; give one, as en or pt-BR")
    return language


device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1."
)

precision_option = click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "int8"]),
    default="auto",
    show_default=True,
    help="bf16 is up to twice as fast on processors made for it (AVX-512 bf16, AMX, most GPUs), "
    "and few words change; auto is bf16 on those, else fp32. int8, for CPUs with AVX-512 VNNI, is "
    "1.2 to 1.4 times as fast as bf16 for models of base size, and hardly faster for tiny ones.",
)

batch_seconds_option = click.option(
    "--batch-seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Audio computed at once, padding included. Lower it when memory runs out.  [default: 20 "
    "on a CPU, 120 on a GPU]",
)


def write_once(path: Path | None, overwrite: bool) -> None:
    """Raises ``RunFolderError`` if a file is at ``path`` and must not be replaced, or a folder."""
    from speechssl.errors import RunFolderError

    if path is None:
        return
    if path.is_dir():
        raise RunFolderError(f"{path}: is a folder; give the name of a file.")
    require_overwrite(path, overwrite)


def require_overwrite(path: Path, overwrite: bool) -> None:
    """Raises ``RunFolderError`` if anything is at ``path`` and must not be replaced."""
    from speechssl.errors import RunFolderError

    if path.exists() and not overwrite:
        raise RunFolderError(f"{path}: exists; give --overwrite to replace it.")
