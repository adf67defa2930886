from __future__ import annotations

from pathlib import Path


def test_splits_with_spaces_and_none(speechssl, corpus_copy: Path) -> None:
    arguments = ("label", corpus_copy, "--name", "few", "--clusters", 3, "--splits")
    result = speechssl(*arguments, "train, dev")
    assert result.exit_code == 0, result.output
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == ["train", "dev"]
    result = speechssl(*arguments, " ,")
    assert (result.exit_code, "expected names with commas" in result.stderr) == (2, True)
