from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from speechssl.data.corpus_report import read_report
from speechssl.data.manifest import SPLITS, cut_text, cuts_path, load_cuts

Tool = Callable[..., tuple[int, str, str]]

VOICES = {"en": "en_US_f_Allison", "fr": "fr_CA_f_June", "ru": "ru_RU_f_IvrvoiceRU"}

TRANSCRIPTS = {
    "en": """; A comment: not a prompt
greeting: Good morning, and 2 more...
again/greeting: good morning and two more
letters/dash: dash [-]
keys: press * or # now
tone: [a rising tone]
beep: a beep
silence/1: (1 second of silence)
remark: please wait (music follows)
absent: nobody recorded this
hasty: this sentence has many more characters than anybody could say in two seconds of time
stuck: one thing. other/prompt: another thing
empty:
no colon here
""",
    "fr": "appel: Appuyez sur 5 pour l’aide\ntouche: faites *\n",
    "ru": "\ufeff; заголовок\nnazhmite: nazhmite: Нажмите 11, «решётку»!\nlost: он пи?ет\n",
}
"""Imitations of the real files, with each kind of slip they have."""


def write_tree(root: Path, transcripts: dict[str, str]) -> Path:
    """Writes an unpacked tree as Debian's packages give it; each prompt is two seconds of noise."""
    rng = np.random.default_rng(0)
    for language, content in transcripts.items():
        name = f"asterisk-core-sounds-{language}"
        document = root / f"usr/share/doc/{name}/core-sounds-{language}.txt.gz"
        document.parent.mkdir(parents=True)
        document.write_bytes(gzip.compress(content.encode()))
        sounds = root / "usr/share/asterisk/sounds" / VOICES[language]
        for line in content.splitlines():
            prompt = line.removeprefix("\ufeff").split(":")[0]
            if prompt and ":" in line and not prompt.startswith(";") and prompt != "absent":
                path = sounds / f"{prompt}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, 0.1 * rng.standard_normal(16_000), 8000)
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("tree"), TRANSCRIPTS)


def texts(out: Path) -> dict[str, str | None]:
    """The text of every cut of a prepared corpus, by id."""
    paths = [cuts_path(out, split) for split in SPLITS if cuts_path(out, split).exists()]
    return {cut.id: cut_text(cut) for path in paths for cut in load_cuts(path, need_text=True)}


def test_transcripts_as_they_are_spoken(tool: Tool, tree: Path, tmp_path: Path) -> None:
    arguments = ("prepare_core_sounds", tmp_path / "out", "--source", tree)
    status, printed, _ = tool(*arguments, "--languages", "en,fr,ru")
    assert status == 0
    assert texts(tmp_path / "out") == {
        "en-greeting": "good morning and two more",
        "en-again-greeting": "good morning and two more",
        "en-letters-dash": "dash",
        "en-keys": "press star or pound now",
        "fr-appel": "appuyez sur cinq pour l'aide",
        "ru-nazhmite": "нажмите одиннадцать решётку",
    }
    assert "CC-BY-SA 3.0" in printed


def test_every_rejected_prompt_has_its_reason(tool: Tool, tree: Path, tmp_path: Path) -> None:
    arguments = ("prepare_core_sounds", tmp_path / "out", "--source", tree)
    tool(*arguments, "--languages", "en,fr,ru")
    report = read_report(tmp_path / "out")
    reasons = {rejected.item: rejected.reason for rejected in report.rejected}
    expected = {
        "en-tone": "is not speech",
        "en-beep": "is not speech",
        "en-silence-1": "is not speech",
        "en-remark": "has a remark in brackets",
        "en-absent": "has no recording",
        "en-hasty": "transcript is too long",
        "en-stuck": "another prompt",
        "en-empty": "has no transcript",
        "core-sounds-en.txt.gz line 14": "is no 'name: text'",
        "fr-touche": "symbol whose reading is unknown",
        "ru-lost": "letter that was lost",
    }
    for item, reason in expected.items():
        assert reason in reasons.pop(item)
    assert not reasons
    details = (tmp_path / "out" / "report.txt").read_text(encoding="utf-8")
    assert "en-remark: has a remark in brackets" in details


def test_speaker_and_language_are_known(tool: Tool, tree: Path, tmp_path: Path) -> None:
    tool("prepare_core_sounds", tmp_path / "out", "--source", tree, "--languages", "ru")
    (path,) = [cuts_path(tmp_path / "out", s) for s in SPLITS if (tmp_path / "out" / s).exists()]
    (cut,) = load_cuts(path)
    assert cut.supervisions[0].speaker == "ru_RU_f_IvrvoiceRU"
    assert cut.supervisions[0].language == "ru"
    assert cut.sampling_rate == 8000


