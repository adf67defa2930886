"""Files appear whole or not at all, whatever they are called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from speechssl.errors import RunFolderError
from speechssl.files import atomic_path, require_replaceable, write_text


@pytest.mark.parametrize("character", ["a", "ж", "語", "🎙"], ids=[1, 2, 3, 4])
def test_the_longest_names(tmp_path: Path, character: str) -> None:
    stem = character * (250 // len(character.encode()))
    path = tmp_path / f"{stem}.json"
    write_text(path, "{}")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_ending_is_kept_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "cuts.jsonl.gz"
    path.write_text("old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            assert temporary.name.endswith("-cuts.jsonl.gz")
            assert temporary.parent == path.parent, "nothing is moved between file systems"
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(path.name, "old")]


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "shared")
        assert os.umask(0o027) == 0o027, "as it was"
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_only_what_was_written_here_is_replaced(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "folder" / "thesis.txt"
    for _ in range(2):
        require_replaceable(folder, "a model", is_such=False)  # not there, then empty
        folder.mkdir(exist_ok=True)
    file.write_text("years of work")
    for path in (folder, file):
        with pytest.raises(RunFolderError, match="exists and is not a model; give another name"):
            require_replaceable(path, "a model", is_such=False)
    require_replaceable(folder, "a model", is_such=True)
