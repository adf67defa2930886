from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.data.manifest import cuts_path, load_cuts, save_cuts

Tool = Callable[..., tuple[int, str, str]]


@pytest.fixture
def other(corpus: Path, tmp_path: Path) -> Path:
    """Another corpus: the recordings of ``corpus`` under other ids, and no dev split."""
    path = cuts_path(tmp_path / "other", "train")
    path.parent.mkdir(parents=True)
    cuts = load_cuts(cuts_path(corpus, "train"))
    save_cuts([dataclasses.replace(cut, id=f"other-{cut.id}") for cut in cuts], path)
    return tmp_path / "other"


def test_train_and_dev_of_both(tool: Tool, corpus: Path, other: Path, tmp_path: Path) -> None:
    out = tmp_path / "both"
    status, printed, _ = tool("combine", out, corpus, other)
    assert status == 0
    assert "24" in printed
    parts = [list(load_cuts(cuts_path(folder, "train"))) for folder in (corpus, other)]
    assert list(load_cuts(cuts_path(out, "train"))) == parts[0] + parts[1]
    dev = list(load_cuts(cuts_path(corpus, "dev")))
    assert list(load_cuts(cuts_path(out, "dev"))) == dev
    assert not cuts_path(out, "test").exists()
    status, printed, _ = tool("combine", out, corpus, other)
    assert status == 0
    assert "nothing to do" in printed
    status, _, problem = tool("combine", out, other, corpus)
    assert status == 2
    assert "already holds another corpus" in problem
    assert tool("combine", out, other, corpus, "--overwrite")[0] == 0
    assert list(load_cuts(cuts_path(out, "train"))) == parts[1] + parts[0]


def test_cuts_without_supervisions(tool: Tool, corpus: Path, other: Path, tmp_path: Path) -> None:
    path = cuts_path(other, "train")
    save_cuts([dataclasses.replace(cut, supervisions=[]) for cut in load_cuts(path)], path)
    status, printed, _ = tool("combine", tmp_path / "both", corpus, other)
    assert status == 0
    assert "  unknown" in printed


def test_nonsense_is_refused(tool: Tool, corpus: Path, other: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ((tmp_path / "out", corpus), "two corpora or more"),
        ((corpus, corpus, other), "is one of the corpora"),
        ((tmp_path / "out", corpus, other, corpus / "dev" / ".."), "is given twice"),
        ((tmp_path / "out", corpus, other, tmp_path / "none"), "no such file"),
    ):
        status, _, problem = tool("combine", *arguments)
        assert status == 2
        assert message in problem
    for split in ("train", "dev"):  # what one holds out the other must not train on
        save_cuts(load_cuts(cuts_path(corpus, split)), cuts_path(other, "train"))
        status, _, problem = tool("combine", tmp_path / "out", corpus, other)
        assert status == 2
        assert "are the same recordings in both?" in problem
    assert not (tmp_path / "out").exists()
