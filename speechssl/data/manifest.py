"""Lhotse manifests: where they are in a DATA_DIR, and reading them with all mistakes named.

A manifest is a ``cuts.jsonl.gz``, or a folder in Lhotse Shar (``data.shar``).
"""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lhotse import CutSet, MonoCut
from lhotse.serialization import decode_json_line, deserialize_item
from tqdm import tqdm

from speechssl.data.shar import is_shar, shar_hash, shards, stored_recordings, tar_of
from speechssl.errors import ManifestError
from speechssl.files import atomic_path, sha256

SPLITS = ("train", "dev", "test")
"""The splits that a DATA_DIR may have; one that has no cuts is not there."""


def cuts_path(data_dir: Path | str, split: str) -> Path:
    """Where a DATA_DIR keeps the cuts of a split: ``<data_dir>/<split>/cuts.jsonl.gz``.

    If that is missing and the split has its cuts in Lhotse Shar: that folder (``shar_path``).
    """
    path = Path(data_dir) / split / "cuts.jsonl.gz"
    shar = shar_path(data_dir, split)
    return shar if not path.exists() and is_shar(shar) else path


def shar_path(data_dir: Path | str, split: str) -> Path:
    """Where a DATA_DIR may keep a split in Lhotse Shar: ``<data_dir>/<split>/shar``."""
    return Path(data_dir) / split / "shar"


def require_corpus(data_dir: Path, split: str = "train") -> None:
    """Raises ``ManifestError`` unless ``data_dir`` is a DATA_DIR that has ``split``."""
    advice = "give a DATA_DIR, the folder that one of tools/prepare_*.py wrote."
    if not data_dir.exists():
        raise ManifestError(f"{data_dir}: no such file or folder; {advice}")
    if not data_dir.is_dir():
        raise ManifestError(f"{data_dir}: is a file; {advice}")
    if cuts_path(data_dir, split).exists():
        return
    if (data_dir / "cuts.jsonl.gz").is_file():
        raise ManifestError(
            f"{data_dir}: is one split of a corpus; give the folder of all, "
            f"{named(data_dir / '..')}."
        )
    raise ManifestError(f"{data_dir}: holds no {split}/cuts.jsonl.gz; {advice}")


def hash_manifest(path: Path) -> str:
    """The SHA-256 of a manifest, in hexadecimal. Raises ``OSError`` if it cannot be read."""
    return shar_hash(path) if is_shar(path) else sha256(path)


def load_cuts(path: Path | str, *, need_text: bool = False) -> CutSet:
    """Reads a manifest whole, as a CutSet of MonoCuts in its order.

    Training, which may see millions of cuts, opens them with ``index.Cuts`` instead; so are those
    in Shar here, whose tars would take long to walk through each time. Relative paths of recordings
    are resolved against the manifest's folder, then against the folder above it. Raises
    ``ManifestError`` if the file is missing, damaged, not JSON (naming the line) or empty, if a
    line is no MonoCut with a recording, if ids repeat, and with ``need_text`` if a cut has no
    transcript (naming the first).
    """
    path = named(path)
    cuts = {cut.id: cut for cut in _indexed(path)} if is_shar(path) else _parsed(path)
    if not cuts:
        raise no_cuts(path)
    for cut in cuts.values() if need_text else ():
        if cut_text(cut) is None:
            raise missing_text(path, cut.id)
    return CutSet.from_cuts(cuts.values())


def _indexed(folder: Path) -> Iterable[MonoCut]:
    from speechssl.data.index import Cuts  # which is built on this module

    return Cuts.open(folder)


def _parsed(path: Path) -> dict[str, MonoCut]:
    cuts: dict[str, MonoCut] = {}
    for number, line in read_lines(path):
        cut = parse_cut(line, f"{path}: line {number}", path.parent)
        if cut.id in cuts:
            raise repeated_id(f"{path}: line {number}", cut.id)
        cuts[cut.id] = cut
    return cuts


def named(path: Path | str) -> Path:
    """``path`` with the name of its file or folder, which ``.`` and ``..`` do not tell."""
    return Path(os.path.abspath(path)) if Path(path).name in ("", "..") else Path(path)


