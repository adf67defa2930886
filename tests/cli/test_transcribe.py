import json
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import soundfile
import srt
from click.testing import CliRunner

from speechssl.cli.main import group
from speechssl.cli.transcribe import _in_order
from speechssl.decoding.ngram import estimate
from speechssl.decoding.transcriber import Transcriber
from speechssl.decoding.transcript import Transcript
from tests.terminal import Terminal


@pytest.fixture(scope="module")
def recordings(corpus: Path) -> list[Path]:
    return sorted((corpus / "audio").glob("test-*.wav"))


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory, recordings) -> dict[str, Path]:
    """One file of every kind that cannot be transcribed, and what is said about it."""
    folder = tmp_path_factory.mktemp("bad")
    good = recordings[0].read_bytes()
    (folder / "empty.wav").write_bytes(b"")
    (folder / "corrupt.wav").write_bytes(b"these are not samples" * 50)
    (folder / "truncated.wav").write_bytes(good[: len(good) // 2])
    soundfile.write(folder / "silent.wav", np.zeros(0, dtype=np.float32), 16_000)
    nans = np.full(16_000, np.nan, dtype=np.float32)
    soundfile.write(folder / "nan.wav", nans, 16_000, subtype="FLOAT")
    return {
        "no such file": folder / "missing.wav",
        "is empty": folder / "empty.wav",
        "cannot be decoded": folder / "corrupt.wav",
        "truncated": folder / "truncated.wav",
        "no samples": folder / "silent.wav",
        "NaN": folder / "nan.wav",
    }


def test_single_file_prints_only_its_text(speechssl, recogniser, recordings):
    result = speechssl("transcribe", recogniser, recordings[0])
    assert result.exit_code == 0, result.output
    text = Transcriber(recogniser, precision="auto").transcribe_file(recordings[0])
    assert text
    assert result.stdout == f"{text}\n"


def test_folder_and_files_print_paths(speechssl, recogniser, corpus, recordings):
    result = speechssl("transcribe", recogniser, corpus / "audio")
    assert result.exit_code == 0
    paths = [line.split("\t")[0] for line in result.stdout.splitlines()]
    assert paths == [str(path) for path in sorted((corpus / "audio").glob("*.wav"))]
    few = speechssl("transcribe", recogniser, *recordings[:2]).stdout.splitlines()
    assert set(few) <= set(result.stdout.splitlines())
    assert len(few) == 2


def test_out(speechssl, recogniser, recordings, tmp_path):
    out = tmp_path / "new" / "texts.tsv"
    printed = speechssl("transcribe", recogniser, *recordings).stdout
    result = speechssl("transcribe", recogniser, *recordings, "--out", out)
    assert (result.exit_code, result.stdout) == (0, "")
    assert out.read_text(encoding="utf-8") == printed


def test_nothing_is_overwritten_unasked(speechssl, fails, recogniser, recordings, tmp_path):
    out = tmp_path / "text.txt"
    out.write_text("mine")
    assert "exists" in fails("transcribe", recogniser, recordings[0], "--out", out)
    assert out.read_text() == "mine"
    result = speechssl("transcribe", recogniser, recordings[0], "--out", out, "--overwrite")
    assert result.exit_code == 0
    assert out.read_text() == speechssl("transcribe", recogniser, recordings[0]).stdout


def test_one_file_in_any_format(speechssl, recogniser, recordings):
    text = Transcriber(recogniser, precision="auto").transcribe_file(recordings[0])
    values = json.loads(
        speechssl("transcribe", recogniser, recordings[0], "--format", "json").stdout
    )
    assert (values["text"], values["recording"]) == (text, recordings[0].stem)
    cues = srt.parse(speechssl("transcribe", recogniser, recordings[0], "--format", "srt").stdout)
    assert " ".join(" ".join(cue.content.split()) for cue in cues) == text


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision(speechssl, recogniser, recordings, precision):
    result = speechssl("transcribe", recogniser, recordings[0], "--precision", precision)
    text = Transcriber(recogniser, precision=precision).transcribe_file(recordings[0])
    assert result.stdout.split() == text.split()


def test_other_readings(speechssl, recogniser, recordings):
    arguments = ("transcribe", recogniser, recordings[0], "--format", "json", "--nbest", 3)
    values = json.loads(speechssl(*arguments).stdout)
    assert 1 <= len(values["alternatives"]) <= 3
    assert values["text"] not in [other["text"] for other in values["alternatives"]]


def test_output_folder(speechssl, fails, recogniser, corpus, recordings, tmp_path):
    out = tmp_path / "out"
    arguments = (
        "transcribe",
        recogniser,
        corpus / "audio",
        "--output-dir",
        out,
        "--precision",
        "fp32",
    )
    result = speechssl(*arguments, "--format", "txt,vtt")
    assert (result.exit_code, result.stdout) == (0, "")
    stems = {path.stem for path in (corpus / "audio").glob("*.wav")}
    for ending in (".txt", ".vtt"):
        assert {path.stem for path in out.glob(f"*{ending}")} == stems
    transcriber = Transcriber(recogniser)
    for path in recordings:
        lines = (out / f"{path.stem}.txt").read_text(encoding="utf-8").split()
        assert lines == transcriber.transcribe_file(path).split()

    again = speechssl(*arguments, "--format", "txt,vtt")
    assert "20 of 20 recordings are transcribed already" in again.stderr
    (out / f"{recordings[0].stem}.txt").unlink()
    resumed = speechssl(*arguments)
    assert "19 of 20 recordings are transcribed already" in resumed.stderr
    assert (out / f"{recordings[0].stem}.txt").exists()
    message = fails(*arguments, "--beam", 3)  # other options: not the same transcripts
    assert "another model or other options" in message
    assert speechssl(*arguments, "--beam", 3, "--overwrite").exit_code == 0


def test_progress_on_a_terminal(recogniser, recordings, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    arguments = ["transcribe", str(recogniser), str(recordings[0]), "--out", str(tmp_path / "text")]
    group.main(arguments, standalone_mode=False)
    assert "transcribe: 100%" in terminal.getvalue()
    assert "s of audio/s" in terminal.getvalue()


def test_a_recording_named_twice_is_one(speechssl, recogniser, corpus, recordings, tmp_path):
    twice = ("transcribe", recogniser, recordings[0], corpus / "audio")
    assert len(speechssl(*twice).stdout.splitlines()) == 20
    speechssl(*twice, "--output-dir", tmp_path / "out")
    assert "20 of 20" in speechssl(*twice, "--output-dir", tmp_path / "out").stderr


def test_what_is_printed_is_not_held(recordings):
    """Results come batch by batch, and in the order of the files they leave."""
    results = [(path, Transcript(path.stem, [], 1.0)) for path in recordings]
    marks = [weakref.ref(transcript) for _, transcript in results]
    results.reverse()
    ordered = _in_order((results.pop() for _ in recordings), list(recordings))
    for number, path in enumerate(recordings):
        found, transcript = next(ordered)
        assert (found, transcript.text) == (path, path.stem)
        del transcript
        assert [mark() for mark in marks[:number]] == [None] * number


def test_output_folder_knows_the_files_of_the_settings(
    speechssl, fails, recogniser, recordings, tmp_path
):
    lm, settings = tmp_path / "words.arpa", tmp_path / "decoding.yaml"
    estimate([["ada", "bede"]], 2).save(lm)
    settings.write_text("lm: words.arpa\n")
    arguments = ("transcribe", recogniser, recordings[0], "--decoding", settings)
    arguments += ("--output-dir", tmp_path / "out")
    assert "1 recordings" in speechssl(*arguments).stderr
    assert "0 recordings" in speechssl(*arguments).stderr
    estimate([["cafe", "dach", "eche"]], 2).save(lm)
    assert "other options" in fails(*arguments)


def test_output_folder_with_bad_files(speechssl, recogniser, recordings, bad_files, tmp_path):
    out = tmp_path / "out"
    files = [recordings[0], *bad_files.values()]
    result = speechssl("transcribe", recogniser, *files, "--output-dir", out)
    assert result.exit_code == 2
    assert result.stderr.count("error: ") == len(bad_files) + 1
    assert sorted(path.name for path in out.glob("*.txt")) == [f"{recordings[0].stem}.txt"]


@pytest.mark.parametrize("raw", [True, False])
def test_stdin(recogniser, recordings, raw):
    path = next(path for path in recordings if soundfile.info(path).samplerate == 16_000)
    samples, _ = soundfile.read(path, dtype="int16")
    data = samples.tobytes() if raw else path.read_bytes()
    result = CliRunner().invoke(group, ["transcribe", str(recogniser), "-"], input=data)
    assert result.exit_code == 0, result.output
    assert (
        result.stdout.split()
        == Transcriber(recogniser, precision="auto").transcribe_file(path).split()
    )


def test_options_that_do_not_go_together(fails, recogniser, recordings, tmp_path):
    first, second = recordings[:2]
    assert "stands alone" in fails("transcribe", recogniser, "-", first)
    assert "need --output-dir" in fails("transcribe", recogniser, first, "--format", "txt,srt")
    assert "need --output-dir" in fails("transcribe", recogniser, first, second, "--format", "srt")
    both = ("--out", tmp_path / "a", "--output-dir", tmp_path / "b")
    assert "give one of them" in fails("transcribe", recogniser, first, *both)


def test_unknown_format(speechssl, recogniser, recordings):
    result = speechssl("transcribe", recogniser, recordings[0], "--format", "txt,docx")
    assert result.exit_code == 2
    assert "unknown format 'docx'; known are txt, json" in result.stderr


def test_only_speech(speechssl, recogniser, tmp_path):
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(32_000, dtype=np.float32), 16_000)
    assert speechssl("transcribe", recogniser, path, "--vad").stdout == "\n"


def test_bad_files_do_not_stop_the_others(speechssl, recogniser, recordings, bad_files):
    result = speechssl("transcribe", recogniser, recordings[0], *bad_files.values(), recordings[1])
    assert result.exit_code == 2
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == [
        str(recordings[0]),
        str(recordings[1]),
    ]
    *errors, summary = result.stderr.splitlines()
    assert len(errors) == len(bad_files)
    for line, (problem, path) in zip(errors, bad_files.items()):
        assert line.startswith(f"error: {path}: ")
        assert problem in line
    assert summary == "error: 6 of 8 recordings could not be transcribed (named above)."


def test_each_bad_file_alone_is_one_line(fails, recogniser, bad_files, tmp_path):
    out = tmp_path / "out.tsv"
    for problem, path in bad_files.items():
        message = fails("transcribe", recogniser, path, "--out", out)
        assert str(path) in message
        assert problem in message
    assert list(tmp_path.iterdir()) == []


def test_folder_without_audio(fails, recogniser, tmp_path):
    (tmp_path / "notes.txt").write_text("nothing to hear")
    assert "holds no audio file" in fails("transcribe", recogniser, tmp_path)
    assert "notes.txt: cannot be decoded" in fails("transcribe", recogniser, tmp_path / "notes.txt")


def test_missing_model(fails, recordings, tmp_path):
    assert "nothing" in fails("transcribe", tmp_path / "nothing", recordings[0])


def test_unknown_device(fails, recogniser, recordings):
    assert "device 'abacus'" in fails("transcribe", recogniser, recordings[0], "--device", "abacus")


def test_loads_no_training_code(recogniser, recordings):
    code = (
        "import sys\n"
        "from speechssl.cli.main import group\n"
        "try: group(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "print(' '.join({module.split('.')[0] for module in sys.modules}))\n"
        "print(' '.join(module for module in sys.modules if module.startswith('speechssl')))"
    )
    command = [sys.executable, "-c", code, "transcribe", str(recogniser), str(recordings[0])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _text, modules, ours = done.stdout.splitlines()
    heavy = {"lhotse", "fairseq2", "sklearn", "matplotlib", "librosa", "scipy", "tensorboard"}
    assert not heavy & set(modules.split())
    assert not any(name.startswith("speechssl.training") for name in ours.split())
