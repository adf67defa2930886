"""Reading Lhotse Shar where it lies: which recording is where in which tar.

A folder in Lhotse Shar, as ``tools/prepare_folder.py --shar`` or Lhotse's ``CutSet.to_shar`` writes
it, holds cuts in ``cuts.000000.jsonl.gz`` and their audio in ``recording.000000.tar``, and so on.
For each cut, in the same order, the tar has ``<cut id>.flac`` (or another format) and
``<cut id>.json`` (the Lhotse recording, without a place). A tar is not compressed: a recording in
it can be read by itself, wherever it lies. Its place is written, as the source of a recording with
the type ``shar``, ``<tar>#<first byte>+<bytes>``. Nothing is ever unpacked.

Lhotse is not imported here, for the reason given in ``data.audio``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechssl.errors import AudioError, ManifestError
from speechssl.files import sha256

MAX_DESCRIPTION = 1 << 20
"""Bytes that the JSON beside a recording may have; Lhotse writes about 300."""

_CUTS = re.compile(r"cuts(.*)\.jsonl(\.gz)?")
_PLACE = re.compile(r"(?P<tar>.+)#(?P<first>[0-9]{1,18})\+(?P<size>[0-9]{1,18})", re.DOTALL)
_AGAIN = "copy or write the folder again."


def is_shar(path: Path) -> bool:
    """Whether ``path`` is a folder with recordings in Lhotse Shar."""
    return path.is_dir() and any(path.glob("recording*.tar"))


def shards(folder: Path) -> list[tuple[Path, Path]]:
    """(cuts, tar) of each shard, in order.

    Raises ``ManifestError`` where one of the two is missing.
    """
    files = {path.name: path for path in folder.iterdir()}
    tars = {name for name in files if name.startswith("recording") and name.endswith(".tar")}
    found = []
    for name in sorted(files):
        if match := _CUTS.fullmatch(name):
            tar = f"recording{match[1]}.tar"
            if tar not in files:
                raise ManifestError(f"{folder / tar}: is missing beside {name}; {_AGAIN}")
            tars.discard(tar)
            found.append((files[name], files[tar]))
    if tars:
        raise ManifestError(f"{folder / min(tars)}: its cuts....jsonl.gz is missing; {_AGAIN}")
    return found


def shar_hash(folder: Path) -> str:
    """A SHA-256, in hexadecimal, of all cuts and the sizes of the tars, the same anywhere."""
    digest = hashlib.sha256()
    for cuts, tar in shards(folder):
        digest.update(f"{cuts.name} {sha256(cuts)} {tar.stat().st_size}\n".encode())
    return digest.hexdigest()


def stored_recordings(tar: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(cut id, recording) for each recording in a tar, in order; the audio is passed over.

    The recordings are as in a manifest, with their places relative to the folder above that of the
    tar. Raises ``ManifestError`` if the tar is damaged or truncated or has other members.
    """
    try:
        with tarfile.open(tar, "r:") as archive:
            end = tar.stat().st_size
            members = iter(archive)
            for audio in members:
                about = _checked(tar, audio, next(members, None), end)
                description = archive.extractfile(about)
                assert description is not None  # a plain file, as was checked
                yield audio.name.rpartition(".")[0], _recording(tar, audio, description.read())
    except (tarfile.TarError, OSError, ValueError) as error:
        raise ManifestError(f"{tar}: is damaged, truncated or no tar ({error}); {_AGAIN}") from None


def tar_of(source: str) -> str | None:
    """The tar in the place of a recording; None if ``source`` names no place."""
    match = _PLACE.fullmatch(source)
    return match["tar"] if match else None


def read_stored(source: str) -> io.BytesIO:
    """The bytes at the place of a recording. Raises ``AudioError`` if they are not there."""
    match = _PLACE.fullmatch(source)
    if match is None:
        raise AudioError(
            f"{source!r}: is no place in a tar; for Lhotse Shar give the folder of the shards, not "
            "one of its cuts....jsonl.gz."
        )
    first, size = int(match["first"]), int(match["size"])
    try:
        with open(match["tar"], "rb") as stream:
            held = os.fstat(stream.fileno()).st_size
            if first + size > held:
                raise AudioError(
                    f"{match['tar']}: is truncated: a recording lies at bytes {first} to "
                    f"{first + size}, the file has {held}; copy it again."
                )
            stream.seek(first)
            return io.BytesIO(stream.read(size))
    except OSError as error:
        raise AudioError(
            f"{match['tar']}: cannot be read ({error.strerror}); copy it again."
        ) from None


def _checked(
    tar: Path, audio: tarfile.TarInfo, about: tarfile.TarInfo | None, end: int
) -> tarfile.TarInfo:
    """``about``, if the two are audio and its description, and whole; else ``ManifestError``."""
    for member in (audio, about or audio):
        if not member.isreg() or member.issparse() or member.size < 0:
            raise ManifestError(f"{tar}: {member.name!r} is no plain file; {_AGAIN}")
        if member.offset_data + member.size > end:
            raise ManifestError(f"{tar}: is truncated in {member.name!r}; {_AGAIN}")
    expected = audio.name.rpartition(".")[0] + ".json"
    if about is None or about.name != expected or about.size > MAX_DESCRIPTION:
        found = "nothing" if about is None else repr(about.name)
        raise ManifestError(
            f"{tar}: {audio.name!r} must be a recording, followed by {expected!r}, but {found} "
            f"follows; {_AGAIN}"
        )
    return about


def _recording(tar: Path, audio: tarfile.TarInfo, description: bytes) -> dict[str, Any]:
    """The recording that ``description`` describes, at the place of ``audio``."""
    try:
        recording: dict[str, Any] = json.loads(description)
        (source,) = recording["sources"]
        place = f"{tar.parent.name}/{tar.name}#{audio.offset_data}+{audio.size}"
        stored = {"type": "shar", "channels": source["channels"], "source": place}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ManifestError(
            f"{tar}: beside {audio.name!r} is no Lhotse recording; {_AGAIN}"
        ) from None
    return {**recording, "sources": [stored]}
