"""Writing files and folders so that nobody ever sees half of one, naming and hashing them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from speechssl.errors import ConfigError, RunFolderError

LONGEST_ENDING = 48
"""Characters of a name that a temporary name ends in: with them it is at most 255 bytes long, which
file systems take, whatever the name and its script."""


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; renames it to ``path`` when the block succeeds.

    The temporary name keeps the ending of ``path`` (writers such as Lhotse choose the format by
    it). When the block raises, the temporary file is removed and ``path`` is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=".tmp-", suffix="-" + path.name.lstrip(".")[-LONGEST_ENDING:]
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder of the same name; it takes the place of ``path``, whatever is there,
    when the block succeeds. When it raises, ``path`` is left as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".tmp-{path.name}-") as temporary:
        fresh = Path(temporary) / "new" / path.name
        fresh.mkdir(parents=True)
        yield fresh
        if path.exists():
            os.replace(path, Path(temporary) / "old")
        os.replace(fresh, path)


def require_replaceable(path: Path, what: str, is_such: bool) -> None:
    """Raises ``RunFolderError`` if at ``path`` is something else than ``what`` (as ``is_such``
    says), an empty folder or nothing."""
    if path.exists() and not is_such and not (path.is_dir() and not any(path.iterdir())):
        raise RunFolderError(
            f"{path}: exists and is not {what}; give another name or remove it first."
        )


def write_text(path: Path | str, text: str) -> None:
    """Writes ``text`` to ``path`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_figure(path: Path) -> None:
    """Raises ``ConfigError`` where a figure would not be called what it is."""
    if path.suffix.lower() != ".png":
        raise ConfigError(f"{path}: figures are drawn as PNG; give a name that ends in .png.")


def printable(path: Path | str) -> str:
    """``path`` as text that can be written; bytes of a name that are not UTF-8 become "\ufffd"."""
    return os.fsencode(path).decode(errors="replace")


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
