"""The audiofolder layout of Hugging Face datasets: metadata.csv or metadata.jsonl beside the
recordings, which its column file_name names; folders named train, validation, test are splits.

Source: https://huggingface.co/docs/datasets/audio_dataset
"""

from __future__ import annotations

from pathlib import Path

from speechssl.data.audio import files_under, find_audio
from speechssl.data.layouts.folder import read_with_tables, splits_by_folder
from speechssl.data.layouts.tables import name_recordings
from speechssl.data.utterance import Listing
from speechssl.errors import ManifestError

METADATA = ("metadata.csv", "metadata.jsonl")


def recognizes(folder: Path) -> bool:
    """Whether there is a metadata file in ``folder``, or in its folders or those of data/."""
    return any(
        next(folder.glob(f"{above}{name}"), None)
        for name in METADATA
        for above in ("", "*/", "data/*/")
    )


def read(folder: Path, table: Path | None, language: str | None) -> Listing:
    """All recordings under ``folder``, with what the metadata files say about them.

    Raises ``ManifestError`` if there are none or one cannot be used, and ``AudioError`` if there is
    no recording.
    """
    tables = [path for path in files_under(folder) if path.name in METADATA]
    if not tables:
        raise ManifestError(
            f"{folder}: is no audiofolder: it holds no {' or '.join(METADATA)}; choose another "
            "--layout."
        )
    recordings = name_recordings(folder, find_audio(folder))
    splits = splits_by_folder(recordings, folder)
    return read_with_tables(recordings, {table: table.parent for table in tables}, splits)
