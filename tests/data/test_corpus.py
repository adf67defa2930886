from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import soundfile

from speechssl.data.audio import read_audio, read_cut
from speechssl.data.corpus import download_file, write_corpus
from speechssl.data.corpus_report import Report, read_report
from speechssl.data.manifest import cuts_path, load_cuts
from speechssl.data.splitting import (
    MIN_SPEAKERS,
    hash_fraction,
    hold_out,
    split_by_key,
    split_by_speaker,
    split_of,
)
from speechssl.data.utterance import Rejected, Utterance
from speechssl.errors import ManifestError, RunFolderError


def noise(path: Path, seconds: float = 0.5, channels: int = 1) -> Path:
    rng = np.random.default_rng(0)
    soundfile.write(path, 0.1 * rng.standard_normal((round(8000 * seconds), channels)), 8000)
    return path


def utterance(folder: Path, name: str, **known: str) -> Utterance:
    return Utterance(name, noise(folder / f"{name}.wav"), **known)  # type: ignore[arg-type]


def many(speakers: int, each: int = 3) -> list[Utterance]:
    return [
        Utterance(f"s{s}-{i}", Path("absent.wav"), "text", f"s{s}")
        for s in range(speakers)
        for i in range(each)
    ]


def test_writes_cuts_that_load(tmp_path: Path) -> None:
    splits = {
        "train": [utterance(tmp_path, "a", text="one two", speaker="x", language="en")],
        "test": [utterance(tmp_path, "b")],
    }
    report = write_corpus(tmp_path / "out", splits, corpus="toy")
    (cut,) = load_cuts(cuts_path(tmp_path / "out", "train"), need_text=True)
    supervision = cut.supervisions[0]
    assert (cut.id, supervision.text, supervision.speaker) == ("a", "one two", "x")
    assert (cut.sampling_rate, cut.num_samples, supervision.language) == (8000, 4000, "en")
    assert len(read_cut(cut)) == 8000
    assert not cuts_path(tmp_path / "out", "dev").exists()
    assert report.splits["train"].transcribed_hours == pytest.approx(0.5 / 3600)
    assert (report.splits["test"].utterances, report.splits["test"].transcribed_hours) == (1, 0)


def test_many_channels_become_their_average(tmp_path: Path) -> None:
    path = noise(tmp_path / "a.wav", channels=3)
    write_corpus(tmp_path / "out", {"train": [Utterance("a", path)]}, corpus="toy")
    (cut,) = load_cuts(cuts_path(tmp_path / "out", "train"))
    np.testing.assert_array_equal(read_cut(cut), read_audio(path))


def test_bad_recordings_are_rejected_with_the_reason(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "nan.wav", np.full(8000, np.nan), 8000, subtype="FLOAT")
    (tmp_path / "zero.wav").write_bytes(b"")
    offered = [
        utterance(tmp_path, "good", text="fine"),
        utterance(tmp_path, "fast", text="far too many words for half a second"),
        Utterance("nan", tmp_path / "nan.wav"),
        Utterance("zero", tmp_path / "zero.wav"),
        Utterance("gone", tmp_path / "gone.wav"),
        Utterance("short", noise(tmp_path / "short.wav", 0.02)),
        utterance(tmp_path, "good"),
    ]
    before = [Rejected("beep", "is not speech")]
    report = write_corpus(
        tmp_path / "out", {"train": offered}, corpus="toy", rejected=before, fastest_speech=25
    )
    reasons = {rejected.item: rejected.reason for rejected in report.rejected}
    for item, reason in {
        "beep": "is not speech",
        "fast": "transcript is too long",
        "nan": "NaN or infinite",
        "zero": "is empty",
        "gone": "no such file",
        "short": "shorter than one frame",
        "good": "used twice",
    }.items():
        assert reason in reasons[item]
    assert [cut.id for cut in load_cuts(cuts_path(tmp_path / "out", "train"))] == ["good"]
    text = (tmp_path / "out" / "report.txt").read_text()
    assert all(item in text for item in reasons)
    assert "rejected: 7" in report.short()


def test_what_is_in_two_splits_stays_in_test(tmp_path: Path) -> None:
    a, b = utterance(tmp_path, "a", text="one"), utterance(tmp_path, "b", text="one")
    report = write_corpus(
        tmp_path / "out", {"train": [a], "test": [b]}, corpus="toy", checks=["duplicate"]
    )
    assert [report.splits[split].utterances for split in ("train", "test")] == [0, 1]
    assert [(r.item, r.reason.split(": ")[-1]) for r in report.rejected] == [
        ("a", "has the same sound as another recording (b)")
    ]


