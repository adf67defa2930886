"""Random access to manifests: exact, whatever was written before."""

from __future__ import annotations

import dataclasses
import gzip
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from lhotse import AudioSource, CutSet, MonoCut, Recording, SupervisionSegment

from speechssl.data.index import Cuts, build_index, index_path
from speechssl.data.manifest import (
    cut_text,
    cuts_path,
    hash_manifest,
    load_cuts,
    read_lines,
    save_cuts,
)
from speechssl.data.targets import cut_frames
from speechssl.errors import ManifestError
from speechssl.frames import min_samples

RATES = (8_000, 11_025, 16_000, 44_100)


def make_cuts(count: int, seed: int = 0) -> list[MonoCut]:
    """Cuts of 0.01 to 20 s at several rates, whose lengths fall between samples."""
    rng = np.random.default_rng(seed)
    cuts = []
    for number in range(count):
        rate = int(rng.choice(RATES))
        cut_id = f"käse-{number}"
        source = AudioSource("file", [0], f"/nowhere/{number}.wav")
        duration = float(rng.uniform(0.01, 20))
        if number % 3 == 0:  # exactly between two samples
            duration = (int(duration * rate) + 0.5) / rate
        text = f"text {number}" if number % 5 else None
        cuts.append(
            MonoCut(
                cut_id,
                start=float(rng.uniform(0, 3)),
                duration=duration,
                channel=0,
                recording=Recording(cut_id, [source], rate, 30 * rate, 30.0),
                supervisions=[SupervisionSegment(cut_id, cut_id, 0.0, duration, text=text)],
            )
        )
    return cuts


@pytest.fixture(scope="module")
def cuts() -> list[MonoCut]:
    return make_cuts(203)


@pytest.fixture
def manifest(cuts: list[MonoCut], tmp_path: Path) -> Path:
    save_cuts(cuts, tmp_path / "cuts.jsonl.gz")
    return tmp_path / "cuts.jsonl.gz"


@pytest.mark.parametrize("form", ["gzip", "gzip-members", "plain", "blank-lines"])
def test_everything_is_as_lhotse_reads_it(cuts: list[MonoCut], tmp_path: Path, form: str) -> None:
    path = tmp_path / ("cuts.jsonl" if form == "plain" else "cuts.jsonl.gz")
    save_cuts(cuts, tmp_path / "one.jsonl.gz")
    lines = gzip.decompress((tmp_path / "one.jsonl.gz").read_bytes()).splitlines(keepends=True)
    if form == "gzip-members":
        path.write_bytes(b"".join(gzip.compress(line) for line in lines))
    elif form == "plain":
        path.write_bytes(b"".join(lines))
    elif form == "blank-lines":
        path.write_bytes(gzip.compress(b"\n" + b" \n".join(lines)))
    else:
        path.write_bytes(gzip.compress(b"".join(lines)))
    for opened in (Cuts.open(path), Cuts.open(path)):  # made, then read from the file
        assert list(opened) == cuts == list(CutSet.from_file(tmp_path / "one.jsonl.gz"))
        assert len(opened) == len(cuts)
        assert list(opened.ids()) == [cut.id for cut in cuts]
        assert opened.durations.tolist() == [cut.duration for cut in cuts]
        assert opened.frames.tolist() == [cut_frames(cut) for cut in cuts]
        assert opened.hours == pytest.approx(sum(cut.duration for cut in cuts) / 3600)
        order = np.random.default_rng(1).permutation(len(cuts))
        assert [opened[place] for place in order] == [cuts[place] for place in order]


