"""A folder as people have it, from its files to transcripts: nothing in it may stop anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from speechssl.cli.main import group
from speechssl.config import write_yaml
from speechssl.data.corpus_report import read_report
from speechssl.data.manifest import SPLITS, cuts_path, load_cuts
from tests.conftest import WORDS, speak

Tool = Callable[..., tuple[int, str, str]]

CYRILLIC = Path("Голоса из архива") / "Мой диктофон № 1.flac"

GOOD = {
    "spk0/a.wav": (8_000, 1),
    "spk0/b.wav": (44_100, 2),
    "spk1/c.flac": (16_000, 6),
    "spk1/d.flac": (11_025, 1),
    "spk1/e.ogg": (22_050, 2),
    "spk2/f.ogg": (48_000, 1),
    "spk2/g.mp3": (16_000, 1),
    "spk2/h.mp3": (44_100, 2),
    "spk3/i.aiff": (12_345, 1),
    "spk3/k.WAV": (16_000, 1),
    str(CYRILLIC): (16_000, 2),
}
"""Recordings that can be used: rate and channels of each."""

REASONS = {
    "zero.wav": "is empty",
    "text.wav": "cannot be decoded",
    "noise.mp3": "cannot be decoded",
    "page.flac": "cannot be decoded",
    "phone.m4a": "cannot be decoded",
    "cut.wav": "is truncated",
    "cut.flac": "cannot be decoded",
    "nan.wav": "NaN or infinite",
    "silent.wav": "is silent",
    "hiss.flac": "is silent",
    "clipped.wav": "is clipped",
    "short.wav": "shorter than one frame",
    "copy.wav": "has the same sound as another recording (spk0-a)",
    "latin.wav": "is not in the script",
    "wrong.wav": "is too long for the recording",
    "unsaid.wav": "has no word",
}
"""The files in bad/ and why they are rejected."""

MICRO = {
    "preset": "tiny",
    "dim": 32,
    "layers": 1,
    "heads": 2,
    "ffn_dim": 64,
    "position_kernel": 8,
    "position_groups": 2,
}


def sound(number: int, rate: int, channels: int) -> NDArray[np.float32]:
    """[N, channels]: two words, another pair for each number; stored at any rate."""
    text = f"{WORDS[number % 8]} {WORDS[number * 3 % 8]}"
    voice, made_at = speak(text, "anna")
    times = np.arange(round(len(voice) * rate / made_at)) / rate
    resampled = np.interp(times, np.arange(len(voice)) / made_at, voice)
    return np.stack([resampled * (1 - 0.1 * c) for c in range(channels)], axis=1)


def write_good(folder: Path) -> None:
    for number, (name, (rate, channels)) in enumerate(GOOD.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sound(number, rate, channels), rate)
        if number % 3 != 1:
            path.with_suffix(".txt").write_text("Да, нет!" if number % 2 else "Раз 2", "utf-8")


def write_bad(folder: Path) -> None:
    rng = np.random.default_rng(0)
    bad = folder / "bad"
    bad.mkdir()
    voice = sound(20, 16_000, 1)
    (bad / "zero.wav").touch()
    (bad / "text.wav").write_text("This is not a recording.\n" * 9)
    (bad / "noise.mp3").write_bytes(rng.bytes(3000))
    (bad / "page.flac").write_text("<html>404</html>")
    (bad / "phone.m4a").write_bytes(rng.bytes(3000))
    for name in ("cut.wav", "cut.flac"):
        soundfile.write(bad / name, sound(21, 16_000, 1), 16_000)
        whole = (bad / name).read_bytes()
        (bad / name).write_bytes(whole[: len(whole) // 2])
    soundfile.write(bad / "nan.wav", np.full(8000, np.nan), 16_000, subtype="FLOAT")
    soundfile.write(bad / "silent.wav", np.zeros(8000), 16_000)
    soundfile.write(bad / "hiss.flac", 1e-4 * rng.standard_normal((8000, 2)), 22_050)
    soundfile.write(bad / "clipped.wav", (100 * voice).clip(-1, 1), 16_000)
    soundfile.write(bad / "short.wav", voice[:300], 16_000)
    shutil.copyfile(folder / "spk0" / "a.wav", bad / "copy.wav")
    for number, (name, text) in enumerate(
        {"latin": "this is English", "wrong": "да " * 60, "unsaid": "?!"}.items()
    ):
        soundfile.write(bad / f"{name}.wav", sound(22 + number, 16_000, 1), 16_000)
        (bad / f"{name}.txt").write_text(text, "utf-8")


@pytest.fixture(scope="module")
def messy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """11 recordings that can be used, 16 that cannot."""
    folder = tmp_path_factory.mktemp("messy") / "Мои записи"
    write_good(folder)
    write_bad(folder)
    return folder


def prepare(tool: Tool, messy: Path, out: Path, *more: object) -> str:
    options = ("--language", "ru", "--dev", "0.2", "--test", "0.2", *more)
    status, printed, problem = tool("prepare_folder", messy, out, *options)
    assert status == 0, problem
    return printed


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(group, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def test_what_is_rejected_and_why(tool: Tool, messy: Path, tmp_path: Path) -> None:
    printed = prepare(tool, messy, tmp_path / "out")
    assert f"rejected: {len(REASONS)}" in printed
    rejected = {Path(item.audio).name: item for item in read_report(tmp_path / "out").rejected}
    assert set(rejected) == set(REASONS)
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    text = (tmp_path / "out" / "report.txt").read_text("utf-8")
    for name, reason in REASONS.items():
        assert reason in rejected[name].reason
        assert name in page
        assert str(messy / "bad" / name) in text
    cuts = {
        Path(cut.recording.sources[0].source): cut
        for split in SPLITS
        for cut in load_cuts(cuts_path(tmp_path / "out", split))
    }
    assert set(cuts) == {messy / name for name in GOOD}
    for name, (rate, channels) in GOOD.items():
        cut = cuts[messy / name]
        assert (cut.sampling_rate, cut.recording.num_channels) == (rate, channels)


def test_the_result_does_not_depend_on_jobs(tool: Tool, messy: Path, tmp_path: Path) -> None:
    for jobs in (1, 3):
        prepare(tool, messy, tmp_path / str(jobs), "--jobs", jobs)
    one, three = (sorted((tmp_path / n).rglob("*.*")) for n in ("1", "3"))
    assert [path.name for path in one] == [path.name for path in three]
    for a, b in zip(one, three):
        assert a.is_dir() or a.read_bytes() == b.read_bytes(), a


def test_a_changed_file_is_heard_again_and_the_rest_is_not(
    tool: Tool, messy: Path, tmp_path: Path
) -> None:
    shutil.copytree(messy, tmp_path / "in")
    out = tmp_path / "out"
    prepare(tool, tmp_path / "in", out)
    journal = out / "measured.jsonl"
    marked = [json.loads(line) for line in journal.read_text("utf-8").splitlines()]
    for line in marked:
        if "loudness_db" in line["value"]:
            line["value"]["loudness_db"] = -47.0  # found again only where nothing is decoded
    journal.write_text("".join(json.dumps(line) + "\n" for line in marked))
    soundfile.write(tmp_path / "in" / "spk0" / "a.wav", sound(30, 8000, 1), 8000)
    prepare(tool, tmp_path / "in", out, "--overwrite")
    values = [json.loads(line) for line in journal.read_text("utf-8").splitlines()]
    heard = {
        line["key"].split(".wav")[0].rsplit("/")[-1]: line["value"]["loudness_db"]
        for line in values
        if "loudness_db" in line["value"]
    }
    assert heard["a"] != -47.0
    assert {heard["b"], heard["copy"]} == {-47.0}
    assert "copy.wav" not in {Path(r.audio).name for r in read_report(out).rejected}


def test_prepared_trained_and_transcribed(tool: Tool, messy: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    prepare(tool, messy, data)
    training = {"updates": 2, "log_every": 1, "validate_every": 2}
    batches = {"batch_seconds": 8, "forward_seconds": 8, "max_seconds": 4, "threads": 1}
    recipe = {"model": MICRO, "data": batches, "training": training}
    pretrain, finetune = tmp_path / "pretrain.yaml", tmp_path / "finetune.yaml"
    pretrain.write_text(write_yaml({**recipe, "objective": {"kind": "reconstruction"}}))
    finetune.write_text(write_yaml(recipe))
    result = run("pretrain", pretrain, data, tmp_path / "pretrained")
    assert result.exit_code == 0, result.output
    init = ("--init", tmp_path / "pretrained" / "model")
    result = run("finetune", finetune, data, tmp_path / "finetuned", *init)
    assert result.exit_code == 0, result.output
    result = run("transcribe", tmp_path / "finetuned" / "model", messy)
    unreadable = {name for name, reason in REASONS.items() if "script" not in reason}
    assert result.exit_code == 2  # because some cannot be read
    for name in GOOD:
        assert str(messy / name) in result.stdout
    for name in ("zero.wav", "noise.mp3", "cut.flac", "nan.wav", "phone.m4a"):
        assert name in unreadable
        assert name in result.stderr
        assert name not in result.stdout
