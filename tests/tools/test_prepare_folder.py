from __future__ import annotations

import json
import shutil
import subprocess
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from speechssl.data.audio import read_audio, read_cut
from speechssl.data.corpus_report import read_report
from speechssl.data.manifest import SPLITS, cut_text, cuts_path, load_cuts
from speechssl.data.utterance import Listing, Utterance

Tool = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(corpus: Path, tmp_path: Path) -> Path:
    """Twelve recordings a.wav to l.wav in the folder of the voice that speaks them."""
    for letter, sound in zip("abcdefghijkl", sorted((corpus / "audio").glob("train-*.wav"))):
        target = tmp_path / "in" / sound.stem.split("-")[-1] / f"{letter}.wav"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sound, target)
    return tmp_path / "in"


def cuts_of(out: Path) -> dict[str, tuple[str, str | None, str | None]]:
    """Split, text and speaker of every cut, by id."""
    return {
        cut.id: (split, cut_text(cut), cut.supervisions[0].speaker)
        for split in SPLITS
        if cuts_path(out, split).exists()
        for cut in load_cuts(cuts_path(out, split))
    }


def reasons_of(out: Path) -> dict[str, str]:
    return {rejected.item: rejected.reason for rejected in read_report(out).rejected}


def test_without_transcripts(tool: Tool, folder: Path, tmp_path: Path) -> None:
    status, printed, _ = tool("prepare_folder", folder, tmp_path / "out")
    assert status == 0
    cuts = cuts_of(tmp_path / "out")
    assert set(cuts) == {
        f"{'anna' if n % 2 == 0 else 'boris'}-{c}" for n, c in enumerate("abcdefghijkl")
    }
    assert [sum(cut[0] == split for cut in cuts.values()) for split in SPLITS] == [10, 1, 1]
    assert all(cut[1:] == (None, None) for cut in cuts.values())
    assert "12 recordings have no transcript" in printed
    assert "splits: by recording (no speakers are known)" in printed


def test_text_files_beside_the_audio(tool: Tool, folder: Path, tmp_path: Path) -> None:
    (folder / "anna" / "a.txt").write_text("\ufeffIt's 2 O'Clock!\n", encoding="utf-8")
    (folder / "anna" / "c.txt").write_text("  \n")
    (folder / "anna" / "e.txt").write_bytes(b"\xff\xfe\x00")
    (folder / "anna" / "g.txt").write_text("?!")
    options = ("--language", "en", "--speaker-from", "parent")
    status, _, _ = tool("prepare_folder", folder, tmp_path / "out", *options)
    assert status == 0
    cuts = cuts_of(tmp_path / "out")
    assert cuts["anna-a"][1:] == ("it's two o'clock", "anna")
    assert cuts["anna-c"][1:] == (None, "anna")
    assert cuts["boris-b"][1:] == (None, "boris")
    reasons = reasons_of(tmp_path / "out")
    assert set(reasons) == {"anna-e", "anna-g"}
    assert "UTF-8" in reasons["anna-e"]
    assert "has no word" in reasons["anna-g"]


