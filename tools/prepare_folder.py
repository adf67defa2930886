#!/usr/bin/env python3
"""Prepares anyone's folder of recordings, with or without transcripts.

Audio of any rate and any number of channels: wav, flac, ogg, mp3 and others that libsndfile reads,
m4a and others where FFmpeg is installed. Transcripts come from a TSV or CSV table, from .txt files
of the same name beside the audio, or there are none. Untranscribed recordings serve pretraining;
dev and test are drawn from the transcribed ones.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from speechssl.cli.main import OneLineErrors
from speechssl.data.audio import find_audio
from speechssl.data.corpus import Rejected, Utterance, split_by_speaker, write_corpus
from speechssl.data.text import normalize_text
from speechssl.errors import AudioError, ConfigError, ManifestError

COLUMNS = {
    "audio": ("path", "file", "filename", "file_name", "audio", "audio_path", "audio_filepath"),
    "text": ("text", "sentence", "transcript", "transcription"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk"),
}
"""The names under which a table may hold each thing; upper or lower case."""


@click.command(
    cls=OneLineErrors,
    epilog="Example: python tools/prepare_folder.py recordings data/mine "
    "--transcripts recordings/train.tsv --language en",
    help="Writes OUT/{train,dev,test}/cuts.jsonl.gz for the recordings in AUDIO_FOLDER and a "
    "report. Splits are by speaker where the speakers are known, otherwise by recording.",
)
@click.argument("audio_folder", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--transcripts",
    type=click.Path(path_type=Path),
    help="A .tsv or .csv table with a header: one column path, file or audio, one column text, "
    "sentence or transcript, perhaps one column speaker.",
)
@click.option("--language", help="Language of the recordings, as en or pt-BR: spells out digits.")
@click.option(
    "--speaker-from",
    metavar="parent|REGEX",
    help="Take the speaker from the name of the folder that holds a file, or from the first group "
    "of a regular expression found in its path, as '^(spk[0-9]+)_'.",
)
@click.option("--dev", type=click.FloatRange(0, 1, max_open=True), default=0.1, show_default=True)
@click.option("--test", type=click.FloatRange(0, 1, max_open=True), default=0.1, show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace another corpus in OUT.")
def main(
    audio_folder: Path,
    out: Path,
    transcripts: Path | None,
    language: str | None,
    speaker_from: str | None,
    dev: float,
    test: float,
    overwrite: bool,
) -> None:
    if dev + test >= 1:
        raise ConfigError(f"--dev and --test must leave something to train, but are {dev}, {test}.")
    if audio_folder.is_file():
        raise AudioError(f"{audio_folder}: is a file; give the folder with the recordings.")
    recordings = name_recordings(audio_folder, find_audio(audio_folder))
    rejected: list[Rejected] = []
    notes: list[str] = []
    if transcripts is not None:
        rows, columns = read_table(transcripts)
        notes.append(columns)
        known, bad = match_rows(rows, recordings, audio_folder, transcripts)
        rejected += bad
    else:
        known, bad = read_text_files(recordings)
        rejected += bad
    refused = {item.item for item in rejected}
    utterances = []
    for id, audio in recordings.items():
        row = known.get(id, Row("", None, None))
        text = normalize_text(row.text, language) if row.text else None
        if text == "":
            rejected.append(Rejected(id, f"transcript {row.text!r} has no word"))
        elif id not in refused:
            speaker = row.speaker or speaker_of(audio, audio_folder, speaker_from)
            utterances.append(Utterance(id, audio, text, speaker, language))
    untold = sum(utterance.text is None for utterance in utterances)
    if untold:
        notes.append(f"{untold} recordings have no transcript; they serve pretraining only")
    splits, how = split_by_speaker(utterances, dev=dev, test=test)
    write_corpus(
        out,
        splits,
        corpus=f"recordings in {audio_folder}",
        rejected=rejected,
        notes=[*notes, how],
        overwrite=overwrite,
    )


@dataclass(frozen=True)
class Row:
    """What a table or a text file says about one recording."""

    audio: str
    text: str | None
    speaker: str | None


def name_recordings(folder: Path, files: Iterable[Path]) -> dict[str, Path]:
    """An id for each file: its path in ``folder``, with the ending only where it is needed."""
    relative = {file: file.relative_to(folder) for file in files}
    stems = Counter(path.with_suffix("") for path in relative.values())
    names = {
        file: path.with_suffix("") if stems[path.with_suffix("")] == 1 else path
        for file, path in relative.items()
    }
    return {re.sub(r"[\s/\\]+", "-", path.as_posix()): file for file, path in names.items()}


def read_table(path: Path) -> tuple[list[Row], str]:
    """The rows of a .tsv or .csv file and a sentence that says which columns were understood.

    Raises ``ManifestError`` if it is missing, of another kind, malformed, or lacks a column.
    """
    delimiter = {".tsv": "\t", ".csv": ","}.get(path.suffix.lower())
    if delimiter is None:
        raise ManifestError(f"{path}: transcripts must be a .tsv or .csv file with a header.")
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
            reader = csv.DictReader(stream, delimiter=delimiter, quoting=quoting)  # type: ignore[call-overload]
            header = list(reader.fieldnames or [])
            records = list(reader)
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file; check --transcripts.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: cannot be read as a UTF-8 table ({error}).") from None
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


def _column(header: list[str], names: tuple[str, ...]) -> str | None:
    lower = {column.strip().lower(): column for column in header if column}
    return next((lower[name] for name in names if name in lower), None)


def _cell(record: Mapping[str, str | None], column: str | None) -> str | None:
    return (record.get(column) or "").strip() or None if column else None


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
        found = places.get(name) or places.get(str((table.parent / name).resolve()))
        if found is None:
            rejected.append(
                Rejected(row.audio or "(no file)", "is in the table, not in the folder")
            )
        elif found in known and known[found] != row:
            rejected.append(Rejected(found, "has two different rows in the table"))
        else:
            known[found] = row
    return known, rejected


def read_text_files(recordings: Mapping[str, Path]) -> tuple[dict[str, Row], list[Rejected]]:
    """The transcripts in .txt files beside the audio, by id, and the unreadable ones."""
    known, rejected = {}, []
    for id, file in recordings.items():
        path = file.with_suffix(".txt")
        try:
            if path.exists():
                known[id] = Row(file.name, path.read_text("utf-8-sig").strip() or None, None)
        except (OSError, UnicodeDecodeError) as error:
            rejected.append(Rejected(id, f"{path} cannot be read as UTF-8 text ({error})"))
    return known, rejected


def speaker_of(audio: Path, folder: Path, rule: str | None) -> str | None:
    """The speaker of a recording by ``rule``: "parent", a regular expression, or None.

    Raises ``ConfigError`` if the expression is malformed or has no group.
    """
    if rule is None:
        return None
    if rule == "parent":
        return audio.parent.name if audio.parent != folder else None
    try:
        match = re.search(rule, audio.relative_to(folder).as_posix())
        return match[1] if match else None
    except (re.error, IndexError) as error:
        raise ConfigError(
            f"--speaker-from {rule!r}: is not a regular expression with a group ({error})."
        ) from None


if __name__ == "__main__":
    main()