def test_nothing_usable_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no usable recording \(1 rejected; the first: .*gone"):
        write_corpus(
            tmp_path / "out", {"train": [Utterance("a", tmp_path / "gone.wav")]}, corpus="toy"
        )
    assert not (tmp_path / "out").exists()


def test_report_reads_back_and_groups_by_language(tmp_path: Path) -> None:
    offered = [
        utterance(tmp_path, "a", language="en", speaker="x"),
        utterance(tmp_path, "b", language="ru", speaker="y"),
    ]
    report = write_corpus(tmp_path / "out", {"train": offered}, corpus="toy", rights="CC0")
    assert read_report(tmp_path / "out") == report
    assert list(report.languages["train"]) == ["en", "ru"]
    assert report.splits["train"].speakers == 2
    assert json.loads((tmp_path / "out" / "report.json").read_text())["rights"] == "CC0"


@pytest.mark.parametrize("content", ["", "[]", '{"corpus": 1}'])
def test_malformed_report(tmp_path: Path, content: str) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(ManifestError, match="missing or malformed"):
        read_report(tmp_path)


def test_the_same_corpus_again_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = {"train": [utterance(tmp_path, "a", text="one")]}
    first = write_corpus(tmp_path / "out", splits, corpus="toy")
    content = cuts_path(tmp_path / "out", "train").read_bytes()
    assert write_corpus(tmp_path / "out", splits, corpus="toy") == first
    assert cuts_path(tmp_path / "out", "train").read_bytes() == content
    assert "nothing to do" in capsys.readouterr().out


def test_another_corpus_needs_overwrite(tmp_path: Path) -> None:
    first = {"train": [utterance(tmp_path, "a")], "dev": [utterance(tmp_path, "c")]}
    second = {"train": [utterance(tmp_path, "b")]}
    out = tmp_path / "out"
    write_corpus(out, first, corpus="toy")
    with pytest.raises(RunFolderError, match=r"another corpus.*--overwrite"):
        write_corpus(out, second, corpus="toy")
    assert [cut.id for cut in load_cuts(cuts_path(out, "train"))] == ["a"]
    write_corpus(out, second, corpus="toy", overwrite=True)
    assert [cut.id for cut in load_cuts(cuts_path(out, "train"))] == ["b"]
    assert not cuts_path(out, "dev").exists()


def test_a_foreign_corpus_is_not_taken_for_ours(tmp_path: Path) -> None:
    splits = {"train": [utterance(tmp_path, "a")]}
    write_corpus(tmp_path / "out", splits, corpus="toy")
    (tmp_path / "out" / "report.json").unlink()
    with pytest.raises(RunFolderError, match="another corpus"):
        write_corpus(tmp_path / "out", splits, corpus="toy")


def test_an_interrupted_run_is_finished(tmp_path: Path) -> None:
    splits = {"train": [utterance(tmp_path, "a")], "test": [utterance(tmp_path, "b")]}
    out = tmp_path / "out"
    write_corpus(out, splits, corpus="toy")
    cuts_path(out, "test").unlink()  # as if it had been killed before it wrote this one
    write_corpus(out, splits, corpus="toy")
    assert [cut.id for cut in load_cuts(cuts_path(out, "test"))] == ["b"]


def test_output_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(RunFolderError, match="is a file"):
        write_corpus(tmp_path / "out", {"train": [utterance(tmp_path, "a")]}, corpus="toy")


def test_hash_split_is_fixed_and_has_the_shares() -> None:
    assert split_of("hello world", dev=0.1, test=0.25) == "train"
    assert hash_fraction("hello world") == pytest.approx(0xB94D27B9 / 2**32)
    splits = split_by_key(range(4000), str, dev=0.1, test=0.25)
    assert len(splits["test"]) == pytest.approx(1000, rel=0.1)
    assert len(splits["dev"]) == pytest.approx(400, rel=0.15)
    assert sorted(i for part in splits.values() for i in part) == list(range(4000))


def test_equal_keys_share_a_split() -> None:
    splits = split_by_key([f"text {i % 50}" for i in range(500)], str, dev=0.1, test=0.25)
    assert not set(splits["train"]) & set(splits["test"])
    assert not set(splits["train"]) & set(splits["dev"])


def test_hold_out_depends_on_the_set_alone() -> None:
    keys = [f"speaker{i}" for i in range(40)]
    held = hold_out(keys, 0.1)
    assert len(held) == 4
    assert hold_out([*reversed(keys), *keys], 0.1) == held
    assert hold_out(keys, 0) == set()


def test_speakers_are_in_one_split() -> None:
    splits, how = split_by_speaker(many(20), dev=0.1, test=0.2)
    voices = {split: {u.speaker for u in part} for split, part in splits.items()}
    assert [len(voices[split]) for split in ("train", "dev", "test")] == [14, 2, 4]
    assert not voices["train"] & (voices["dev"] | voices["test"])
    assert not voices["dev"] & voices["test"]
    assert "by speaker" in how


@pytest.mark.parametrize("speakers", [1, MIN_SPEAKERS - 1])
def test_few_speakers_are_divided_by_recording(speakers: int) -> None:
    splits, how = split_by_speaker(many(speakers, each=10), dev=0.1, test=0.1)
    assert len(splits["test"]) == speakers
    assert f"{speakers} speakers are known" in how


def test_dev_and_test_come_from_the_transcribed() -> None:
    offered = [
        Utterance(f"u{i}", Path("absent.wav"), "text" if i < 20 else None) for i in range(100)
    ]
    splits, how = split_by_speaker(offered, dev=0.1, test=0.1)
    assert [len(splits[split]) for split in ("train", "dev", "test")] == [96, 2, 2]
    assert all(u.text for split in ("dev", "test") for u in splits[split])
    assert "no speakers are known" in how


def test_a_single_recording_is_for_training() -> None:
    splits, _ = split_by_speaker(many(1, each=1), dev=0.1, test=0.1)
    assert len(splits["train"]) == 1


class Promising(BaseHTTPRequestHandler):
    """Announces 10,000 bytes; sends as many as the path says."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "10000")
        self.end_headers()
        self.wfile.write(b"x" * int(self.path.strip("/")))

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Promising) as httpd:
        Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_download_is_whole_or_not_there(server: str, tmp_path: Path) -> None:
    download_file(f"{server}/10000", tmp_path / "cache" / "whole")
    assert (tmp_path / "cache" / "whole").read_bytes() == b"x" * 10_000
    with pytest.raises(OSError, match="7000 of 10000 bytes came"):
        download_file(f"{server}/7000", tmp_path / "cache" / "part")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["whole"]


def test_short_report_is_a_table() -> None:
    text = Report("toy", "CC0", notes=["a note"]).short()
    assert text.splitlines() == [
        "toy. CC0",
        "split  utterances  minutes  transcribed  speakers",
        "a note",
        "rejected: 0",
    ]