@pytest.mark.parametrize(
    ("name", "header", "quote"),
    [
        ("t.tsv", "client_id\tpath\tsentence\tup_votes", ""),
        ("t.csv", "Speaker,File,Text,note", '"'),
        ("t.csv", "speaker_id,audio_filepath,transcription,x", '"'),
    ],
)
def test_tables(
    tool: Tool, folder: Path, tmp_path: Path, name: str, header: str, quote: str
) -> None:
    mark = "\t" if name.endswith("tsv") else ","
    rows = [
        ["s1", "anna/a.wav", f"{quote}One, 2{quote}", "0"],
        ["s1", "anna/c", f"{quote}say {quote * 2 or chr(34)}yes{quote * 2 or chr(34)}{quote}", "0"],
        ["s2", "b.wav", "three", "0"],
        ["s2", "./boris/d.wav", "", "0"],
        ["s3", "missing.wav", "four", "0"],
        ["s3", "e", "five", "0"],
        ["s3", "anna/e.wav", "six", "0"],
    ]
    table = tmp_path / name
    table.write_text("\n".join([header, *(mark.join(row) for row in rows)]), encoding="utf-8-sig")
    status, printed, _ = tool(
        "prepare_folder", folder, tmp_path / "out", "--transcripts", table, "--language", "en"
    )
    assert status == 0
    cuts = cuts_of(tmp_path / "out")
    assert cuts["anna-a"][1:] == ("one two", "s1")
    assert cuts["anna-c"][1:] == ("say yes", "s1")
    assert cuts["boris-b"][1:] == ("three", "s2")
    assert cuts["boris-d"][1:] == (None, "s2")
    assert "anna-e" not in cuts
    assert len(cuts) == 11
    assert reasons_of(tmp_path / "out") == {
        "missing.wav": "is in the table, not in the folder",
        "anna-e": "has two different rows in the table",
    }
    columns = header.split(mark)
    assert f"audio from column {columns[1]!r}" in printed
    assert f"text from column {columns[2]!r}" in printed


