from __future__ import annotations

import dataclasses
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from lhotse import CutSet

from speechssl.data.index import Cuts
from speechssl.data.manifest import cut_text, cuts_path, hours, load_cuts, save_cuts
from speechssl.errors import ManifestError

READERS = [pytest.param(load_cuts, id="load_cuts"), pytest.param(Cuts.open, id="open")]
"""Both ways to read a manifest refuse the same ones in the same words."""


def lines_of(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def write_lines(path: Path, lines: list[Any]) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        stream.writelines(
            (line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines
        )
    return path


def test_loads_what_lhotse_wrote(corpus: Path) -> None:
    cuts = load_cuts(cuts_path(corpus, "train"), need_text=True)
    assert list(cuts) == list(CutSet.from_file(corpus / "train" / "cuts.jsonl.gz"))
    assert len(cuts) == 12
    assert hours(cuts) == pytest.approx(sum(cut.duration for cut in cuts) / 3600)


def test_save_and_load_again_gives_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    cuts = load_cuts(cuts_path(corpus, "dev"))
    save_cuts(cuts, tmp_path / "a" / "cuts.jsonl.gz")
    again = load_cuts(tmp_path / "a" / "cuts.jsonl.gz")
    assert list(again) == list(cuts)
    save_cuts(again, tmp_path / "b.jsonl.gz")
    first, second = tmp_path / "a" / "cuts.jsonl.gz", tmp_path / "b.jsonl.gz"
    assert first.read_bytes() == second.read_bytes()
    assert list(CutSet.from_file(second)) == list(cuts)


def _repeat(lines: list[Any]) -> list[Any]:
    return [*lines, lines[0]]


def _broken(lines: list[Any]) -> list[Any]:
    return [*lines[:2], '{"id": "x", ']


def _second(**changes: Any) -> Any:
    def change(lines: list[Any]) -> list[Any]:
        changed = {**lines[1], **changes}
        return [lines[0], {k: v for k, v in changed.items() if v is not ...}, *lines[2:]]

    return change


def _rate(lines: list[Any]) -> list[Any]:
    recording = {**lines[1]["recording"], "sampling_rate": 8000.0}
    return _second(recording=recording)(lines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [], "holds no cuts"),
        (_broken, "line 3: is not JSON"),
        (_repeat, "(line|cut number) 5: repeats the id 'dev-00-anna'"),
        (lambda lines: [[1, 2]], "line 1: expected a MonoCut, found list"),
        (_second(type="MultiCut"), "line 2: expected a MonoCut, found MultiCut"),
        (_second(type=...), "line 2: expected a MonoCut, found None"),
        (_second(start=...), "line 2: is not a valid cut"),
        (_second(channel=...), "line 2: is not a valid cut"),
        (_second(recording=...), "line 2: cut 'dev-01-boris' has no recording"),
        (_second(duration=0.0), "line 2: cut 'dev-01-boris' lasts 0.0 s"),
        (_second(duration=float("inf")), "line 2: cut 'dev-01-boris' lasts inf s"),
        (_second(duration="long"), "line 2: is not a valid cut"),
        (_second(id=5), "line 2: cut 5 must have text as id"),
        (_rate, "line 2: cut 'dev-01-boris' must have .* an integer as sampling rate, has 8000.0"),
    ],
)
@pytest.mark.parametrize("read", READERS)
def test_malformed_manifest(corpus_copy: Path, read: Any, change: Any, message: str) -> None:
    path = cuts_path(corpus_copy, "dev")
    write_lines(path, change(lines_of(path)))
    with pytest.raises(ManifestError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"not gzip", "damaged or not gzip"), (b"", "holds no cuts")],
)
@pytest.mark.parametrize("read", READERS)
def test_file_that_is_no_manifest(
    tmp_path: Path, read: Any, content: bytes | None, message: str
) -> None:
    path = tmp_path / "cuts.jsonl.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        read(path)


@pytest.mark.parametrize("read", READERS)
def test_truncated_manifest(corpus_copy: Path, read: Any) -> None:
    path = cuts_path(corpus_copy, "train")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ManifestError, match="damaged or not gzip"):
        read(path)


@pytest.mark.parametrize("read", READERS)
def test_folder_instead_of_a_file(corpus: Path, read: Any) -> None:
    with pytest.raises(ManifestError, match="is a folder"):
        read(corpus / "train")


def test_missing_transcript_is_named(corpus_copy: Path) -> None:
    path = cuts_path(corpus_copy, "dev")
    lines = lines_of(path)
    lines[2]["supervisions"][0]["text"] = " "
    write_lines(path, lines)
    assert cut_text(load_cuts(path)["dev-02-anna"]) is None
    with pytest.raises(ManifestError, match="cut 'dev-02-anna' has no transcript"):
        load_cuts(path, need_text=True)


def test_transcript_joins_supervisions(corpus: Path) -> None:
    cut = next(iter(load_cuts(cuts_path(corpus, "dev"))))
    first = cut.supervisions[0]
    cut.supervisions = [dataclasses.replace(first, text=text) for text in ("one ", " two")]
    assert cut_text(cut) == "one two"
    cut.supervisions = []
    assert cut_text(cut) is None


@pytest.mark.parametrize("base", ["data/dev", "data"])
def test_relative_paths_are_found_beside_the_manifest(
    corpus: Path, corpus_copy: Path, base: str
) -> None:
    path = cuts_path(corpus_copy, "dev")
    shutil.copytree(corpus / "audio", corpus_copy.parent / base / "audio")
    lines = lines_of(path)
    for line in lines:
        source = line["recording"]["sources"][0]
        source["source"] = f"audio/{Path(source['source']).name}"
    write_lines(path, lines)
    for cut in load_cuts(path):
        found = Path(cut.recording.sources[0].source)
        assert found.is_absolute()
        assert found.exists()


def test_plain_text_manifest(corpus: Path, tmp_path: Path) -> None:
    content = gzip.decompress(cuts_path(corpus, "dev").read_bytes())
    (tmp_path / "cuts.jsonl").write_bytes(content)
    assert len(load_cuts(tmp_path / "cuts.jsonl")) == 4