def save_cuts(cuts: Iterable[MonoCut], path: Path | str) -> None:
    """Writes a ``cuts.jsonl.gz``; the same cuts always give the same bytes."""
    lines = (json.dumps(cut.to_dict(), ensure_ascii=False) + "\n" for cut in cuts)
    with (
        atomic_path(path) as temporary,
        open(temporary, "wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as stream,
    ):
        stream.writelines(line.encode("utf-8") for line in lines)


def cut_text(cut: MonoCut) -> str | None:
    """The transcript of a cut, its supervisions joined in order; None if there is none."""
    return join_texts(supervision.text for supervision in cut.supervisions)


def join_texts(texts: Iterable[str | None]) -> str | None:
    """The texts, in order, with single spaces; None if nothing is left."""
    return " ".join(" ".join(text for text in texts if text).split()) or None


def hours(cuts: Iterable[MonoCut]) -> float:
    """Hours of audio in ``cuts``."""
    return float(sum(cut.duration for cut in cuts)) / 3600


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The non-empty lines of a manifest, with their numbers.

    ``path`` is a text file, gzipped or not by its name, or a folder in Lhotse Shar. Shows progress
    where it takes long. Raises ``ManifestError``.
    """
    return _shar_lines(path) if is_shar(path) else _text_lines(path)


def _shar_lines(folder: Path) -> Iterator[tuple[int, str]]:
    """The cuts of all shards, one after the other, each with the place of its recording."""
    count = 0
    pairs = tqdm(shards(folder), desc=f"reading {folder}", unit="shard", delay=2, disable=None)
    for cuts, tar in pairs:
        stored = stored_recordings(tar)
        for number, line in _text_lines(cuts):
            data = parse_json(line, f"{cuts}: line {number}")
            cut_id, recording = next(stored, (None, None))
            if recording is None or cut_id != data.get("id"):
                raise ManifestError(
                    f"{cuts}: line {number}: cut {data.get('id')!r} is not in its place in {tar}, "
                    f"where there is {cut_id or 'nothing more'!r}; copy or write the folder again."
                )
            count += 1
            yield count, json.dumps({**data, "recording": recording}, ensure_ascii=False)
        if next(stored, None) is not None:
            raise ManifestError(
                f"{tar}: has more recordings than {cuts} has cuts; copy both again."
            )


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The non-empty lines of a text file, with their numbers."""
    try:
        with (
            open(path, "rb") as file,
            tqdm(
                total=path.stat().st_size,
                desc=f"reading {path}",
                unit="B",
                unit_scale=True,
                delay=2,
                disable=None,
            ) as bar,
        ):
            stream: Any = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, line.decode("utf-8")
                if number % 10_000 == 0:
                    bar.update(file.tell() - bar.n)
    except FileNotFoundError:
        raise ManifestError(
            f"{path}: no such file; give a cuts.jsonl.gz that one of tools/prepare_*.py wrote, or "
            "a folder in Lhotse Shar."
        ) from None
    except IsADirectoryError:
        raise _no_manifest(path) from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        what = "is damaged or not gzip" if path.suffix == ".gz" else "is no manifest"
        raise ManifestError(f"{path}: {what} ({error}); {_GIVE}") from None


def _no_manifest(folder: Path) -> ManifestError:
    """The error for a folder that is not in Lhotse Shar; names the manifest that may be meant."""
    inside = [folder / "cuts.jsonl.gz", *(cuts_path(folder, split) for split in reversed(SPLITS))]
    meant = next((path for path in inside if path.exists()), None)
    advice = f"give a manifest in it, such as {meant}." if meant else "give a cuts.jsonl.gz."
    return ManifestError(
        f"{folder}: is a folder without recording.000000.tar, so not in Lhotse Shar; {advice}"
    )


def parse_json(line: str | bytes, where: str) -> dict[str, Any]:
    """The fields of a MonoCut. Raises ``ManifestError``, starting with ``where``."""
    try:
        data = decode_json_line(line)
    except json.JSONDecodeError as error:
        raise ManifestError(f"{where}: is not JSON ({error}); {_GIVE}") from None
    if not isinstance(data, dict) or data.get("type") != "MonoCut":
        kind = data.get("type") if isinstance(data, dict) else type(data).__name__
        raise ManifestError(f"{where}: expected a MonoCut, found {kind}; {_REDO}")
    return data


def parse_cut(line: str | bytes, where: str, folder: Path) -> MonoCut:
    """The MonoCut of a line, its recording's relative paths resolved against ``folder``.

    Raises ``ManifestError``, starting with ``where``, if it is no MonoCut with a recording.
    """
    data = parse_json(line, where)
    try:
        cut: Any = deserialize_item(data)
        positive = 0 < cut.duration < math.inf
    except Exception as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise ManifestError(f"{where}: is not a valid cut ({problem}); {_REDO}") from None
    if not cut.has_recording:
        raise ManifestError(f"{where}: cut {cut.id!r} has no recording; {_REDO}")
    if not positive:
        raise ManifestError(f"{where}: cut {cut.id!r} lasts {cut.duration} s; {_REDO}")
    if not isinstance(cut.id, str) or not isinstance(cut.sampling_rate, int):
        raise ManifestError(
            f"{where}: cut {cut.id!r} must have text as id and an integer as sampling rate, has "
            f"{cut.sampling_rate!r}; {_REDO}"
        )
    _resolve(cut, folder)
    return cut


def repeated_id(where: str, cut_id: str) -> ManifestError:
    """The error for a cut whose id an earlier one has."""
    return ManifestError(f"{where}: repeats the id {cut_id!r}; {_REDO}")


def missing_text(path: Path, cut_id: str) -> ManifestError:
    """The error for a cut without the transcript that it needs."""
    return ManifestError(
        f"{path}: cut {cut_id!r} has no transcript; prepare the corpus with transcripts, or leave "
        "this cut out."
    )


def no_cuts(path: Path) -> ManifestError:
    """The error for an empty manifest."""
    return ManifestError(f"{path}: holds no cuts; {_REDO}")


_REDO = "prepare the corpus again."
_GIVE = f"give a cuts.jsonl.gz, or {_REDO}"


def _resolve(cut: MonoCut, folder: Path) -> None:
    """Makes relative file paths of the cut's recording absolute, where the file is found."""
    for source in cut.recording.sources:
        file = tar_of(source.source) if source.type == "shar" else source.source
        if source.type in ("file", "shar") and file and not Path(file).is_absolute():
            for base in (folder, folder.parent):
                if (base / file).exists():
                    source.source = str((base / file).resolve()) + source.source[len(file) :]
                    break
