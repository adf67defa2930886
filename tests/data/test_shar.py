"""Reading Lhotse Shar: as if it were the manifest that it was made from, and nothing damaged."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, Recording

from speechssl.data.audio import read_cut
from speechssl.data.index import Cuts, index_path
from speechssl.data.loading import BatchLoader, CutLoader, epoch_batches
from speechssl.data.manifest import cuts_path, load_cuts, save_cuts, shar_path
from speechssl.errors import AudioError, ManifestError
from tests.conftest import speak

READERS = [pytest.param(load_cuts, id="load_cuts"), pytest.param(Cuts.open, id="Cuts.open")]


def shar_of(folder: Path, **options: Any) -> Path:
    """Three cuts in Shar, by Lhotse itself: whole, a part of a recording, and its right channel."""
    voice, rate = speak("ada bede", "boris")
    (folder / "shar").mkdir(parents=True)
    soundfile.write(folder / "stereo.wav", np.stack([voice, 0.5 * voice], axis=1), rate)
    soundfile.write(folder / "mono.wav", *speak("cafe"))
    stereo = Recording.from_file(folder / "stereo.wav").to_cut()
    cuts = [
        Recording.from_file(folder / "mono.wav").to_cut(),
        stereo.to_mono()[0].truncate(offset=0.2, duration=0.3).with_id("part"),
        stereo.to_mono()[1].with_id("right"),
    ]
    CutSet.from_cuts(cuts).to_shar(folder / "shar", **options)
    return folder / "shar"


def test_tars_are_walked_through_once(tmp_path: Path) -> None:
    folder = shar_of(tmp_path, fields={"recording": "flac"})
    cuts = load_cuts(folder)
    for tar in folder.glob("*.tar"):
        tar.write_bytes(b"x" * tar.stat().st_size)
    assert list(load_cuts(folder)) == list(cuts)
    index_path(folder).unlink()
    with pytest.raises(ManifestError, match="is damaged"):
        load_cuts(folder)


def batches(cuts: Cuts, threads: int) -> list[Any]:
    plan = epoch_batches(cuts.durations, batch_seconds=2, length_noise=0.1, seed=3, epoch=1)
    loader = BatchLoader(CutLoader(), total_cuts=len(cuts), threads=threads)
    return list(loader.load((cuts.select(places), 0) for places in plan))


def test_a_moved_folder_gives_the_same_cuts_and_batches(shar_corpus: Path, tmp_path: Path) -> None:
    plain = Cuts.open(cuts_path(shar_corpus, "train"))
    waveforms = [read_cut(cut) for cut in plain]
    expected = batches(plain, threads=1)
    texts, frames = list(plain.texts()), plain.frames.tolist()
    moved = tmp_path / "elsewhere"
    shutil.copytree(shar_path(shar_corpus, "train"), shar_path(moved, "train"))
    shutil.rmtree(shar_corpus)
    shutil.rmtree(tmp_path / "audio")

    path = cuts_path(moved, "train")
    cuts = Cuts.open(path)
    assert path == shar_path(moved, "train")
    assert list(cuts.ids()) == [cut.id for cut in load_cuts(path)] == list(plain.ids())
    assert (list(cuts.texts()), cuts.frames.tolist()) == (texts, frames)
    for cut, waveform in zip(cuts, waveforms):
        assert torch.equal(read_cut(cut), waveform)
    for threads in (1, 3):
        found = batches(cuts, threads)
        assert [batch.ids for batch in found] == [batch.ids for batch in expected]
        assert all(torch.equal(a.waveforms, b.waveforms) for a, b in zip(found, expected))

    index = index_path(path)
    made = index.stat().st_mtime_ns
    assert Cuts.open(path).manifest_hash == cuts.manifest_hash
    assert index.stat().st_mtime_ns == made
    assert not cuts_path(moved, "dev").exists()


@pytest.mark.parametrize("shard_size", [2, None])
@pytest.mark.parametrize("kind", ["flac", "wav", "original"])
def test_it_reads_what_lhotse_writes(tmp_path: Path, kind: str, shard_size: int | None) -> None:
    path = shar_of(tmp_path / "lhotse", fields={"recording": kind}, shard_size=shard_size)
    theirs = list(CutSet.from_shar(in_dir=path))
    save_cuts(load_cuts(path), tmp_path / "cuts.jsonl.gz")  # places outlive another folder
    for ours in (Cuts.open(path), Cuts.open(tmp_path / "cuts.jsonl.gz")):
        assert [cut.id for cut in ours] == [cut.id for cut in theirs]
        at_own_rate = ours[0]
        np.testing.assert_array_equal(read_cut(at_own_rate), theirs[0].load_audio()[0])
        for cut, other in zip(ours, theirs):
            expected = other.resample(16_000).load_audio()[0]
            np.testing.assert_allclose(read_cut(cut), expected, atol=1e-3)
    assert len(list(CutSet.from_shar(in_dir=path))) == 3, "no file was added that Lhotse minds"


def test_a_folder_may_be_the_current_one(
    shar_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shar_path(shar_corpus, "dev"))
    assert len(read_cut(Cuts.open(".")[0])) == len(read_cut(next(iter(load_cuts(".")))))
    assert index_path(shar_path(shar_corpus, "dev")).is_file()


def test_another_content_is_never_taken_for_the_indexed_one(tmp_path: Path) -> None:
    path = shar_of(tmp_path / "one", fields={"recording": "wav"}, shard_size=1)
    assert len(Cuts.open(path)) == 3
    for file in path.glob("*.000001.*"):
        file.unlink()
    assert [cut.id for cut in Cuts.open(path)][1:] == ["right"]


def _repack(change: Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes]]) -> Any:
    """A damage that writes the tar again with each member changed."""

    def damage(folder: Path) -> None:
        path = folder / "recording.000000.tar"
        with tarfile.open(path) as old:
            members = [(m, old.extractfile(m).read()) for m in old]  # type: ignore[union-attr]
        with tarfile.open(path, "w") as new:
            for member, content in members:
                member, content = change(member, content)
                member.size = len(content)
                new.addfile(member, io.BytesIO(content))

    return damage


def _cut_off(place: Callable[[tarfile.TarFile], int]) -> Any:
    def damage(folder: Path) -> None:
        path = folder / "recording.000000.tar"
        with tarfile.open(path) as archive:
            end = place(archive)
        path.write_bytes(path.read_bytes()[:end])

    return damage


def _renamed(member: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member.name = member.name.replace("part", "../../../etc/passwd")
    return member, content


def _linked(member: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    if member.name == "part.flac":
        member.type, member.linkname, content = tarfile.SYMTYPE, "/etc/passwd", b""
    return member, content


def _undescribed(member: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    return member, b"[" * 50_000 if member.name == "part.json" else content


def _unpaired(member: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member.name = member.name.replace("part.json", "part.nometa")
    return member, content


def _tar(content: bytes) -> Any:
    return lambda folder: (folder / "recording.000000.tar").write_bytes(content)


def _other_cuts(folder: Path) -> None:
    shutil.copyfile(folder / "cuts.000001.jsonl.gz", folder / "cuts.000000.jsonl.gz")


def _fewer_cuts(folder: Path) -> None:
    cuts = list(CutSet.from_file(folder / "cuts.000000.jsonl.gz"))
    CutSet.from_cuts(cuts[:1]).to_file(folder / "cuts.000000.jsonl.gz")


DAMAGES = {
    "in a recording": (_cut_off(lambda tar: tar.getmember("part.flac").offset_data + 99), "trunc"),
    "in a header": (_cut_off(lambda tar: tar.getmember("part.json").offset + 9), "nothing follows"),
    "between pairs": (_cut_off(lambda tar: tar.getmember("part.flac").offset), "nothing more"),
    "no tar": (_tar(b"gzip?" * 300), "truncated or no tar"),
    "empty": (_tar(b""), "truncated or no tar"),
    "another name": (_repack(_renamed), "'part' is not in its place"),
    "a link": (_repack(_linked), "'part.flac' is no plain file"),
    "no description": (_repack(_undescribed), "beside 'part.flac' is no Lhotse recording"),
    "no recording": (_repack(_unpaired), "but 'part.nometa' follows"),
    "other cuts": (_other_cuts, "'right' is not in its place"),
    "fewer cuts": (_fewer_cuts, "more recordings than"),
    "a lost tar": (lambda folder: (folder / "recording.000000.tar").unlink(), "is missing beside"),
    "lost cuts": (lambda folder: (folder / "cuts.000000.jsonl.gz").unlink(), "is missing"),
}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_folder_is_refused_in_one_line(
    tmp_path: Path, read: Any, damage: Callable[[Path], Any], message: str
) -> None:
    path = shar_of(tmp_path / "damaged", fields={"recording": "flac"}, shard_size=2)
    damage(path)
    with pytest.raises(ManifestError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert ".000000." in str(caught.value)


def test_damage_behind_the_index_is_named(shar_corpus: Path) -> None:
    cuts = list(Cuts.open(shar_path(shar_corpus, "train")))
    tar = shar_path(shar_corpus, "train") / "recording.000000.tar"
    content = tar.read_bytes()
    place = int(str(cuts[2].recording.sources[0].source).rpartition("#")[2].split("+")[0])
    tar.write_bytes(content[:place] + bytes(2000) + content[place + 2000 :])
    with pytest.raises(AudioError, match=r"recording.000000.tar#.*Слово/2.x.*cannot be decoded"):
        read_cut(cuts[2])
    assert len(read_cut(cuts[1]))
    tar.write_bytes(content[: place + 100])
    with pytest.raises(AudioError, match=r"recording.000000.tar: is truncated: .* the file has"):
        read_cut(cuts[2])
    tar.unlink()
    with pytest.raises(AudioError, match=r"recording.000000.tar: cannot be read"):
        read_cut(cuts[2])


@pytest.mark.parametrize("place", ["", "#1+2", "a.tar", "a.tar#-1+5", "a.tar#1+", "a.tar#1+9#2"])
def test_a_place_that_is_none_is_refused(shar_corpus: Path, place: str) -> None:
    cut = Cuts.open(shar_path(shar_corpus, "dev"))[0]
    cut.recording.sources[0].source = place
    with pytest.raises(AudioError, match=r"is no place in a tar; .* give the folder"):
        read_cut(cut)


def test_a_shard_alone_says_what_to_give(shar_corpus: Path) -> None:
    cuts = Cuts.open(shar_path(shar_corpus, "dev") / "cuts.000000.jsonl.gz")
    with pytest.raises(AudioError, match="give the folder of the shards"):
        read_cut(cuts[0])
