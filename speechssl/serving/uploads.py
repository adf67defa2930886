"""What a visitor sends: taken within limits, kept under a name of our own, removed afterwards.

The visitor's file name is only ever shown. Of it, the disk sees the ending, and that from our own
list of endings.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request

from speechssl.data.audio import AUDIO_SUFFIXES

MEGABYTE = 1_000_000

_LONGEST_NAME = 200
"""Characters of a file name that are shown."""

_MARKS = {
    ".m4a": (4, (b"ftyp",)),
    ".mp4": (4, (b"ftyp",)),
    ".aac": (0, (b"\xff\xf1", b"\xff\xf9", b"ADIF")),
    ".wma": (0, (b"\x30\x26\xb2\x75",)),
    ".webm": (0, (b"\x1a\x45\xdf\xa3",)),
}
"""Where and how the files begin that FFmpeg decodes. It guesses formats by the contents, and some
(playlists) name other files and addresses, which a visitor must not make it open. An ID3 tag is no
such mark: FFmpeg skips it, and anything may follow."""


def shown_name(name: str) -> str:
    """A visitor's file name without folders and characters that do not print."""
    name = name.replace("\\", "/").rpartition("/")[2]
    name = "".join(character for character in name if character.isprintable()).strip()
    return name[-_LONGEST_NAME:] or "recording"


@asynccontextmanager
async def received(
    request: Request, name: str, folder: Path, most_bytes: int
) -> AsyncIterator[Path]:
    """Saves the body of ``request`` in ``folder``; the file is removed when the block is left.

    ``name`` is what the visitor calls it. Raises ``HTTPException`` with a message for the visitor
    (413: too large, 415: not audio by its name or beginning, 400: empty, 507: the disk is full)
    and ``ClientDisconnect``.
    """
    ending = _ending(name)
    _check_size(int(request.headers.get("content-length", 0)), name, most_bytes)
    path = folder / f"{secrets.token_hex(16)}{ending}"
    try:
        await _save(request, path, name, most_bytes)
        _check_beginning(path, name)
        yield path
    finally:
        path.unlink(missing_ok=True)


async def _save(request: Request, path: Path, name: str, most_bytes: int) -> None:
    size = 0
    try:
        with path.open("xb") as file:
            async for block in request.stream():
                size += len(block)
                _check_size(size, name, most_bytes)
                file.write(block)  # blocks are small, and land in the system's memory
    except OSError as error:
        raise HTTPException(507, f"{name}: the server cannot keep it ({error.strerror}).") from None
    if not size:
        raise HTTPException(400, f"{name}: is empty (0 bytes).")


def _ending(name: str) -> str:
    for ending in AUDIO_SUFFIXES:
        if name.lower().endswith(ending):
            return ending
    raise HTTPException(
        415, f"{name}: is no audio by its name; known endings are {' '.join(AUDIO_SUFFIXES)}."
    )


def _check_size(size: int, name: str, most_bytes: int) -> None:
    if size > most_bytes:
        raise HTTPException(
            413,
            f"{name}: is larger than the {most_bytes // MEGABYTE} MB that this server takes; "
            "send a compressed format such as FLAC, or a part of it.",
        )


def _check_beginning(path: Path, name: str) -> None:
    if path.suffix not in _MARKS:
        return
    skipped, marks = _MARKS[path.suffix]
    with path.open("rb") as file:
        file.seek(skipped)
        beginning = file.read(8)
    if not beginning.startswith(marks):
        raise HTTPException(
            415, f"{name}: is no {path.suffix} file by its contents; convert it to WAV or FLAC."
        )
