"""What people read and copy: links lead somewhere, and commands are what the program takes."""

from __future__ import annotations

import functools
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import pytest

from speechssl.cli.main import group
from speechssl.training.recipe import (
    DataConfig,
    FinetuneConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "egs", "recipes", "tools")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(d for f in FOLDERS for d in ROOT.glob(f"{f}/**/*.md"))])
RECIPES = sorted([*ROOT.glob("recipes/*.yaml"), *ROOT.glob("egs/*/conf/*.yaml")])
TOOLS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tools/*.py"))
COMMANDS = group.list_commands(click.Context(group))

FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def without_code(document: Path) -> str:
    text = FENCED.sub("", document.read_text(encoding="utf-8"))
    return re.sub(r"`[^`]*`", "`", text)


def anchors(document: Path) -> set[str]:
    """What a link to a place in ``document`` may say, as GitHub names headings."""
    text = FENCED.sub("", document.read_text(encoding="utf-8"))
    found = set(re.findall(r'<a (?:name|id)="([^"]+)"', text))
    for heading in re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        again = sum(other.rpartition("-")[0] == name or other == name for other in found)
        found.add(f"{name}-{again}" if name in found else name)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(\s*([^)\s]+)\s*\)", without_code(document)):
        place, _, anchor = link.partition("#")
        target = document.parent / place if place else document
        if "://" in link or link.startswith("mailto:"):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_anchors_are_those_of_github(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text(
        '# In 8 bits: `a_b`\n## [Linked](x.md), too\n## Twice\n## Twice\n<a name="here"></a>\n'
        "```sh\n# no heading\n```\n"
    )
    assert anchors(document) == {"in-8-bits-a_b", "linked-too", "twice", "twice-1", "here"}


COMMAND = re.compile(
    r"^ *(?:Command: +)?"
    r"(?:(?:torchrun .*-m )?speechssl(?:\.cli\.main)? +|python (?=tools/)|(?=egs/))"
    r"([\w-]+|tools/\w+\.py|egs/\w+/run\.sh)(?: (.*))?$"
)
"""A line that is a command: the name of a command of ``speechssl``, or a file; what follows it."""


def commands(text: str) -> Iterator[list[str]]:
    """The commands of this package in a text, in words. They begin a line and may go on behind a
    backslash."""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        found = COMMAND.match(line)
        if found and (found[2] or found[1] in COMMANDS):  # "speechssl recipe" may be a heading
            yield [found[1], *(found[2] or "").partition(" #")[0].split()]


def texts() -> Iterator[tuple[str, str]]:
    """Where commands stand, and the text there."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        spans = re.findall(r"`([^`]+)`", FENCED.sub("", text))
        for code in (*FENCED.findall(text), *(" ".join(span.split()) for span in spans)):
            yield str(document.relative_to(ROOT)), code
    for recipe in RECIPES:
        header = re.findall(r"^# ?(.*)$", recipe.read_text(encoding="utf-8"), re.MULTILINE)
        yield str(recipe.relative_to(ROOT)), "\n".join(header)
    yield "speechssl --help", group.help or ""
    for name in (*COMMANDS, *TOOLS):
        command = command_of(name)
        assert command is not None
        yield f"{name} --help", f"{command.help}\n{command.epilog}"


@functools.cache
def command_of(name: str) -> click.Command | None:
    """The command of ``speechssl`` of that name, or of a tool; None where there is none."""
    if name not in TOOLS:
        return group.get_command(click.Context(group), name)
    spec = importlib.util.spec_from_file_location(f"documented_{Path(name).stem}", ROOT / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    main: click.Command = module.main
    return main


def options_of(name: str) -> set[str]:
    """The options of a command, or of an experiment, which explains them all."""
    if name.endswith(".sh"):
        return set(re.findall(r"--[a-z-]+", (ROOT / name).read_text(encoding="utf-8")))
    command = command_of(name)
    assert command is not None, f"there is no command {name}"
    return {"--help", *(option for p in command.params for option in p.opts + p.secondary_opts)}


SECTIONS = {
    section: {setting.name for setting in fields(kind)}
    for section, kind in {
        "data": DataConfig,
        "optimizer": OptimizerConfig,
        "schedule": ScheduleConfig,
        "training": TrainingConfig,
        "finetune": FinetuneConfig,
    }.items()
}
WRITTEN = sorted({(where, *words) for where, text in texts() for words in commands(text)})


@pytest.mark.parametrize("written", WRITTEN, ids=lambda written: " ".join(written)[:80])
def test_commands_that_are_written_down_exist(written: tuple[str, ...]) -> None:
    _, name, *words = written
    given = {word.partition("=")[0].rstrip(".,)") for word in words if word.startswith("--")}
    assert given - options_of(name) == set()
    assert [word for word in words if re.match("recipes/|egs/", word) and not exists(word)] == []
    settings = [re.match(r"(\w+)\.(\w+)=", word) for word in words]
    unknown = [s[0] for s in settings if s and s[2] not in SECTIONS.get(s[1], {s[2]})]
    assert unknown == []


def exists(path: str) -> bool:
    return (ROOT / path).exists() or "/exp/" in path


def test_commands_are_found_where_they_are_written() -> None:
    assert len({where for where, *_ in WRITTEN}) > 60
    text = "speechssl info \\\n  x # y\nNo speechssl here\n  python tools/subset.py a b"
    assert list(commands(text)) == [["info", "x"], ["tools/subset.py", "a", "b"]]
    torchrun = "# torchrun --nproc-per-node 2 -m speechssl.cli.main pretrain --seed 1"
    assert list(commands(torchrun[2:])) == [["pretrain", "--seed", "1"]]