def test_lengths_at_the_border_of_a_frame(tmp_path: Path) -> None:
    """Half a sample is rounded up, and no product of seconds and rate loses one."""
    exact = make_cuts(400)
    for number, cut in enumerate(exact):
        cut.recording.sampling_rate = 16_000
        cut.duration = (min_samples(number // 2 + 1) - 0.5 * (number % 2)) / 16_000
    save_cuts(exact, tmp_path / "cuts.jsonl.gz")
    frames = Cuts.open(tmp_path / "cuts.jsonl.gz").frames.tolist()
    assert frames == [cut_frames(cut) for cut in exact] == [n // 2 + 1 for n in range(400)]


def test_a_selection_is_in_its_own_order(cuts: list[MonoCut], manifest: Path) -> None:
    opened = Cuts.open(manifest)
    some = opened.select([5, 3, 200])
    expected = [cuts[5], cuts[3], cuts[200]]
    assert list(some) == expected
    assert list(some.ids()) == [cut.id for cut in expected]
    assert some.durations.tolist() == [cut.duration for cut in expected]
    assert some.hours == pytest.approx(sum(cut.duration for cut in expected) / 3600)
    assert list(some.select([2, 0])) == [cuts[200], cuts[5]]
    long = opened.select(opened.durations > 10)
    assert list(long) == [cut for cut in cuts if cut.duration > 10]
    assert some[-1] == cuts[200]
    with pytest.raises(IndexError):
        some[3]
    assert list(opened.select([])) == []


def test_transcripts_and_the_first_that_is_missing(cuts: list[MonoCut], manifest: Path) -> None:
    opened = Cuts.open(manifest)
    written = opened.select([place for place in range(len(cuts)) if place % 5])
    assert list(written.texts()) == [cut_text(cut) for cut in cuts if cut_text(cut)]
    with pytest.raises(ManifestError, match="cut 'käse-0' has no transcript"):
        list(opened.texts())
    assert list(opened.transcribed()) == list(written)
    with pytest.raises(ManifestError, match="cut 'käse-0' has no transcript"):
        opened.select([0, 5]).transcribed()


def test_relative_paths_are_found_beside_the_manifest(tmp_path: Path) -> None:
    (cut,) = make_cuts(1)
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "a.wav").touch()
    cut.recording.sources[0].source = "audio/a.wav"
    save_cuts([cut], tmp_path / "train" / "cuts.jsonl.gz")
    (found,) = Cuts.open(tmp_path / "train" / "cuts.jsonl.gz")
    assert found.recording.sources[0].source == str(tmp_path / "audio" / "a.wav")


def test_an_index_is_made_once_and_again_for_another_content(
    cuts: list[MonoCut], manifest: Path
) -> None:
    Cuts.open(manifest)
    first = index_path(manifest).stat()
    manifest.touch()
    Cuts.open(manifest)
    assert index_path(manifest).stat() == first, "the same content needs no new index"
    save_cuts(cuts[:50], manifest)
    assert list(Cuts.open(manifest)) == cuts[:50]
    assert index_path(manifest).stat().st_ino != first.st_ino


def test_a_manifest_that_is_replaced_while_it_is_read(
    cuts: list[MonoCut], manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replaced(path: Path) -> Iterator[tuple[int, str]]:
        yield from read_lines(path)
        save_cuts(cuts[:50], path)

    with monkeypatch.context() as patch:
        patch.setattr("speechssl.data.index.read_lines", replaced)
        Cuts.open(manifest)
    assert list(Cuts.open(manifest)) == cuts[:50]


def test_the_same_manifest_gives_the_same_index(manifest: Path) -> None:
    Cuts.open(manifest)
    before = index_path(manifest).read_bytes()
    index_path(manifest).unlink()
    Cuts.open(manifest)
    assert index_path(manifest).read_bytes() == before


@pytest.mark.parametrize("damage", ["empty", "garbage", "cut off", "another layout"])
def test_a_damaged_index_is_made_again(cuts: list[MonoCut], manifest: Path, damage: str) -> None:
    Cuts.open(manifest)
    file = index_path(manifest)
    whole = file.read_bytes()
    changed = {
        "empty": b"",
        "garbage": b"no index at all",
        "cut off": whole[:-100],
        "another layout": whole.replace(b", layout 1", b", layout 0"),
    }[damage]
    assert changed != whole
    file.write_bytes(changed)
    assert list(Cuts.open(manifest)) == cuts
    assert file.read_bytes() == whole


def test_damaged_lines_are_never_taken_for_cuts(manifest: Path) -> None:
    index = build_index(manifest, hash_manifest(manifest))
    damaged = dataclasses.replace(index, blocks=np.roll(index.blocks, 1))
    with pytest.raises(ManifestError, match=r"cuts\.jsonl\.gz\.index: is damaged.*delete it"):
        Cuts(damaged, np.arange(len(index.durations)))[100]


def test_where_no_index_can_be_written_it_stays_in_memory(
    cuts: list[MonoCut], manifest: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index_path(manifest).mkdir()
    with caplog.at_level(logging.WARNING):
        assert list(Cuts.open(manifest)) == cuts
    assert "cannot be written" in caplog.text
    assert [file.name for file in manifest.parent.iterdir() if file.name.startswith(".tmp")] == []


def test_repeated_ids_are_refused_wherever_they_are(cuts: list[MonoCut], tmp_path: Path) -> None:
    again = dataclasses.replace(cuts[150], id=cuts[3].id)
    save_cuts([*cuts[:150], again, *cuts[151:]], tmp_path / "cuts.jsonl.gz")
    with pytest.raises(ManifestError, match="cut number 151: repeats the id 'käse-3'"):
        Cuts.open(tmp_path / "cuts.jsonl.gz")


def test_it_opens_what_the_tools_write(corpus: Path) -> None:
    path = cuts_path(corpus, "train")
    assert list(Cuts.open(path)) == list(load_cuts(path))
