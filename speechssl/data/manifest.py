"""Lhotse manifests: where they are in a DATA_DIR, and reading them with all mistakes named."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lhotse import CutSet, MonoCut
from lhotse.serialization import decode_json_line, deserialize_item
from tqdm import tqdm

from speechssl.errors import ManifestError
from speechssl.files import atomic_path

SPLITS = ("train", "dev", "test")
"""The splits that a DATA_DIR may have; one that has no cuts is not there."""


def cuts_path(data_dir: Path | str, split: str) -> Path:
    """Where a DATA_DIR keeps the cuts of a split: ``<data_dir>/<split>/cuts.jsonl.gz``."""
    return Path(data_dir) / split / "cuts.jsonl.gz"


def load_cuts(path: Path | str, *, need_text: bool = False) -> CutSet:
    """Reads a ``cuts.jsonl.gz`` whole, as a CutSet of MonoCuts in the order of the file.

    Training, which may see millions of cuts, opens them with ``index.Cuts`` instead. Relative
    paths of recordings are resolved against the manifest's folder, then against the folder above
    it. Raises ``ManifestError`` if the file is missing, damaged, not JSON (naming the line) or
    empty, if a line is no MonoCut with a recording, if ids repeat, and with ``need_text`` if a
    cut has no transcript (naming the first).
    """
    path = Path(path)
    cuts: dict[str, MonoCut] = {}
    for number, line in read_lines(path):
        cut = parse_cut(line, f"{path}: line {number}", path.parent)
        if cut.id in cuts:
            raise repeated_id(f"{path}: line {number}", cut.id)
        if need_text and cut_text(cut) is None:
            raise missing_text(path, cut.id)
        cuts[cut.id] = cut
    if not cuts:
        raise no_cuts(path)
    return CutSet.from_cuts(cuts.values())


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
    """The non-empty lines of a text file, gzipped or not by its name, with their numbers.

    Shows progress where it takes long. Raises ``ManifestError``.
    """
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
            f"{path}: no such file; give a cuts.jsonl.gz that one of tools/prepare_*.py wrote."
        ) from None
    except IsADirectoryError:
        raise ManifestError(f"{path}: is a folder; give the cuts.jsonl.gz in it.") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: is damaged or not gzip ({error}); {_REDO}") from None


def parse_json(line: str | bytes, where: str) -> dict[str, Any]:
    """The fields of a MonoCut. Raises ``ManifestError``, starting with ``where``."""
    try:
        data = decode_json_line(line)
    except json.JSONDecodeError as error:
        raise ManifestError(f"{where}: is not JSON ({error}); {_REDO}") from None
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
        positive = cut.duration > 0
    except Exception as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise ManifestError(f"{where}: is not a valid cut ({problem}); {_REDO}") from None
    if not cut.has_recording:
        raise ManifestError(f"{where}: cut {cut.id!r} has no recording; {_REDO}")
    if not positive:
        raise ManifestError(f"{where}: cut {cut.id!r} lasts {cut.duration} s; {_REDO}")
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


def _resolve(cut: MonoCut, folder: Path) -> None:
    """Makes relative file paths of the cut's recording absolute, where the file is found."""
    for source in cut.recording.sources:
        if source.type == "file" and not Path(source.source).is_absolute():
            for base in (folder, folder.parent):
                if (base / source.source).exists():
                    source.source = str((base / source.source).resolve())
                    break