def test_paths_relative_to_the_table(tool: Tool, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("path\ttext\nin/anna/a.wav\tone\n")
    tool("prepare_folder", folder, tmp_path / "out", "--transcripts", tmp_path / "t.tsv")
    assert cuts_of(tmp_path / "out")["anna-a"][1] == "one"
    assert reasons_of(tmp_path / "out") == {}


def test_names_in_tables(tool: Tool, folder: Path, tmp_path: Path) -> None:
    """Decomposed as macOS writes them; the same row twice; a name that is only like an id."""
    (folder / "anna" / "a.wav").rename(folder / unicodedata.normalize("NFD", "é.wav"))
    table = tmp_path / "t.JSONL"
    rows = [("é.wav", "one"), ("./boris/b.wav", "two"), ("b", "two"), ("anna-c", "three")]
    table.write_text("".join(json.dumps({"path": p, "text": t}) + "\n" for p, t in rows))
    tool("prepare_folder", folder, tmp_path / "out", "--transcripts", table)
    texts = {
        unicodedata.normalize("NFC", id): cut[1] for id, cut in cuts_of(tmp_path / "out").items()
    }
    assert (texts["é"], texts["boris-b"], texts["anna-c"]) == ("one", "two", None)
    assert reasons_of(tmp_path / "out") == {"anna-c": "is in the table, not in the folder"}


def test_splits_by_speaker(tool: Tool, corpus: Path, tmp_path: Path) -> None:
    sounds = sorted((corpus / "audio").glob("*.wav"))
    for number in range(20):
        shutil.copyfile(sounds[number], tmp_path / f"spk{number // 2:02d}_{number}.wav")
    options = ("--speaker-from", "^(spk[0-9]+)_", "--dev", "0.1", "--test", "0.2")
    status, printed, _ = tool("prepare_folder", tmp_path, tmp_path / "out", *options)
    assert status == 0
    voices = {s: {c[2] for c in cuts_of(tmp_path / "out").values() if c[0] == s} for s in SPLITS}
    assert [len(voices[split]) for split in SPLITS] == [7, 1, 2]
    assert "splits: by speaker" in printed


def test_speakers_from_paths_where_nothing_else_names_them(
    tool: Tool, load_tool: Callable[[str], ModuleType], folder: Path, tmp_path: Path
) -> None:
    shutil.copyfile(folder / "anna" / "a.wav", folder / "alone.wav")
    table = folder / "some.tsv"
    table.write_text("path\ttext\tspeaker\nanna/a.wav\tone\tcarla\nboris/b.wav\ttwo\t\n")
    options = ("--transcripts", table, "--speaker-from", "parent", "--allow", "duplicate")
    assert tool("prepare_folder", folder, tmp_path / "out", *options)[0] == 0
    cuts = cuts_of(tmp_path / "out")
    speakers = [cuts[cut_id][2] for cut_id in ("anna-a", "boris-b", "anna-c", "alone")]
    assert speakers == ["carla", "boris", "anna", None]
    speaker_of = load_tool("prepare_folder").speaker_of
    assert speaker_of(folder / "anna" / "a.wav", folder, "^(.)[^/]*/") == "a"
    assert speaker_of(Path("/far/spk7/a.wav"), folder, "(spk[0-9])/") == "spk7"
    assert speaker_of(folder / "anna" / "a.wav", folder, "^([0-9])") is None


def test_the_language_of_an_utterance_is_its_own(
    load_tool: Callable[[str], ModuleType],
) -> None:
    offered = [
        Utterance("a", Path("a.wav"), "12!", language="de"),
        Utterance("b", Path("b.wav"), "12!"),
        Utterance("c", Path("c.wav")),
    ]
    found = load_tool("prepare_folder").normalized(Listing(offered), "en").utterances
    assert [(u.text, u.language) for u in found] == [
        ("zwölf", "de"),
        ("twelve", "en"),
        (None, "en"),
    ]


def test_a_language_of_unknown_script_is_said(tool: Tool, folder: Path, tmp_path: Path) -> None:
    for language, said in (("xx", True), ("en", False)):
        printed = tool("prepare_folder", folder, tmp_path / language, "--language", language)[1]
        assert ("the script of 'xx' is not known, so it was not checked" in printed) == said


def test_recordings_without_a_transcript_are_counted(
    load_tool: Callable[[str], ModuleType],
) -> None:
    untold = load_tool("prepare_folder").untold
    told = Utterance("a", Path("a.wav"), "one")
    assert untold([told]) == []
    silent = untold([told, Utterance("b", Path("b.wav"))])
    assert silent == ["1 recordings have no transcript; they serve pretraining only"]


def test_formats_rates_and_channels(tool: Tool, folder: Path, tmp_path: Path) -> None:
    samples, rate = soundfile.read(folder / "anna" / "a.wav")
    for ending in ("flac", "ogg", "mp3"):
        soundfile.write(folder / f"x.{ending}", samples, rate)
    soundfile.write(folder / "stereo.wav", samples[:, None].repeat(2, axis=1), 44_100)
    options = ("--allow", "duplicate")
    status, _, _ = tool("prepare_folder", folder, tmp_path / "out", *options)
    assert status == 0
    assert {"x.flac", "x.ogg", "x.mp3", "stereo"} <= set(cuts_of(tmp_path / "out"))


def test_bad_recordings_are_listed(tool: Tool, folder: Path, tmp_path: Path) -> None:
    (folder / "zero.wav").touch()
    (folder / "fake.mp3").write_text("not audio")
    (folder / "fake.m4a").write_text("not audio")
    status, printed, _ = tool("prepare_folder", folder, tmp_path / "out")
    assert status == 0
    assert "rejected: 3" in printed
    reasons = reasons_of(tmp_path / "out")
    assert "is empty" in reasons["zero"]
    assert "cannot be decoded" in reasons["fake.mp3"]
    assert "install ffmpeg" in reasons["fake.m4a"]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="FFmpeg is not installed")
def test_m4a(tool: Tool, folder: Path, tmp_path: Path) -> None:
    talk = ("ffmpeg", "-loglevel", "error", "-i", folder / "anna" / "a.wav", folder / "talk.m4a")
    subprocess.run(talk, check=True)
    status, _, _ = tool("prepare_folder", folder, tmp_path / "out")
    assert status == 0
    assert "talk" in cuts_of(tmp_path / "out")


