import os
import shutil
from pathlib import Path

import pytest

from speechssl.decoding.output_folder import RECORD, OutputFolder, recordings_in
from speechssl.decoding.transcript import Transcript, Word
from speechssl.errors import RunFolderError

YES = Transcript("yes", [Word("yes", 0.1, 0.5, 0.9)], 1.0)
NO = Transcript("no", [Word("no", 0.1, 0.5, 0.9)], 1.0)


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    folder = tmp_path / "audio"
    for name in ("one.wav", "deep/er/two.mp3", "deep/one.wav"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def open_folder(path: Path, formats=("txt",), settings="first", **more) -> OutputFolder:
    return OutputFolder(path, formats, settings, **more)


def planned(folder: OutputFolder, *roots: Path) -> list[str]:
    recordings, bad = recordings_in(roots)
    assert not bad
    return [path.name for path in folder.plan(recordings)]


def write_all(folder: OutputFolder, *roots: Path, transcript: Transcript = YES) -> None:
    for path in folder.plan(recordings_in(roots)[0]):
        folder.write(path, transcript)


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != RECORD
    }


def test_names_follow_the_recordings(audio, tmp_path):
    out = tmp_path / "out"
    write_all(open_folder(out, ("txt", "textgrid")), audio)
    names = ["deep/er/two", "deep/one", "one"]
    assert sorted(files(out)) == sorted(n + e for n in names for e in (".TextGrid", ".txt"))
    assert files(out)["one.txt"] == "yes\n"
    single = tmp_path / "single"
    write_all(open_folder(single), audio / "deep" / "one.wav")
    assert list(files(single)) == ["one.txt"]


def test_names_that_cannot_be_written(audio):
    """Old archives have names in other encodings than UTF-8."""
    name = os.fsencode(audio) + "/Привет.wav".encode("cp1251")
    try:
        with open(name, "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    found, [(_, error)] = recordings_in([audio])
    assert len(found) == 3
    assert "is not UTF-8; rename it" in str(error)
    str(error).encode()  # can be printed


def test_nothing_is_done_twice(audio, tmp_path):
    out = tmp_path / "out"
    write_all(open_folder(out), audio)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.txt")}
    assert planned(open_folder(out), audio) == []
    assert planned(open_folder(out, ("txt", "srt")), audio) == ["two.mp3", "one.wav", "one.wav"]
    (out / "one.txt").unlink()
    assert planned(open_folder(out), audio) == ["one.wav"]
    assert planned(open_folder(out, overwrite=True), audio) == ["two.mp3", "one.wav", "one.wav"]
    assert all(
        path.stat().st_mtime_ns == time
        for path, time in before.items()
        if path.is_file() and path.exists()
    )


def test_what_belongs_to_something_else_is_refused(audio, tmp_path):
    out = tmp_path / "out"
    write_all(open_folder(out), audio)
    with pytest.raises(RunFolderError, match="as do 2 more files; give another --output-dir"):
        planned(open_folder(out, settings="second"), audio)
    (audio / "one.wav").write_bytes(b"changed")
    with pytest.raises(RunFolderError, match=r"out/one.txt: exists and belongs to other audio"):
        planned(open_folder(out), audio)
    write_all(open_folder(out, settings="second", overwrite=True), audio, transcript=NO)
    assert set(files(out).values()) == {"no\n"}
    assert planned(open_folder(out, settings="second"), audio) == []


def test_a_file_of_the_user_is_never_touched(audio, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "one.txt").write_text("my notes")
    with pytest.raises(RunFolderError, match=r"one\.txt"):
        planned(open_folder(tmp_path / "out"), audio)
    assert files(tmp_path / "out") == {"one.txt": "my notes"}


def test_formats_are_remembered_one_by_one(audio, tmp_path):
    """A text of the first model is not taken for one of the second, which wrote subtitles."""
    out = tmp_path / "out"
    write_all(open_folder(out, ("txt",)), audio / "one.wav")
    write_all(open_folder(out, ("srt",), settings="second"), audio / "one.wav")
    with pytest.raises(RunFolderError, match=r"one\.txt"):
        planned(open_folder(out, ("txt",), settings="second"), audio / "one.wav")


def test_interrupted_at_any_moment(audio, tmp_path):
    """Whatever prefix of the record a killed run leaves, with or without the file, goes on."""
    out = tmp_path / "out"
    write_all(open_folder(out), audio / "one.wav")
    record = (out / RECORD).read_bytes()
    for size in range(0, len(record), 20):
        shutil.rmtree(out)
        out.mkdir()
        (out / RECORD).write_bytes(record[:size])
        write_all(open_folder(out), audio)
        assert planned(open_folder(out), audio) == []
        assert len(files(out)) == 3
    (out / "one.txt").unlink()  # noted, and killed before it was written
    assert planned(open_folder(out), audio) == ["one.wav"]


def test_same_names(audio, tmp_path):
    (audio / "one.flac").write_bytes(b"another")
    write_all(open_folder(tmp_path / "out"), audio)
    assert "one.wav.txt" in files(tmp_path / "out")
    assert "one.flac.txt" in files(tmp_path / "out")
    with pytest.raises(RunFolderError, match="would be the same file"):
        planned(open_folder(tmp_path / "new"), audio / "one.wav", audio / "deep" / "one.wav")
    assert planned(open_folder(tmp_path / "new"), audio / "one.wav", audio / "one.wav") == [
        "one.wav"
    ]


def test_audio_that_changes_while_it_is_transcribed(audio, tmp_path):
    folder = open_folder(tmp_path / "out")
    [path] = folder.plan(recordings_in([audio / "one.wav"])[0])
    path.write_bytes(b"another recording")
    folder.write(path, YES)  # of what was there before
    with pytest.raises(RunFolderError, match="belongs to other audio"):
        planned(open_folder(tmp_path / "out"), audio / "one.wav")


def test_touched_audio_is_new_audio(audio, tmp_path):
    write_all(open_folder(tmp_path / "out"), audio)
    os.utime(audio / "one.wav", ns=(1, 1))
    with pytest.raises(RunFolderError, match=r"one\.txt"):
        planned(open_folder(tmp_path / "out"), audio)
