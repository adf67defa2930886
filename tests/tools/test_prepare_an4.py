from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from speechssl.data.corpus_report import read_report
from speechssl.data.manifest import SPLITS, cut_text, cuts_path, load_cuts

Tool = Callable[..., tuple[int, str, str]]

CORPORA = os.environ.get("SPEECHSSL_CORPORA", "")
AN4 = Path(CORPORA) / "an4"

needs_an4 = pytest.mark.skipif(
    not CORPORA or not AN4.is_dir(), reason="set SPEECHSSL_CORPORA to a folder that holds an4/"
)


@pytest.fixture(scope="module")
def an4(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imitation of the corpus: ten training speakers, one test speaker, two words each."""
    root = tmp_path_factory.mktemp("an4")
    sounds = sorted((corpus / "audio").glob("*-anna.wav"))
    for part, folder, speakers in (
        ("train", "an4_clstk", [f"spk{i}" for i in range(10)]),
        ("test", "an4test_clstk", ["tester"]),
    ):
        files, lines = [], []
        for speaker in speakers:
            for word, sound in zip(("YES", "A B THREE"), sounds):
                id = f"an{len(files)}-{speaker}-b"
                target = root / "wav" / folder / speaker / f"{id}.wav"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(sound, target)
                files.append(f"{folder}/{speaker}/{id}")
                lines.append(f"<s> {word} </s> ({id})" if part == "train" else f"{word} ({id})")
        (root / "etc").mkdir(exist_ok=True)
        (root / "etc" / f"an4_{part}.fileids").write_text("\n".join(files) + "\n")
        (root / "etc" / f"an4_{part}.transcription").write_text("\n".join(lines) + "\n")
    return root


def test_official_test_set_and_dev_by_speaker(tool: Tool, an4: Path, tmp_path: Path) -> None:
    status, printed, _ = tool("prepare_an4", tmp_path / "out", "--corpus", an4)
    assert status == 0
    cuts = {split: list(load_cuts(cuts_path(tmp_path / "out", split))) for split in SPLITS}
    voices = {s: {cut.supervisions[0].speaker for cut in part} for s, part in cuts.items()}
    assert [len(cuts[split]) for split in SPLITS] == [18, 2, 2]
    assert voices["test"] == {"tester"}
    assert len(voices["dev"]) == 1
    assert not voices["dev"] & voices["train"]
    assert {cut_text(cut) for cut in cuts["train"]} == {"yes", "a b three"}
    assert f"dev: the speakers {' '.join(voices['dev'])}" in printed


def test_items_that_cannot_be_used(tool: Tool, an4: Path, tmp_path: Path) -> None:
    shutil.copytree(an4, tmp_path / "an4")
    etc = tmp_path / "an4" / "etc"
    lines = (etc / "an4_test.transcription").read_text().splitlines()
    (etc / "an4_test.transcription").write_text(lines[0] + "\n")
    (tmp_path / "an4/wav/an4_clstk/spk3/an6-spk3-b.wav").unlink()
    status, _, _ = tool("prepare_an4", tmp_path / "out", "--corpus", tmp_path / "an4")
    assert status == 0
    reasons = {r.item: r.reason for r in read_report(tmp_path / "out").rejected}
    assert reasons["an4test_clstk/tester/an1-tester-b"] == "has no transcript"
    assert "no such file" in reasons["an6-spk3-b"]
    assert len(reasons) == 2


def test_a_folder_that_is_not_an4(tool: Tool, tmp_path: Path) -> None:
    status, _, problem = tool("prepare_an4", tmp_path / "out", "--corpus", tmp_path)
    assert status == 2
    assert "is not the AN4 corpus (etc/an4_train.transcription is missing" in problem
    assert not (tmp_path / "out").exists()


def test_download_is_unpacked_and_kept(
    load_tool: Callable[[str], ModuleType],
    tool: Tool,
    an4: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tarfile.open(tmp_path / "an4.tar.gz", "w:gz") as tar:
        tar.add(an4, arcname="an4-master")
    module = load_tool("prepare_an4")
    monkeypatch.setattr(module, "ARCHIVE", (tmp_path / "an4.tar.gz").as_uri())
    cache = tmp_path / "cache"
    assert tool(module, tmp_path / "out", "--download", cache)[0] == 0
    assert (cache / "an4" / "wav").is_dir()
    monkeypatch.setattr(module, "ARCHIVE", "file:///nowhere")
    assert tool(module, tmp_path / "again", "--download", cache)[0] == 0


def test_failed_download_leaves_nothing(
    load_tool: Callable[[str], ModuleType],
    tool: Tool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = load_tool("prepare_an4")
    (tmp_path / "page.html").write_text("<html>not an archive</html>")
    for address in ("file:///nowhere/an4.tar.gz", (tmp_path / "page.html").as_uri()):
        monkeypatch.setattr(module, "ARCHIVE", address)
        status, _, problem = tool(module, tmp_path / "out", "--download", tmp_path / "cache")
        assert status == 2
        assert "give its folder with --corpus" in problem
        assert not list((tmp_path / "cache").glob("*"))


@needs_an4
def test_the_real_corpus(tool: Tool, tmp_path: Path) -> None:
    status, _, _ = tool("prepare_an4", tmp_path / "out", "--corpus", AN4)
    assert status == 0
    report = read_report(tmp_path / "out")
    assert [report.splits[split].utterances for split in SPLITS] == [859, 89, 130]
    assert report.rejected == []
    train, dev, test = (load_cuts(cuts_path(tmp_path / "out", s), need_text=True) for s in SPLITS)
    speakers = [{cut.supervisions[0].speaker for cut in part} for part in (train, dev, test)]
    assert not speakers[0] & speakers[1]
    assert not speakers[0] & speakers[2]
    assert cut_text(test["an406-fcaw-b"]) == "rubout g m e f three nine"
    assert "an4test_clstk" in test["an406-fcaw-b"].recording.sources[0].source
