"""Kaldi data directories: wav.scp, and perhaps segments, text, utt2spk and utt2lang.

Lhotse reads them too, but runs the commands that a wav.scp may hold. Here a command is never run.
Source: https://kaldi-asr.org/doc/data_prep.html
"""

from __future__ import annotations

import math
from pathlib import Path

from speechssl.data.layouts import split_named
from speechssl.data.layouts.tables import read_text
from speechssl.data.utterance import Listing, Rejected, Utterance
from speechssl.errors import ManifestError

RECORDINGS = "wav.scp"


def recognizes(folder: Path) -> bool:
    """Whether ``folder`` is a data directory, or holds some that are named for splits."""
    return bool(find_directories(folder))


def find_directories(folder: Path) -> dict[Path, str | None]:
    """The data directories at ``folder``, each with its split: the folder itself (no split), or
    those in it whose names say one (train_si284, dev, eval2000)."""
    if (folder / RECORDINGS).is_file():
        return {folder: None}
    named = {path.parent: split_named(path.parent.name) for path in folder.glob(f"*/{RECORDINGS}")}
    return {path: named[path] for path in sorted(named) if named[path]}


def read(folder: Path, table: Path | None, language: str | None) -> Listing:
    """All utterances of the data directories at ``folder``.

    Paths in wav.scp are relative to the folder, one of the two above it (as in a Kaldi recipe),
    or the current one. Raises ``ManifestError`` for malformed or repeated lines and for commands in
    wav.scp.
    """
    directories = find_directories(folder)
    if not directories:
        raise ManifestError(
            f"{folder}: holds no {RECORDINGS}, nor does a folder in it that is named for a split "
            "(train, dev, test); choose another --layout."
        )
    listing = Listing()
    for path, split in directories.items():
        _read_directory(path, split, listing)
        listing.notes.append(f"{path.name}/{RECORDINGS}: {split or 'of no split'}")
    return listing


def _read_directory(folder: Path, split: str | None, listing: Listing) -> None:
    places = _table(folder / RECORDINGS)
    audio = {name: _audio(folder, name, place) for name, place in places.items()}
    texts, speakers, languages = (_table(folder / n) for n in ("text", "utt2spk", "utt2lang"))
    segments = folder / "segments"
    if segments.is_file():
        parts = {name: _segment(segments, name, rest) for name, rest in _table(segments).items()}
    else:
        parts = {name: (name, 0.0, None) for name in audio}
    for name, (recording, start, duration) in parts.items():
        if recording not in audio:
            reason = f"{segments}: is of a recording ({recording}) that is not in {RECORDINGS}"
            listing.rejected.append(Rejected(name, reason))
            continue
        listing.utterances.append(
            Utterance(
                name,
                audio[recording],
                texts.get(name) or None,
                speakers.get(name) or None,
                languages.get(name) or None,
                start=start,
                duration=duration,
                recording=recording if segments.is_file() else None,
                split=split,
            )
        )
    for name in texts:
        if name not in parts:
            reason = f"{folder / 'text'}: has a transcript, but no recording"
            listing.rejected.append(Rejected(name, reason))


def _table(path: Path) -> dict[str, str]:
    """The rest of each line of a file by its first field; nothing if it is not there."""
    if not path.is_file():
        return {}
    table: dict[str, str] = {}
    for line in filter(str.strip, read_text(path).split("\n")):
        name, *rest = line.split(maxsplit=1)
        if name in table:
            raise ManifestError(f"{path}: {name} has two lines; keep one.")
        table[name] = "".join(rest).strip()
    return table


def _audio(folder: Path, name: str, place: str) -> Path:
    """The file of a line of wav.scp."""
    if place.endswith("|") or place.startswith("|"):
        raise ManifestError(
            f"{folder / RECORDINGS}: {name} is a command ({place[:60]!r}), and commands are never "
            "run; write the audio to files, and name these."
        )
    for base in (folder, folder.parent, folder.parent.parent, Path()):
        if (base / place).is_file():
            return base / place
    return folder / place


def _segment(path: Path, name: str, rest: str) -> tuple[str, float, float | None]:
    """(recording, start, duration) of a line of segments; an end of -1 is that of the recording."""
    try:
        recording, *times = rest.split()[:3]
        start, end = map(float, times)
        if not math.isfinite(start + end):
            raise ValueError
        return recording, start, None if end == -1 else end - start
    except ValueError:
        raise ManifestError(
            f"{path}: {name}: expected a recording, a start and an end in seconds, found {rest!r}."
        ) from None
