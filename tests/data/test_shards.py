from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from speechssl.data.audio import read_cut
from speechssl.data.corpus import write_corpus, write_splits
from speechssl.data.corpus_report import Report
from speechssl.data.manifest import cut_text, cuts_path, load_cuts
from speechssl.data.shards import write_shards
from speechssl.data.utterance import Utterance
from speechssl.errors import RunFolderError
from tests.conftest import speak


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A corpus with a stereo file and a part of it, an id with a point, and no test split."""
    voice, rate = speak("ada bede cafe", "boris")
    stereo = tmp_path / "stereo.flac"
    soundfile.write(stereo, np.stack([voice, 0.5 * voice], axis=1), rate)
    mono = tmp_path / "mono.wav"
    soundfile.write(mono, *speak("haha"))
    train = [
        Utterance("Голос", stereo, "ada bede cafe"),
        Utterance("a.part", stereo, "bede", start=0.4, duration=0.4, recording="Голос"),
    ]
    splits = {"train": train, "dev": [Utterance("x.wav", mono, "haha")]}
    write_corpus(tmp_path / "out", splits, corpus="toy")
    return tmp_path / "out"


def test_lhotse_reads_what_training_sees(out: Path) -> None:
    write_shards(out, jobs=2)
    assert not (out / "test").exists()
    for split in ("train", "dev"):
        shards = CutSet.from_shar(in_dir=out / split / "shar")
        cuts = load_cuts(cuts_path(out, split))
        assert [cut.id for cut in shards] == [cut.id for cut in cuts]
        for shard, cut in zip(shards, cuts):
            np.testing.assert_allclose(shard.load_audio()[0], read_cut(cut), atol=2**-15)
            assert cut_text(shard) == cut_text(cut)
            assert shard.sampling_rate == 16_000


def test_shards_are_written_once_and_never_stale(out: Path) -> None:
    write_shards(out)
    tar = out / "train" / "shar" / "recording.000000.tar"
    first = tar.stat().st_mtime_ns
    (out / "dev" / "shar.made_from").write_text("other")  # as if it had been another corpus's
    (out / "dev" / ".tmp-shar").mkdir()  # what a killed run leaves
    write_shards(out)
    assert tar.stat().st_mtime_ns == first
    assert sorted(path.name for path in (out / "dev").iterdir()) == [
        "cuts.jsonl.gz",
        "cuts.jsonl.gz.index",
        "shar",
        "shar.index",
        "shar.made_from",
    ]
    shutil.copyfile(cuts_path(out, "dev"), cuts_path(out, "train"))
    write_shards(out)
    assert [cut.id for cut in CutSet.from_shar(in_dir=out / "train" / "shar")] == ["x.wav"]


def test_shards_without_their_manifest_are_left_alone(out: Path) -> None:
    write_shards(out)
    cuts_path(out, "dev").unlink()
    (out / "dev" / "shar.made_from").unlink()
    write_shards(out)
    assert [cut.id for cut in load_cuts(cuts_path(out, "dev"))] == ["x.wav"]


def test_another_corpus_leaves_no_shards_behind(out: Path, tmp_path: Path) -> None:
    write_shards(out)
    for split in ("train", "dev"):
        cuts_path(out, split).unlink()  # nothing but Shar
    splits = {"train": [Utterance("other", tmp_path / "mono.wav", "haha")]}
    with pytest.raises(RunFolderError, match="already holds another corpus"):
        write_corpus(out, splits, corpus="other")
    write_corpus(out, splits, corpus="other", overwrite=True)
    assert [cut.id for cut in load_cuts(cuts_path(out, "train"))] == ["other"]
    assert not cuts_path(out, "dev").exists()
    assert not [*out.glob("*/shar"), *out.glob("*/shar.index")]


def test_a_split_in_shar_can_be_copied_to_another_corpus(out: Path, tmp_path: Path) -> None:
    write_shards(out)
    cuts_path(out, "dev").unlink()
    splits = {split: list(load_cuts(cuts_path(out, split))) for split in ("train", "dev")}
    write_splits(tmp_path / "new", splits, Report("new", ""))
    (cut,) = load_cuts(cuts_path(tmp_path / "new", "dev"))
    assert cut.id == "x.wav"
    assert read_cut(cut).abs().max() > 0.01
