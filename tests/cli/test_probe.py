from __future__ import annotations

from pathlib import Path

import pytest

from speechssl.data.manifest import cuts_path
from speechssl.models.folder import save_model_folder
from tests.decoding.conftest import random_model


def test_keywords_of_an_encoder(speechssl, corpus: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    save_model_folder(model, random_model().encoder)
    result = speechssl(
        "probe", model, cuts_path(corpus, "train"), "--task", "keyword", "--keywords", "ada, fade"
    )
    assert result.exit_code == 0, result.output
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["layer", "accuracy", "%", "95", "%", "CI"]
    assert [row.split("  ")[0].removesuffix(" (best)") for row in rows[:3]] == [
        "log-mel",
        "layer 0",
        "layer 1",
    ]
    assert sum("(best)" in row for row in rows) == 1
    assert "By speaker: 1 of 2 speakers are held out" in rows
    assert f"-> {model}-probes/keyword.json" in rows[-1]
    for ending in ("json", "png"):
        assert (tmp_path / "model-probes" / f"keyword.{ending}").is_file()


def test_a_model_that_is_the_folder_one_is_in(
    speechssl, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model_folder(tmp_path / "model", random_model().encoder)
    monkeypatch.chdir(tmp_path / "model")
    result = speechssl("probe", ".", cuts_path(corpus, "train"), "--task", "speaker")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "model-probes" / "speaker.json").is_file()


def test_mistakes(fails, corpus: Path, recogniser: Path, tmp_path: Path) -> None:
    cuts = cuts_path(corpus, "train")
    for arguments, message in (
        ([tmp_path, cuts, "--task", "speaker"], "config.yaml: is missing"),
        ([recogniser, tmp_path / "no.jsonl.gz", "--task", "speaker"], "no such file"),
        ([recogniser, cuts, "--task", "language"], "one label, 'en'"),
        ([recogniser, cuts, "--task", "keyword"], "choose words of them with --keywords"),
        ([recogniser, cuts, "--task", "phone"], "no cut has phone alignments; give --aligner"),
        ([recogniser, cuts, "--task", "phone", "--aligner", tmp_path], "config.yaml: is missing"),
        ([recogniser, cuts, "--task", "speaker", "--keywords", "a"], "for the task keyword"),
    ):
        assert message in fails("probe", *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
