"""A folder of recordings. Transcripts come from one table for all, from subtitles (.srt, .vtt) or
.txt files of the same name beside the audio, or there are none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from speechssl.data.audio import find_audio
from speechssl.data.layouts import split_named
from speechssl.data.layouts.subtitles import Cue, find_subtitles, read_cues
from speechssl.data.layouts.tables import (
    name_recordings,
    read_table,
    read_text,
    recordings_by_name,
)
from speechssl.data.utterance import Listing, Rejected, Utterance, part_id
from speechssl.errors import ManifestError


def recognizes(folder: Path) -> bool:
    """Whether ``folder`` is there: this is what everything else is."""
    return folder.is_dir()


def read(folder: Path, table: Path | None, language: str | None) -> Listing:
    """All recordings under ``folder``. Raises ``AudioError`` if there are none, and
    ``ManifestError`` if the table cannot be used."""
    recordings = name_recordings(folder, find_audio(folder))
    splits = splits_by_folder(recordings, folder)
    if table is not None:
        listing = read_with_tables(recordings, {table: folder}, splits)
        if not any(utterance.text for utterance in listing.utterances):
            raise ManifestError(
                f"{table}: has no text for any recording in {folder}; its rows must name them by "
                f"their paths in that folder, such as {next(iter(recordings.values())).name}."
            )
        return listing
    listing = Listing()
    cues = 0
    for id, audio in recordings.items():
        try:
            subtitles = find_subtitles(audio, language)
            if subtitles is None:
                beside = audio.with_suffix(".txt")
                text = read_text(beside).strip() or None if beside.exists() else None
                listing.utterances.append(Utterance(id, audio, text, split=splits.get(id)))
            else:
                found = [_cue_utterance(id, audio, cue, splits) for cue in read_cues(subtitles)]
                listing.utterances += found
                cues += len(found)
        except ManifestError as error:
            listing.rejected.append(Rejected(id, str(error), str(audio)))
    if cues:
        listing.notes.append(f"{cues} utterances are cues of subtitles beside the audio")
    return listing


def read_with_tables(
    recordings: Mapping[str, Path], tables: Mapping[Path, Path], splits: Mapping[str, str]
) -> Listing:
    """``recordings`` (by id) with what ``tables`` say about them: each about those in its folder.

    Those about which rows disagree are rejected. Raises ``ManifestError``.
    """
    listing = Listing()
    said: dict[str, set[tuple[str | None, str | None]]] = defaultdict(set)
    for table, folder in tables.items():
        rows, columns = read_table(table)
        listing.notes.append(columns)
        inside = {id: file for id, file in recordings.items() if file.is_relative_to(folder)}
        find = recordings_by_name(inside, folder, table)
        for row in rows:
            id = find(row.audio)
            if id is not None:
                said[id].add((row.text, row.speaker))
            else:
                reason = "is in the table, not in the folder"
                listing.rejected.append(Rejected(row.audio or "(no file)", reason))
    for id, audio in recordings.items():
        if len(said[id]) > 1:
            reason = "has two different rows in the table"
            listing.rejected.append(Rejected(id, reason, str(audio)))
        else:
            text, speaker = next(iter(said[id]), (None, None))
            listing.utterances.append(Utterance(id, audio, text, speaker, split=splits.get(id)))
    return listing


def splits_by_folder(recordings: Mapping[str, Path], folder: Path) -> dict[str, str]:
    """The split of each recording, by id, if the uppermost folders are splits (train/, test/).

    A folder data/ above them is passed over. Empty unless each recording is in such a folder, and
    there are two of them at least.
    """
    splits = {}
    for id, audio in recordings.items():
        parts = list(audio.relative_to(folder).parts[:-1])
        top = parts[1:] if parts[:1] == ["data"] else parts
        split = split_named(top[0]) if top else None
        if split is None:
            return {}
        splits[id] = split
    return splits if len(set(splits.values())) > 1 else {}


def _cue_utterance(id: str, audio: Path, cue: Cue, splits: Mapping[str, str]) -> Utterance:
    return Utterance(
        part_id(id, cue.start, cue.end),
        audio,
        cue.text,
        start=cue.start,
        duration=cue.end - cue.start,
        recording=id,
        split=splits.get(id),
    )