def test_no_text_is_in_two_splits(tool: Tool, tmp_path: Path) -> None:
    # Each text stands twice, written in two ways: with digits and in capitals.
    lines = [f"a{i}: prompt number {i}\nb{i}: PROMPT NUMBER {i}!" for i in range(60)]
    tree = write_tree(tmp_path / "tree", {"en": "\n".join(lines)})
    status, _, _ = tool(
        "prepare_core_sounds", tmp_path / "out", "--source", tree, "--languages", "en"
    )
    assert status == 0
    parts = {s: [cut_text(c) for c in load_cuts(cuts_path(tmp_path / "out", s))] for s in SPLITS}
    assert sum(map(len, parts.values())) == 120
    assert len(parts["train"]) > len(parts["test"]) > len(parts["dev"]) > 0
    assert all(part.count(text) == 2 for part in parts.values() for text in part)


def _tar(tree: Path, folder: Path) -> None:
    """Upstream's archive: recordings and transcript side by side on top."""
    folder.mkdir()
    flat = folder.parent / "flat"
    shutil.copytree(tree / "usr/share/asterisk/sounds/fr_CA_f_June", flat)
    packed = tree / "usr/share/doc/asterisk-core-sounds-fr/core-sounds-fr.txt.gz"
    (flat / "core-sounds-fr.txt").write_bytes(gzip.decompress(packed.read_bytes()))
    with tarfile.open(folder / "asterisk-core-sounds-fr-wav-1.6.1.tar.gz", "w:gz") as tar:
        tar.add(flat, arcname=".")


def _debs(tree: Path, folder: Path) -> None:
    """Debian's two packages."""
    folder.mkdir()
    for name, content in (
        ("asterisk-core-sounds-fr", "usr/share/doc"),
        ("asterisk-core-sounds-fr-wav", "usr/share/asterisk"),
    ):
        root = folder.parent / name
        shutil.copytree(tree / content, root / content)
        (root / "DEBIAN").mkdir()
        (root / "DEBIAN" / "control").write_text(
            f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\n"
            "Description: test\n"
        )
        target = folder / f"{name}_1_all.deb"
        subprocess.run(["dpkg-deb", "-b", root, target], check=True, capture_output=True)


needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")


@pytest.mark.parametrize("pack", [_tar, pytest.param(_debs, marks=needs_dpkg)])
def test_archives_are_unpacked(
    tool: Tool, tree: Path, tmp_path: Path, pack: Callable[[Path, Path], None]
) -> None:
    pack(tree, tmp_path / "archives")
    out = tmp_path / "out"
    arguments = ("prepare_core_sounds", out, "--source", tmp_path / "archives")
    status, _, problem = tool(*arguments, "--languages", "fr")
    assert (status, problem) == (0, "")
    assert texts(out) == {"fr-appel": "appuyez sur cinq pour l'aide"}
    status, printed, _ = tool(*arguments, "--languages", "fr")
    assert status == 0
    assert "nothing to do" in printed


def test_broken_archive_leaves_nothing(tool: Tool, tmp_path: Path) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / "asterisk-core-sounds-fr-wav-1.6.1.tar.gz").write_bytes(b"broken")
    arguments = ("prepare_core_sounds", tmp_path / "out", "--source", tmp_path / "archives")
    status, _, problem = tool(*arguments, "--languages", "fr")
    assert status == 2
    assert "cannot be unpacked" in problem
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_without_apt_get_the_other_ways_are_named(
    tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    status, _, problem = tool("prepare_core_sounds", tmp_path / "out", "--languages", "en")
    assert status == 2
    assert problem.startswith("error: apt-get is not on this system; use --from upstream")
    assert "--source" in problem
    assert problem.count("\n") == 1


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt-get")
def test_what_apt_get_says_is_passed_on(
    load_tool: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    problem = load_tool("prepare_core_sounds")._apt_get(["download", "no-such-package-"], tmp_path)
    assert problem.startswith("E: ")
    assert "no-such-package" in problem


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--languages", "en,xx"), "xx is not among en, es, fr, it, ru"),
        (("--languages", ""), "nothing is not among"),
        (("--source", "absent"), "no such folder"),
        (("--source", "."), "holds neither core-sounds-en.txt nor archives"),
    ],
)
def test_wrong_arguments(
    tool: Tool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, problem = tool("prepare_core_sounds", tmp_path / "out", *arguments)
    assert status == 2
    assert message in problem


def test_runs_as_a_program() -> None:
    program = Path(__file__).parents[2] / "tools" / "prepare_core_sounds.py"
    done = subprocess.run([sys.executable, program, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "python tools/prepare_core_sounds.py" in done.stdout
