"""Tables that say what recordings hold: .tsv, .csv and .jsonl files, and finding the recordings."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.data.utterance import Rejected
from speechssl.errors import ManifestError

COLUMNS = {
    "audio": ("path", "file", "filename", "file_name", "audio", "audio_path", "audio_filepath"),
    "text": ("text", "sentence", "transcript", "transcription"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk"),
}
"""The names under which a table may hold each thing; upper or lower case."""

DELIMITERS = {".tsv": "\t", ".csv": ","}


@dataclass(frozen=True)
class Row:
    """What a table or a text file says about one recording."""

    audio: str
    text: str | None
    speaker: str | None


def name_recordings(folder: Path, files: Iterable[Path]) -> dict[str, Path]:
    """An id for each file: its path in ``folder``, with the ending only where it is needed, and a
    number behind it where others would have the same (a/b.wav, a-b.wav)."""
    relative = {file: file.relative_to(folder) for file in files}
    stems = Counter(path.with_suffix("") for path in relative.values())
    names = {
        file: path.with_suffix("") if stems[path.with_suffix("")] == 1 else path
        for file, path in relative.items()
    }
    named: dict[str, Path] = {}
    for file, path in names.items():
        id = plain = re.sub(r"[\s/\\]+", "-", path.as_posix())
        number = 1
        while id in named:
            number += 1
            id = f"{plain}-{number}"
        named[id] = file
    return named


def read_table(path: Path) -> tuple[list[Row], str]:
    """The rows of a table and a sentence that says which columns were understood.

    Raises ``ManifestError`` if it is missing, of another kind, malformed, or lacks a column.
    """
    header, records = _read_json_lines(path) if path.suffix == ".jsonl" else _read_cells(path)
    columns = {what: _column(header, names) for what, names in COLUMNS.items()}
    for what in ("audio", "text"):
        if columns[what] is None:
            raise ManifestError(
                f"{path}: no {what} column; the header has {', '.join(header) or 'nothing'}, "
                f"one must be {', '.join(COLUMNS[what])}."
            )
    rows = [
        Row(
            _cell(r, columns["audio"]) or "",
            _cell(r, columns["text"]),
            _cell(r, columns["speaker"]),
        )
        for r in records
    ]
    used = ", ".join(f"{what} from column {name!r}" for what, name in columns.items() if name)
    return rows, f"{path.name}: {used}"


def match_rows(
    rows: Iterable[Row], recordings: Mapping[str, Path], folder: Path, table: Path
) -> tuple[dict[str, Row], list[Rejected]]:
    """The row of each recording, by id, and the rows that cannot be used.

    A row names its file by a path in ``folder`` or beside the table, with or without the ending,
    or by the bare name of the file where that is unique.
    """
    places: dict[str, str] = {}
    bare = Counter(name for file in recordings.values() for name in (file.name, file.stem))
    for id, file in recordings.items():
        path = file.relative_to(folder)
        names = [str(file.resolve()), path.as_posix(), path.with_suffix("").as_posix()]
        names += [name for name in (file.name, file.stem) if bare[name] == 1]
        for name in names:
            places.setdefault(name, id)
    known: dict[str, Row] = {}
    rejected = []
    for row in rows:
        name = row.audio.removeprefix("./")
        found = places.get(str((table.parent / name).resolve())) or places.get(name)
        if found is None:
            rejected.append(
                Rejected(row.audio or "(no file)", "is in the table, not in the folder")
            )
        elif found in known and known[found] != row:
            rejected.append(Rejected(found, "has two different rows in the table"))
        else:
            known[found] = row
    return known, rejected


def _read_cells(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """The header and the records of a .tsv or .csv file."""
    delimiter = DELIMITERS.get(path.suffix.lower())
    if delimiter is None:
        raise ManifestError(
            f"{path}: transcripts must be a .tsv or .csv file with a header, or a .jsonl file."
        )
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
            reader = csv.DictReader(stream, delimiter=delimiter, quoting=quoting)  # type: ignore[call-overload]
            return list(reader.fieldnames or []), list(reader)
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file; check --transcripts.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: cannot be read as a UTF-8 table ({error}).") from None


def _read_json_lines(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """The keys and the records of a file with one JSON object per line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file; check --transcripts.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read as UTF-8 text ({error}).") from None
    records = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            record = parse_object(line)
            if record is None:
                raise ManifestError(f"{path}: line {number} is no JSON object; repair the file.")
            records.append(record)
    return list(dict.fromkeys(key for record in records for key in record)), records


def parse_object(line: str) -> dict[str, Any] | None:
    """The JSON object in ``line``; None if it is none."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _column(header: list[str], names: tuple[str, ...]) -> str | None:
    lower = {column.strip().lower(): column for column in header if column}
    return next((lower[name] for name in names if name in lower), None)


def _cell(record: Mapping[str, Any], column: str | None) -> str | None:
    value = record.get(column) if column else None
    return str(value).strip() or None if value is not None else None
