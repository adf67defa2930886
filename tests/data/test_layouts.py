from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from speechssl.data.layouts import find_layout, layouts, read_layout, split_named
from speechssl.data.layouts.subtitles import Cue, find_subtitles, read_cues, spoken
from speechssl.data.utterance import Listing, Utterance
from speechssl.errors import ManifestError


def touch(folder: Path, *names: str) -> None:
    """Files that are only named here: nobody decodes them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read(folder: Path, language: str | None = None) -> tuple[dict[str, Utterance], Listing]:
    listing = read_layout(find_layout(folder), folder, None, language)
    return {utterance.id: utterance for utterance in listing.utterances}, listing


def reasons(listing: Listing) -> dict[str, str]:
    return {rejected.item: rejected.reason for rejected in listing.rejected}


def test_names_that_are_not_utf8_are_rejected(tmp_path: Path) -> None:
    touch(tmp_path, "good.wav", os.fsdecode(b"caf\xe9.wav"))
    utterances, listing = read(tmp_path)
    assert list(utterances) == ["good"]
    assert "its name is not UTF-8" in reasons(listing)["caf\ufffd"]


def test_known_layouts() -> None:
    assert layouts() == ["audiofolder", "folder", "kaldi", "nemo"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("train_clean_100", "train"),
        ("an4_test_manifest", "test"),
        ("eval2000", "test"),
        ("validation", "dev"),
        ("dev-other", "dev"),
        ("trainer", None),
        ("speakers", None),
    ],
)
def test_names_of_splits(name: str, split: str | None) -> None:
    assert split_named(name) == split


def test_two_layouts_at_once_must_be_chosen(tmp_path: Path) -> None:
    touch(tmp_path, "wav.scp", "metadata.csv")
    with pytest.raises(ManifestError, match="audiofolder and like kaldi; choose one with --layout"):
        find_layout(tmp_path)


# --- a plain folder --------------------------------------------------------------------------


def test_folders_named_for_splits(tmp_path: Path) -> None:
    touch(tmp_path, "data/train/a.wav", "data/validation/b.wav", "data/test/spk/c.wav")
    known, _ = read(tmp_path)
    assert [known[id].split for id in sorted(known)] == ["test", "train", "dev"]
    touch(tmp_path, "other/d.wav")  # so these are not splits after all
    known, _ = read(tmp_path)
    assert {utterance.split for utterance in known.values()} == {None}


def test_names_that_would_be_one_get_numbers(tmp_path: Path) -> None:
    touch(tmp_path, "a-b.wav", "a b.wav", "a/b.wav", "c.wav")
    known, _ = read(tmp_path)
    assert set(known) == {"a-b", "a-b-2", "a-b-3", "c"}
    assert len({utterance.audio for utterance in known.values()}) == 4


def test_subtitles_go_before_text(tmp_path: Path) -> None:
    touch(tmp_path, "Мой доклад.mp3", "b.wav", "c.wav", "d.wav")
    write(tmp_path / "Мой доклад.txt", "all of it")
    write(
        tmp_path / "Мой доклад.ru.srt",
        *("1", "00:00:01,500 --> 00:00:03,000", "Здравствуйте,", "<i>друзья</i>", ""),
        *("2", "01:00:00,000 --> 01:00:02,250", "[аплодисменты]", ""),
        *("3", "01:00:02,250 --> 01:00:04,000", "- Да."),
    )
    write(tmp_path / "b.vtt", "not subtitles")
    write(tmp_path / "d.srt", "1", "00:00:01,000 --> 00:00:02,000", "[music]")
    write(tmp_path / "c.txt", "three")
    known, listing = read(tmp_path, language="ru-RU")
    first = known["Мой-доклад-00001500-00003000"]
    assert (first.text, first.start, first.duration) == ("Здравствуйте, друзья", 1.5, 1.5)
    assert (first.recording, first.audio.name) == ("Мой-доклад", "Мой доклад.mp3")
    assert known["Мой-доклад-03602250-03604000"].text == "Да."
    assert known["c"].text == "three"
    assert len(known) == 3
    for silent in ("b", "d"):
        assert "holds no subtitles" in reasons(listing)[silent]
    assert listing.notes == ["2 utterances are cues of subtitles beside the audio"]


def test_which_subtitles_belong_to_a_recording(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "a.de.srt", "a.en.srt", "b.wav", "b.wav.vtt")
    assert find_subtitles(tmp_path / "a.wav", None) is None
    assert find_subtitles(tmp_path / "a.wav", "en-US") == tmp_path / "a.en.srt"
    assert find_subtitles(tmp_path / "b.wav", "en") == tmp_path / "b.wav.vtt"


def test_webvtt(tmp_path: Path) -> None:
    write(
        tmp_path / "a.vtt",
        *("WEBVTT", "", "NOTE a note", "", "1", "00:00.500 --> 00:02.000 align:start"),
        *("<v Anna>Rock &amp; <b>roll</b>", ""),
    )
    assert read_cues(tmp_path / "a.vtt") == [Cue(0.5, 2.0, "Rock & roll")]


def test_broken_subtitles(tmp_path: Path) -> None:
    write(tmp_path / "a.vtt", "WEBVTT", "", "0-:00:00.000 --> 01:00:01.000", "yes")
    with pytest.raises(ManifestError, match="cannot be read as UTF-8 subtitles"):
        read_cues(tmp_path / "a.vtt")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("- Hello.\n– You?", "Hello. You?"),
        ("(laughs) I [coughs] see", "I see"),
        ("♪ la la la ♪", ""),
        ("...", ""),
        ("x <3 y", "x <3 y"),
    ],
)
def test_what_is_said_in_subtitles(written: str, said: str) -> None:
    assert spoken(written) == said


# --- Kaldi -----------------------------------------------------------------------------------


def test_kaldi_with_segments(tmp_path: Path) -> None:
    touch(tmp_path, "audio/Первая запись.wav", "audio/two.flac")
    data = tmp_path / "recipe" / "data" / "all"
    write(data / "wav.scp", f"r1 {tmp_path}/audio/Первая запись.wav", "r2 ../audio/two.flac")
    write(data / "segments", "u1 r1 0.5 2.25", "u2 r1 3 -1", "u3 r2 0 1", "u4 r9 0 1")
    write(data / "text", "u1 HELLO WORLD", "u2", "u5 LOST")
    write(data / "utt2spk", "u1 anna", "u2 anna", "u3 boris")
    write(data / "utt2lang", "u1 en")
    known, listing = read(data)
    u1, u2, u3 = known["u1"], known["u2"], known["u3"]
    assert (u1.text, u1.speaker, u1.language, u1.recording) == ("HELLO WORLD", "anna", "en", "r1")
    assert (u1.start, u1.duration, u1.audio.name) == (0.5, 1.75, "Первая запись.wav")
    assert (u2.text, u2.start, u2.duration) == (None, 3.0, None)
    assert (u3.speaker, u3.language) == ("boris", None)
    assert u3.audio.samefile(tmp_path / "audio" / "two.flac")  # from the folder of the recipe
    assert set(reasons(listing)) == {"u4", "u5"}


def test_kaldi_paths_as_in_a_recipe(tmp_path: Path) -> None:
    touch(tmp_path, "wavs/a.wav")
    write(tmp_path / "data" / "train" / "wav.scp", "a wavs/a.wav")
    write(tmp_path / "data" / "eval1" / "wav.scp", "b wavs/a.wav")
    write(tmp_path / "data" / "lang" / "wav.scp", "c wavs/a.wav")
    known, _ = read(tmp_path / "data")
    assert {id: utterance.split for id, utterance in known.items()} == {"a": "train", "b": "test"}
    assert known["a"].audio.samefile(tmp_path / "wavs" / "a.wav")
    assert (known["a"].recording, known["a"].duration) == (None, None)


def test_kaldi_with_tabulators(tmp_path: Path) -> None:
    touch(tmp_path, "a b.wav")
    write(tmp_path / "wav.scp", "\ufeffu1\ta b.wav")
    write(tmp_path / "text", "u1 \tHELLO  WORLD\u2028AGAIN")
    write(tmp_path / "utt2spk", "u1\tanna")
    known, listing = read(tmp_path)
    u1 = known["u1"]
    assert (u1.text, u1.speaker) == ("HELLO  WORLD\u2028AGAIN", "anna")
    assert u1.audio == tmp_path / "a b.wav"
    assert not listing.rejected


@pytest.mark.parametrize(
    ("scp", "segments", "message"),
    [
        ("a touch {flag} |", "", "is a command .* never run"),
        ("a | touch {flag}", "", "is a command"),
        ("a x.wav", "u a 1", "u: expected a recording, a start and an end"),
        ("a x.wav", "u a one two", "expected a recording"),
        ("a x.wav", "u a 0 nan", "expected a recording"),
        ("a x.wav\na y.wav", "", "wav.scp: a has two lines"),
        ("a x.wav", "u a 0 1\nu a 1 2", "segments: u has two lines"),
    ],
)
def test_kaldi_refuses(tmp_path: Path, scp: str, segments: str, message: str) -> None:
    flag = tmp_path / "flag"
    write(tmp_path / "wav.scp", scp.format(flag=flag))
    if segments:
        write(tmp_path / "segments", segments)
    with pytest.raises(ManifestError, match=message):
        read(tmp_path)
    assert not flag.exists()


# --- NeMo ------------------------------------------------------------------------------------


def entry(audio: str, **known: object) -> str:
    return json.dumps({"audio_filepath": audio, **known}, ensure_ascii=False)


def test_nemo_manifests(tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere" / "talk.wav"
    folder = tmp_path / "corpus"
    write(
        folder / "train_manifest.json",
        entry("audio/a b.wav", duration=1.0, text="One", speaker=7, lang="en"),
        entry(str(outside), duration=2.5, offset=0.0, text="two"),
        entry(str(outside), duration=1.5, offset=2.5),
        "",
        "{broken",
        entry("c.wav", offset=1.0),
        '{"text": "no file"}',
        entry("~nobody-at-all/a.wav"),
        entry("c.wav", offset=float("nan"), duration=1.0),
    )
    write(folder / "val.jsonl", entry("d.wav", text=" "), entry("e.wav", text="one\u2028two"))
    write(folder / "config.json", json.dumps({"sample_rate": 16000}))
    known, listing = read(folder)
    a = known["audio-a-b"]
    assert (a.text, a.speaker, a.language, a.split) == ("One", "7", "en", "train")
    assert (a.start, a.duration, a.audio) == (0.0, None, folder / "audio" / "a b.wav")
    assert (known["d"].split, known["d"].text) == ("dev", None)
    talk = str(outside.with_suffix("")).strip("/").replace("/", "-")
    second = known[f"{talk}-00002500-00004000"]
    assert (second.start, second.duration, second.recording) == (2.5, 1.5, talk)
    assert known["e"].text == "one\u2028two"  # a line break in Unicode, not in JSON lines
    assert len(known) == 5
    assert set(reasons(listing)) == {f"train_manifest.json line {n}" for n in range(5, 10)}


# --- Hugging Face ----------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_audiofolder(tmp_path: Path, ending: str) -> None:
    touch(tmp_path, "train/a.wav", "train/deep/b.mp3", "test/a.wav", "test/c.wav")
    rows = {
        "train": [("a.wav", "One, two"), ("deep/b.mp3", "three"), ("lost.wav", "four")],
        "test": [("a.wav", "five")],
    }
    for split, pairs in rows.items():
        if ending == "csv":
            lines = ["file_name,transcription", *(f'{name},"{text}"' for name, text in pairs)]
        else:
            lines = [json.dumps({"file_name": n, "transcription": text}) for n, text in pairs]
        write(tmp_path / split / f"metadata.{ending}", *lines)
    known, listing = read(tmp_path)
    found = {id: (utterance.split, utterance.text) for id, utterance in known.items()}
    assert found == {
        "train-a": ("train", "One, two"),
        "train-deep-b": ("train", "three"),
        "test-a": ("test", "five"),
        "test-c": ("test", None),
    }
    assert set(reasons(listing)) == {"lost.wav"}


def test_audiofolder_behind_a_link(tmp_path: Path) -> None:
    touch(tmp_path, "far/train/deep/a.wav", "far/test/b.wav", "in/.cache/c.wav")
    write(tmp_path / "far" / "train" / "metadata.csv", "file_name,text", "deep/a.wav,one")
    write(tmp_path / "in" / ".cache" / "metadata.csv", "file_name,text", "c.wav,hidden")
    (tmp_path / "in" / "data").symlink_to(tmp_path / "far")
    known, listing = read(tmp_path / "in")
    assert {id: (u.split, u.text) for id, u in known.items()} == {
        "data-train-deep-a": ("train", "one"),
        "data-test-b": ("test", None),
    }
    assert not listing.rejected


def test_nemo_names_inside_and_outside_stay_apart(tmp_path: Path) -> None:
    elsewhere = tmp_path / "a.wav"
    folder = tmp_path / "corpus"
    inside = str(elsewhere).strip("/")
    write(folder / "manifest.json", entry(inside, text="in"), entry(str(elsewhere), text="out"))
    known, _ = read(folder)
    assert {u.audio: u.text for u in known.values()} == {folder / inside: "in", elsewhere: "out"}


def test_audiofolder_names_are_relative_to_their_table(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.wav", "train/2.wav", "validation/3.wav")
    write(tmp_path / "train" / "metadata.csv", "file_name,text", "1.wav,right")
    write(tmp_path / "validation" / "metadata.csv", "file_name,text", "1.wav,wrong", "3.wav,three")
    write(tmp_path / "metadata.csv", "file_name,text", "train/2.wav,two", "validation/3.wav,four")
    known, listing = read(tmp_path)
    assert {id: u.text for id, u in known.items()} == {"train-1": "right", "train-2": "two"}
    assert set(reasons(listing)) == {"1.wav", "validation-3"}


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("kaldi", "holds no wav.scp"),
        ("nemo", "holds no NeMo manifest"),
        ("audiofolder", "is no audiofolder"),
    ],
)
def test_a_folder_of_another_layout(tmp_path: Path, layout: str, message: str) -> None:
    touch(tmp_path, "a.wav")
    with pytest.raises(ManifestError, match=message):
        read_layout(layout, tmp_path, None, None)
    with pytest.raises(ManifestError, match="--transcripts is for --layout folder"):
        read_layout(layout, tmp_path, tmp_path / "t.csv", None)
