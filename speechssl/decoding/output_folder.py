"""A folder of transcripts: named after the recordings, never overwritten, gone on with.

``transcribed.jsonl`` in the folder remembers of which audio, model and settings each file is. What
is there and belongs to the same is not computed again; what is there and does not is never touched
unless the user says so.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.data.audio import find_audio
from speechssl.decoding.outputs import SUFFIXES, render
from speechssl.decoding.subtitles import LINE_CHARACTERS
from speechssl.decoding.transcript import Transcript
from speechssl.errors import AudioError, RunFolderError
from speechssl.files import printable, write_text

RECORD = "transcribed.jsonl"


@dataclass
class OutputFolder:
    """Where the transcripts of some recordings are written, in some formats."""

    folder: Path
    formats: Sequence[str]
    settings: str
    """What decides the transcripts besides the audio: a hash of model and options."""

    line_characters: int = LINE_CHARACTERS
    overwrite: bool = False

    def __post_init__(self) -> None:
        self._names: dict[Path, str] = {}
        self._origins: dict[Path, dict[str, Any]] = {}
        self._record: dict[str, dict[str, Any]] = {}
        record = self.folder / RECORD
        text = record.read_bytes() if record.exists() else b""
        self._whole = text.endswith(b"\n") or not text
        for line in text.splitlines():
            try:
                origin = json.loads(line)
                self._record[origin.pop("file")] = origin
            except (ValueError, KeyError, AttributeError):
                continue  # the last line of a run that was killed

    def plan(self, recordings: Sequence[tuple[Path, Path]]) -> list[Path]:
        """The recordings still to be transcribed, in order.

        ``recordings`` are (root, path): a path below the root keeps its subfolders. Transcripts are
        remembered as those of the audio as it is now, so the next run knows of what has changed
        since. Raises ``RunFolderError`` if a file that would be written exists and belongs to other
        audio, another model or other settings (without ``overwrite``), or if two recordings would
        be written to the same file.
        """
        self._names = _names(recordings)
        self._origins = {path: self._origin(path) for path in self._names}
        if self.overwrite:
            return list(self._names)
        missing = {path: self._missing(path) for path in self._names}
        foreign = [output for outputs in missing.values() for output in outputs if output.exists()]
        if foreign:
            others = f", as do {len(foreign) - 1} more files" if len(foreign) > 1 else ""
            raise RunFolderError(
                f"{foreign[0]}: exists and belongs to other audio, another model or other options"
                f"{others}; give another --output-dir, or --overwrite to replace."
            )
        return [path for path, outputs in missing.items() if outputs]

    def write(self, path: Path, transcript: Transcript) -> None:
        """Writes the transcript of the recording ``path`` in every format."""
        for form, output in self._outputs(path).items():
            self._remember(output, path)
            write_text(output, render(transcript, form, path.stem, self.line_characters))

    def _outputs(self, path: Path) -> dict[str, Path]:
        """The file of each format."""
        return {form: self.folder / (self._names[path] + SUFFIXES[form]) for form in self.formats}

    def _missing(self, path: Path) -> list[Path]:
        """The files of ``path`` that are not there or do not belong to it."""
        return [
            output
            for output in self._outputs(path).values()
            if not output.exists() or self._record.get(self._key(output)) != self._origins[path]
        ]

    def _remember(self, output: Path, path: Path) -> None:
        """Notes that ``output`` will come from ``path``.

        The note is written before the file: a run that is killed in between leaves no file that
        nobody knows. So that it leaves no old file either that is taken for the new one, what
        belongs to something else is removed first.
        """
        key, origin = self._key(output), self._origins[path]
        if self._record.get(key) == origin:
            return
        output.unlink(missing_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"file": key, **origin}, ensure_ascii=False)
        with open(self.folder / RECORD, "ab") as stream:
            stream.write(b"" if self._whole else b"\n")  # ends the line of a run that was killed
            stream.write(line.encode() + b"\n")
        self._whole = True
        self._record[key] = origin

    def _key(self, output: Path) -> str:
        return output.relative_to(self.folder).as_posix()

    def _origin(self, path: Path) -> dict[str, Any]:
        state = path.stat()
        return {
            "audio": path.name,
            "bytes": state.st_size,
            "modified_ns": state.st_mtime_ns,
            "settings": self.settings,
        }


def recordings_in(
    roots: Iterable[Path],
) -> tuple[list[tuple[Path, Path]], list[tuple[Path, AudioError]]]:
    """The recordings at ``roots`` as (root, path), each once. Also, with the reason, the roots that
    have none and the recordings whose names cannot be written."""
    found: dict[Path, Path] = {}  # the root of each path
    bad: list[tuple[Path, AudioError]] = []
    for root in roots:
        try:
            paths = find_audio(root)
        except AudioError as error:
            bad.append((root, error))
            continue
        for path in paths:
            shown = printable(path)
            if shown == str(path):
                found.setdefault(path, root if root.is_dir() else root.parent)
            else:
                bad.append((path, AudioError(f"{shown}: its name is not UTF-8; rename it.")))
    return [(root, path) for path, root in found.items()], bad


def _names(recordings: Sequence[tuple[Path, Path]]) -> dict[Path, str]:
    """What the transcript of each recording is called, without the ending of the format.

    It is the recording's name without its ending; with it where two would be called the same.
    """
    stems = {path: path.relative_to(root).with_suffix("") for root, path in recordings}
    shared = {stem for stem, count in Counter(stems.values()).items() if count > 1}
    names = {
        path: (stem.with_name(path.name) if stem in shared else stem).as_posix()
        for path, stem in stems.items()
    }
    owners: dict[str, Path] = {}
    for path, name in names.items():
        if name in owners:
            raise RunFolderError(
                f"{owners[name]} and {path}: their transcripts would be the same file; "
                "transcribe them into different folders."
            )
        owners[name] = path
    return names