def test_kaldi_segments_become_cuts(tool: Tool, folder: Path, tmp_path: Path) -> None:
    sound = folder / "anna" / "a.wav"
    data = tmp_path / "data" / "train"
    data.mkdir(parents=True)
    (data / "wav.scp").write_text(f"rec {sound}\n")
    (data / "segments").write_text("u1 rec 0.1 0.35\nu2 rec 0.35 -1\nu3 rec 0.2 99\n")
    (data / "text").write_text("u1 One\nu2 TWO\nu3 three\n")
    (data / "utt2spk").write_text("u1 anna\nu2 anna\nu3 anna\n")
    options = ("--dev", "0", "--test", "0", "--shar")
    status, printed, _ = tool("prepare_folder", data.parent, tmp_path / "out", *options)
    assert status == 0
    assert "layout: kaldi" in printed
    assert "ends" in reasons_of(tmp_path / "out")["u3"]
    cuts = load_cuts(cuts_path(tmp_path / "out", "train"))
    whole = read_audio(sound)
    known = {cut.id: (cut_text(cut), cut.supervisions[0].speaker) for cut in cuts}
    assert known == {"u1": ("one", "anna"), "u2": ("two", "anna")}
    np.testing.assert_array_equal(read_cut(cuts["u1"]), whole[1600:5600])
    np.testing.assert_array_equal(read_cut(cuts["u2"]), whole[5600:])
    assert {cut.recording_id for cut in cuts} == {"rec"}
    shards = CutSet.from_shar(in_dir=tmp_path / "out" / "train" / "shar")
    assert [cut.id for cut in shards] == ["u1", "u2"]


def test_subtitles_of_a_long_recording(tool: Tool, folder: Path, tmp_path: Path) -> None:
    (folder / "anna" / "a.srt").write_text(
        "1\n00:00:00,100 --> 00:00:00,300\nOne!\n\n2\n00:00:00,300 --> 00:00:00,500\nTwo?\n"
    )
    status, printed, _ = tool("prepare_folder", folder, tmp_path / "out")
    assert status == 0
    cuts = cuts_of(tmp_path / "out")
    assert cuts["anna-a-00000100-00000300"][1] == "one"
    assert cuts["anna-a-00000300-00000500"][1] == "two"
    assert "anna-a" not in cuts
    assert "2 utterances are cues of subtitles" in printed


def test_checks_can_be_allowed(tool: Tool, folder: Path, tmp_path: Path) -> None:
    shutil.copyfile(folder / "anna" / "a.wav", folder / "copy.wav")
    (folder / "anna" / "c.txt").write_text("два слова")
    (folder / "anna" / "e.txt").write_text("a" * 200)
    strict, lax = tmp_path / "strict", tmp_path / "lax"
    tool("prepare_folder", folder, strict, "--language", "en")
    assert set(reasons_of(strict)) == {"copy", "anna-c", "anna-e"}
    allowed = [word for name in ("duplicate", "script", "fast") for word in ("--allow", name)]
    tool("prepare_folder", folder, lax, "--language", "en", *allowed)
    assert reasons_of(lax) == {}


def add_noise(path: Path, seconds: int) -> None:
    """A recording without speech, another one for another length."""
    rng = np.random.default_rng(seconds)
    soundfile.write(path, 0.01 * rng.standard_normal(seconds * 8000), 8000)


def test_long_recordings_can_be_kept(tool: Tool, folder: Path, tmp_path: Path) -> None:
    add_noise(folder / "noise.wav", seconds=31)
    tool("prepare_folder", folder, tmp_path / "cut")
    assert "no speech" in reasons_of(tmp_path / "cut")["noise"]
    tool("prepare_folder", folder, tmp_path / "kept", "--keep-long")
    assert "noise" in cuts_of(tmp_path / "kept")


def test_another_corpus_is_found_before_speech_is_looked_for(
    tool: Tool, folder: Path, tmp_path: Path
) -> None:
    add_noise(folder / "noise.wav", seconds=31)
    command = ("prepare_folder", folder, tmp_path / "out")
    assert tool(*command)[0] == 0
    assert "already prepared" in tool(*command)[1]
    add_noise(folder / "more.wav", seconds=32)
    status, _, problem = tool(*command)
    assert (status, "already holds another corpus" in problem) == (2, True)
    journal = (tmp_path / "out" / "measured.jsonl").read_text()
    assert "pieces " in journal
    assert not [line for line in journal.splitlines() if "pieces" in line and "more.wav" in line]
    assert tool(*command, "--overwrite")[0] == 0
    assert "no speech" in reasons_of(tmp_path / "out")["more"]


