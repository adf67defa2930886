"""NeMo manifests: files with one JSON object per line, which names an audio_filepath.

Source: https://docs.nvidia.com/nemo-framework/user-guide/latest/nemotoolkit/asr/datasets.html
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from speechssl.data.layouts import split_named
from speechssl.data.layouts.tables import name_recordings, parse_object, read_text
from speechssl.data.utterance import Listing, Rejected, Utterance, part_id
from speechssl.errors import ManifestError

ENDINGS = (".json", ".jsonl")
AUDIO = "audio_filepath"


def recognizes(folder: Path) -> bool:
    """Whether a manifest lies in ``folder``."""
    return bool(find_manifests(folder))


def find_manifests(folder: Path) -> list[Path]:
    """The files in ``folder`` whose first line is an entry of a manifest."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() in ENDINGS and path.is_file():
            with open(path, encoding="utf-8-sig", errors="replace") as stream:
                if AUDIO in (parse_object(stream.readline(100_000)) or {}):
                    found.append(path)
    return found


def read(folder: Path, table: Path | None, language: str | None) -> Listing:
    """All entries of the manifests in ``folder``. A file name says the split (train_manifest.json).

    An entry with "offset" is a part of its recording. Paths are relative to the manifest, as in
    NeMo. Raises ``ManifestError`` if there is no manifest or it is not UTF-8.
    """
    manifests = find_manifests(folder)
    if not manifests:
        raise ManifestError(
            f"{folder}: holds no NeMo manifest (a .json or .jsonl file whose first line has "
            f"{AUDIO!r}); choose another --layout."
        )
    listing = Listing()
    for path in manifests:
        _read_manifest(path, listing)
        split = split_named(path.stem)
        listing.notes.append(f"{path.name}: {split or 'of no split'}")
    counts = Counter(utterance.audio for utterance in listing.utterances)
    names = {file: id for id, file in name_recordings(folder, counts).items()}
    listing.utterances = [
        _identified(utterance, names[utterance.audio], counts[utterance.audio])
        for utterance in listing.utterances
    ]
    return listing


def _read_manifest(path: Path, listing: Listing) -> None:
    """Adds the entries of a manifest to ``listing``; their ids are set later."""
    split = split_named(path.stem)
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        entry = parse_object(line)
        try:
            if entry is None:
                raise ValueError("no JSON object")
            listing.utterances.append(_utterance(entry, path.parent, split))
        except (KeyError, RuntimeError, TypeError, ValueError) as error:  # RuntimeError: no such ~
            reason = f"is no entry of a NeMo manifest ({type(error).__name__}: {error})"
            listing.rejected.append(Rejected(f"{path.name} line {number}", reason))


def _utterance(entry: dict[str, Any], folder: Path, split: str | None) -> Utterance:
    audio = folder / Path(str(entry[AUDIO])).expanduser()
    part = entry.get("offset") is not None
    start, duration = (float(entry[name]) if part else 0.0 for name in ("offset", "duration"))
    if not math.isfinite(start + duration):
        raise ValueError("offset and duration are no numbers of seconds")
    text, speaker, language = (entry.get(name) for name in ("text", "speaker", "lang"))
    return Utterance(
        "",
        audio,
        str(text).strip() or None if text is not None else None,
        str(speaker) if speaker is not None else None,
        str(language) if language else None,
        start=start,
        duration=duration if part else None,
        split=split,
    )


def _identified(utterance: Utterance, name: str, entries: int) -> Utterance:
    if utterance.duration is None:
        return replace(utterance, id=name)
    end = utterance.start + utterance.duration
    id = part_id(name, utterance.start, end) if entries > 1 else name
    return replace(utterance, id=id, recording=name)
