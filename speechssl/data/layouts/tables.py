"""Tables that say what recordings hold: .tsv, .csv and .jsonl files, and finding the recordings."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """What a table says about one recording."""

    audio: str
    text: str | None
    speaker: str | None


def name_recordings(folder: Path, files: Iterable[Path]) -> dict[str, Path]:
    """An id for each file: its path in ``folder``, or its whole path if it is elsewhere, with the
    ending only where it is needed, and a number behind it where others would have the same
    (a/b.wav, a-b.wav)."""
    relative = {
        file: file.relative_to(folder if file.is_relative_to(folder) else file.anchor)
        for file in files
    }
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
    read = _read_json_lines if path.suffix.lower() == ".jsonl" else _read_cells
    header, records = read(path)
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


def recordings_by_name(
    recordings: Mapping[str, Path], folder: Path, table: Path
) -> Callable[[str], str | None]:
    """Finds the id of the recording that a row of ``table`` names, or None.

    A name is a path in ``folder`` or beside the table, with or without the ending, or the bare name
    of the file where that is unique. An é counts as one letter, however it is encoded.
    """
    places: dict[str, str] = {}
    bare = Counter(name for file in recordings.values() for name in (file.name, file.stem))
    for id, file in recordings.items():
        path = file.relative_to(folder)
        names = [str(file.resolve()), path.as_posix(), path.with_suffix("").as_posix()]
        names += [name for name in (file.name, file.stem) if bare[name] == 1]
        for name in names:
            places.setdefault(_composed(name), id)

    def find(name: str) -> str | None:
        name = _composed(name.removeprefix("./"))
        return places.get(_composed(str((table.parent / name).resolve()))) or places.get(name)

    return find


def _composed(name: str) -> str:
    """``name`` in Unicode NFC: macOS gives files decomposed names, tables seldom have them."""
    return unicodedata.normalize("NFC", name)


def _read_cells(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """The header and the records of a .tsv or .csv file."""
    delimiter = DELIMITERS.get(path.suffix.lower())
    if delimiter is None:
        raise ManifestError(
            f"{path}: transcripts must be a .tsv or .csv file with a header, or a .jsonl file."
        )
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    stream = io.StringIO(read_text(path))
    reader = csv.DictReader(stream, delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[call-overload]
    try:
        header, records = list(reader.fieldnames or []), list(reader)
    except csv.Error as error:
        raise ManifestError(
            f"{path}: line {reader.line_num + 1}: is no row of a table ({error}); mend its quotes."
        ) from None
    longer = [record for record in records if any(map(str.strip, record.get(None, ())))]
    if longer:
        first = delimiter.join(longer[0][name] for name in header)
        raise ManifestError(
            f"{path}: {len(longer)} row(s) have more cells than the header, the first: "
            f"{first[:80]!r}; in a .csv quote text with commas, in a .tsv take its tabs out."
        )
    return header, records


def _read_json_lines(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """The keys and the records of a file with one JSON object per line."""
    records = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            record = parse_object(line)
            if record is None:
                raise ManifestError(f"{path}: line {number} is no JSON object; repair the file.")
            records.append(record)
    return list(dict.fromkeys(key for record in records for key in record)), records


def read_text(path: Path) -> str:
    """The text of a file. Raises ``ManifestError`` unless it is there and in UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file; check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read as UTF-8 text ({error}).") from None


def parse_object(line: str) -> dict[str, Any] | None:
    """The JSON object in ``line``; None if it is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _column(header: list[str], names: tuple[str, ...]) -> str | None:
    lower = {column.strip().lower(): column for column in header if column}
    return next((lower[name] for name in names if name in lower), None)


def _cell(record: Mapping[str, Any], column: str | None) -> str | None:
    value = record.get(column) if column else None
    return str(value).strip() or None if value is not None else None
