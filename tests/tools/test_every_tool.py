"""What newcomers get wrong: each tool says what is wrong, where, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click
import pytest

TOOLS = sorted(path.stem for path in Path(__file__).parents[2].glob("tools/*.py"))

Tool = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_explains_itself(
    tool: Tool, load_tool: Callable[[str], ModuleType], name: str
) -> None:
    status, printed, _ = tool(name, "-h")
    assert status == 0
    assert re.search(rf"^ *Example:\n +python tools/{name}\.py [^\n]*$", printed, re.MULTILINE)
    options = [p for p in load_tool(name).main.params if isinstance(p, click.Option)]
    assert [option.opts for option in options if not option.help] == []


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_asks_for_what_is_missing(tool: Tool, name: str) -> None:
    status, _, problem = tool(name)
    assert status == 2
    assert re.search(r"Missing (argument|option) ", problem)


@pytest.mark.parametrize("arguments", [("subset", "DATA", "OUT"), ("combine", "OUT", "DATA", "x")])
def test_what_is_no_corpus(
    tool: Tool, corpus: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    for data, said in (
        (tmp_path / "nowhere", "no such file or folder; give a DATA_DIR"),
        (corpus / "train/cuts.jsonl.gz", "is a file; give a DATA_DIR"),
        (corpus / "train", f"is one split of a corpus; give the folder of all, {corpus}."),
        (corpus / "audio", "holds no train/cuts.jsonl.gz; give a DATA_DIR"),
    ):
        known = {"OUT": tmp_path / "out", "DATA": data}
        status, _, problem = tool(*(known.get(name, name) for name in arguments))
        assert (status, problem.count("\n")) == (2, 1)
        assert problem.startswith(f"error: {data}: {said}")


def test_a_folder_is_not_prepared_into_itself(tool: Tool, corpus: Path, tmp_path: Path) -> None:
    recordings = corpus / "audio"
    status, _, problem = tool("prepare_folder", recordings, recordings / ".")
    assert status == 2
    assert "is the folder of the recordings; name another for OUT." in problem
    assert not (recordings / "train").exists()


def test_a_rule_that_finds_no_speaker(tool: Tool, corpus: Path, tmp_path: Path) -> None:
    recordings, out = corpus / "audio", tmp_path / "out"
    for rule in ("parent", "spk([0-9]+)"):
        status, _, problem = tool("prepare_folder", recordings, out, "--speaker-from", rule)
        assert status == 2
        assert f"error: --speaker-from {rule!r}: finds no speaker in the path of any" in problem
    assert not out.exists()


def test_the_name_of_a_language_is_no_code(tool: Tool, corpus: Path, tmp_path: Path) -> None:
    arguments = ("prepare_folder", corpus / "audio", tmp_path / "out", "--language")
    status, _, problem = tool(*arguments, "Swahili")
    assert status == 2
    assert "'Swahili' is no code of a language; give one, as en or pt-BR" in problem


def test_a_run_of_pretraining_has_no_error_rate(tool: Tool, tmp_path: Path) -> None:
    for kind, said in (
        (None, "is not a run folder (no recipe.yaml); give the EXP of"),
        ("pretrain", "is a run of pretraining; give one of fine-tuning."),
    ):
        if kind:
            (tmp_path / "recipe.yaml").write_text(f"kind: {kind}\n")
        row = f"system=a,run={tmp_path},label_minutes=10"
        status, _, problem = tool("results", "--corpus", "x", "--row", row)
        assert status == 2
        assert problem.startswith(f"error: {tmp_path}: {said}")