def test_a_corpus_whose_measurements_were_removed_is_measured_again(
    tool: Tool, folder: Path, tmp_path: Path
) -> None:
    add_noise(folder / "noise.wav", seconds=31)
    command = ("prepare_folder", folder, tmp_path / "out")
    assert tool(*command)[0] == 0
    report = (tmp_path / "out" / "report.json").read_text()
    journal = tmp_path / "out" / "measured.jsonl"
    lengths = "".join(line for line in journal.open() if '"length ' in line)
    for left in (None, lengths):  # as where measuring again was interrupted
        journal.unlink()
        if left is not None:
            journal.write_text(left)
        status, said, problem = tool(*command)
        assert (status, problem) == (0, "")
        assert "already prepared" in said
        assert "pieces " in journal.read_text()
    journal.unlink()
    add_noise(folder / "more.wav", seconds=32)
    status, _, problem = tool(*command)
    assert (status, "already holds another corpus" in problem) == (2, True)
    assert (tmp_path / "out" / "report.json").read_text() == report


def _empty(folder: Path) -> None:
    folder.mkdir()


def _broken(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.wav").write_text("broken")


def _piped(folder: Path) -> None:
    folder.mkdir()
    (folder / "wav.scp").write_text("a cat sound.wav |\n")


def _file(folder: Path) -> None:
    folder.write_text("a file")


@pytest.mark.parametrize(
    ("write", "options", "message"),
    [
        (lambda folder: None, (), "no such file or folder"),
        (_file, (), "give the folder with the recordings"),
        (_empty, (), "holds no audio file"),
        (_broken, (), "no usable recording (1 rejected; the first: "),
        (_broken, ("--dev", "0.5", "--test", "0.5"), "must leave something to train"),
        (_broken, ("--speaker-from", "(a"), "is not a regular expression with a group"),
        (_broken, ("--speaker-from", "a"), "is not a regular expression with a group"),
        (_broken, ("--layout", "kaldi"), "holds no wav.scp"),
        (_broken, ("--layout", "nemo"), "holds no NeMo manifest"),
        (_piped, (), "is a command ('cat sound.wav |'), and commands are never run"),
        (_broken, ("--transcripts", "t.txt"), "must be a .tsv or .csv file"),
        (_broken, ("--transcripts", "t.tsv"), "t.tsv: no such file"),
        (_broken, ("--transcripts", "bad.csv"), "no text column; the header has path, note"),
        (_broken, ("--transcripts", "void.csv"), "no audio column; the header has nothing"),
        (_broken, ("--transcripts", "other.csv"), "other.csv: has no text for any recording"),
        (_broken, ("--transcripts", "commas.csv"), "1 row(s) have more cells than the header"),
        (_broken, ("--transcripts", "quotes.csv"), "line 3: is no row of a table"),
        (_broken, ("--transcripts", "latin.csv"), "cannot be read as UTF-8 text"),
    ],
)
def test_nothing_to_prepare(
    tool: Tool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Path], None],
    options: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.csv").write_text("path,note\na.wav,x\n")
    Path("void.csv").write_text("")
    Path("other.csv").write_text("path,text\nnobody.wav,x\n")
    Path("commas.csv").write_text("path,text\na.wav,yes, I know\nb.wav,no,,\n")
    Path("quotes.csv").write_text('path,text\na.wav,one\nb.wav,"two\nc.wav,three\n')
    Path("latin.csv").write_bytes("path,text\na.wav,é\n".encode("latin-1"))
    write(tmp_path / "in")
    status, _, problem = tool("prepare_folder", tmp_path / "in", tmp_path / "out", *options)
    assert status == 2
    assert message in problem
    assert problem.count("\n") == 1
    assert not (tmp_path / "out").exists()
