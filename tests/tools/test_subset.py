from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from speechssl.data.audio import cut_samples, read_cut
from speechssl.data.manifest import cuts_path, hours, load_cuts, save_cuts
from speechssl.errors import ManifestError

Tool = Callable[..., tuple[int, str, str]]


def train(folder: Path) -> list[str]:
    return [cut.id for cut in load_cuts(cuts_path(folder, "train"))]


def test_minutes_speakers_and_the_other_splits(tool: Tool, corpus: Path, tmp_path: Path) -> None:
    status, printed, _ = tool("subset", corpus, tmp_path / "out", "--minutes", "0.1")
    assert status == 0
    cuts = load_cuts(cuts_path(tmp_path / "out", "train"), need_text=True)
    assert hours(cuts) * 3600 == pytest.approx(6, abs=1)
    chosen = {cut.id for cut in cuts}
    assert train(tmp_path / "out") == [cut_id for cut_id in train(corpus) if cut_id in chosen]
    seconds: Counter[str] = Counter()
    for cut in cuts:
        seconds[cut.supervisions[0].speaker] += cut.duration
    assert seconds["anna"] == pytest.approx(seconds["boris"], abs=1.6)
    for split in ("dev", "test"):
        copied, original = (load_cuts(cuts_path(d, split)) for d in (tmp_path / "out", corpus))
        assert list(copied) == list(original)
    assert "0.1 minutes (seed 0)" in printed


def test_a_rare_speaker_has_as_much_as_others(
    load_tool: Callable[[str], ModuleType], corpus: Path
) -> None:
    choose = load_tool("subset").choose
    cuts = list(load_cuts(cuts_path(corpus, "train")))
    by_speaker = {name: [c for c in cuts if name in c.id] for name in ("anna", "boris")}
    rare = [cut.id for cut in by_speaker["boris"][:2]]
    some = by_speaker["anna"] + by_speaker["boris"][:2]
    seconds = 2 * sum(cut.duration for cut in by_speaker["boris"][:2])
    for seed in range(5):
        chosen = [cut.id for cut in choose(some, seconds / 60, seed)]
        assert set(rare) <= set(chosen)
        assert len(chosen) < len(some)


def test_an_utterance_is_taken_if_it_is_closer_with_it(
    load_tool: Callable[[str], ModuleType], corpus: Path
) -> None:
    choose = load_tool("subset").choose
    cut = next(iter(load_cuts(cuts_path(corpus, "train"))))
    assert choose([cut], 0.6 * cut.duration / 60, 0) == [cut]
    with pytest.raises(ManifestError, match="no utterance of train is as short"):
        choose([cut], 0.4 * cut.duration / 60, 0)


def test_the_seed_decides(tool: Tool, corpus: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        tool("subset", corpus, tmp_path / name, "--minutes", "0.1", "--seed", seed)
    assert train(tmp_path / "a") == train(tmp_path / "b")
    assert train(tmp_path / "a") != train(tmp_path / "c")
    first, second = (cuts_path(tmp_path / name, "train").read_bytes() for name in "ab")
    assert first == second


def test_untranscribed_recordings_are_left_out(
    tool: Tool, corpus_copy: Path, tmp_path: Path
) -> None:
    path = cuts_path(corpus_copy, "train")
    cuts = list(load_cuts(path))
    for cut in cuts[:6]:
        cut.supervisions = [dataclasses.replace(cut.supervisions[0], text=None)]
    save_cuts(cuts, path)
    tool("subset", corpus_copy, tmp_path / "out", "--minutes", "0.1")
    chosen = train(tmp_path / "out")
    assert len(chosen) > 2
    assert set(chosen) <= {cut.id for cut in cuts[6:]}
    status, _, problem = tool("subset", corpus_copy, tmp_path / "more", "--minutes", "0.2")
    assert status == 2
    assert "minutes with transcripts, fewer than 0.2; ask for less" in problem


def test_all_that_is_transcribed(tool: Tool, corpus_copy: Path, tmp_path: Path) -> None:
    """What fine-tuning takes: no split holds a cut without a transcript."""
    known = {}
    for split in ("train", "dev"):
        path = cuts_path(corpus_copy, split)
        cuts = list(load_cuts(path))
        cuts[0].supervisions = [dataclasses.replace(cuts[0].supervisions[0], text=None)]
        save_cuts(cuts, path)
        known[split] = [cut.id for cut in cuts[1:]]
    assert tool("subset", corpus_copy, tmp_path / "out")[0] == 0
    for split, ids in known.items():
        kept = load_cuts(cuts_path(tmp_path / "out", split), need_text=True)
        assert [cut.id for cut in kept] == ids
    copied, original = (load_cuts(cuts_path(d, "test")) for d in (tmp_path / "out", corpus_copy))
    assert list(copied) == list(original)


def test_paths_beside_the_manifest_are_found_from_elsewhere(
    tool: Tool, corpus_copy: Path, tmp_path: Path
) -> None:
    for split in ("train", "dev"):
        path = cuts_path(corpus_copy, split)
        cuts = list(load_cuts(path))
        for cut in cuts:
            source = cut.recording.sources[0]
            shutil.copy(source.source, path.parent)
            source.source = Path(source.source).name
        save_cuts(cuts, path)
    assert tool("subset", corpus_copy, tmp_path / "far" / "out", "--minutes", "0.1")[0] == 0
    for split in ("train", "dev"):
        for cut in load_cuts(cuts_path(tmp_path / "far" / "out", split)):
            assert len(read_cut(cut)) == cut_samples(cut)


def test_again_changes_nothing_and_another_needs_overwrite(
    tool: Tool, corpus: Path, tmp_path: Path
) -> None:
    arguments = ("subset", corpus, tmp_path / "out", "--minutes", "0.1")
    tool(*arguments)
    chosen = train(tmp_path / "out")
    assert "nothing to do" in tool(*arguments)[1]
    status, _, problem = tool(*arguments, "--seed", "1")
    assert status == 2
    assert "already holds another corpus" in problem
    assert train(tmp_path / "out") == chosen
    assert tool(*arguments, "--seed", "1", "--overwrite")[0] == 0
    assert train(tmp_path / "out") != chosen


def test_other_held_out_recordings_make_another_corpus(
    tool: Tool, corpus_copy: Path, tmp_path: Path
) -> None:
    arguments = ("subset", corpus_copy, tmp_path / "out", "--minutes", "0.1")
    tool(*arguments)
    dev = cuts_path(corpus_copy, "dev")
    save_cuts(list(load_cuts(dev))[1:], dev)
    status, _, problem = tool(*arguments)
    assert status == 2
    assert "already holds another corpus" in problem


def test_less_than_one_utterance(tool: Tool, corpus: Path, tmp_path: Path) -> None:
    status, _, problem = tool("subset", corpus, tmp_path / "out", "--minutes", "0.001")
    assert status == 2
    assert "no utterance of train is as short as 0.001 minutes" in problem
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent", "out", "--minutes", "1"), "no such file"),
        ((".", ".", "--minutes", "1"), "is the corpus itself"),
        ((".", "any/..", "--minutes", "1"), "is the corpus itself"),
        ((".", "out", "--minutes", "0"), "0"),
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
    status, _, problem = tool("subset", *arguments)
    assert status == 2
    assert message in problem
    assert not (tmp_path / "out").exists()
