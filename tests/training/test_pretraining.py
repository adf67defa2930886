"""Real runs of a micro model: resuming, sharing between processes, and refusing bad input."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from lhotse import CutSet

from speechssl.cli._training import one_voice
from speechssl.cli.main import EXIT_INTERRUPTED, group
from speechssl.clustering import LabelConfig, label
from speechssl.config import read_yaml, write_yaml
from speechssl.data.manifest import cuts_path, load_cuts
from speechssl.data.targets import codebook_path, targets_path
from speechssl.models.folder import load_encoder
from speechssl.training.run_folder import RunFolder

CLUSTERS = 8
EXACT = {**os.environ, "OMP_NUM_THREADS": "1"}
"""One thread, so that sums are taken in the same order in every run."""


@pytest.fixture
def data(corpus_copy: Path) -> Path:
    """A DATA_DIR with MFCC targets called ``mfcc``."""
    label(corpus_copy, "mfcc", ["train", "dev"], LabelConfig(clusters=CLUSTERS))
    return corpus_copy


def command(recipe: Path, data: Path, exp: Path, *more: str) -> list[str]:
    return ["pretrain", str(recipe), str(data), str(exp), "--targets", "mfcc", *more]


def contrastive(recipe: Path) -> Path:
    """The recipe beside ``recipe`` that has a small contrastive objective in place of clusters."""
    values = read_yaml(recipe)
    values["objective"] = {
        "kind": "contrastive",
        "entries": 8,
        "codeword_size": 16,
        "projection_size": 16,
        "distractors": 5,
    }
    path = recipe.with_name("contrastive.yaml")
    path.write_text(write_yaml(values))
    return path


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(group, [str(a) for a in arguments])


def metrics(exp: Path, name: str = "train") -> list[dict[str, float]]:
    return [json.loads(line) for line in (exp / "metrics" / f"{name}.jsonl").open()]


def losses(exp: Path) -> dict[int, float]:
    return {int(row["Step"]): row["loss"] for row in metrics(exp)}


def weights(exp: Path) -> dict[str, torch.Tensor]:
    folder = RunFolder(exp)
    return folder.load_weights(folder.choose("last"))


def refuses(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("error:")]
    for word in words:
        assert word in line


def test_a_run_leaves_a_model_metrics_and_curves(
    data: Path, pretrain_recipe: Path, tmp_path: Path
) -> None:
    exp = tmp_path / "exp"
    result = cli(*command(pretrain_recipe, data, exp))
    assert result.exit_code == 0, result.output
    assert load_encoder(exp / "model").config.dim == 32
    rows = metrics(exp)
    assert [row["Step"] for row in rows] == list(range(1, 9))
    for name in ("accuracy", "context_variance", "padding_share", "audio_seconds_per_second"):
        assert all(row[name] >= 0 for row in rows), name
    assert rows[-1]["total_audio_hours"] > rows[0]["total_audio_hours"] > 0
    assert [row["Step"] for row in metrics(exp, "valid")] == [4, 8]
    assert (exp / "curves.png").stat().st_size > 20_000
    assert list((exp / "tb").rglob("events.out.tfevents.*"))
    assert RunFolder(exp).steps()[-1] == 8

    again = cli(*command(pretrain_recipe, data, exp))
    assert again.exit_code == 0, "a finished run is left as it is"
    assert len(metrics(exp)) == len(rows)
    refuses(cli(*command(pretrain_recipe, data, exp, "--seed", "1")), "another run", "seed")


def test_a_stopped_and_killed_run_resumes_bit_for_bit(
    data: Path, pretrain_recipe: Path, tmp_path: Path
) -> None:
    run = [sys.executable, "-m", "speechssl.cli.main"]
    more = ["training.updates=40", "training.precision=fp32"]
    unbroken = tmp_path / "unbroken"
    subprocess.run([*run, *command(pretrain_recipe, data, unbroken, *more)], env=EXACT, check=True)

    killed = tmp_path / "killed"
    arguments = [*run, *command(pretrain_recipe, data, killed, *more)]
    folder, reports = RunFolder(killed), killed / "metrics" / "train.jsonl"
    process = subprocess.Popen(arguments, env=EXACT, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (reports.exists() and reports.stat().st_size):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == EXIT_INTERRUPTED, said
    (stopped,) = folder.steps()
    assert re.match(r"training \d+\.\d M parameters in fp32 on .+\n", said), said
    assert f"stopped after update {stopped}, with a checkpoint" in said.splitlines()[-1]

    process = subprocess.Popen(arguments, env=EXACT)
    while max(folder.steps()) == stopped and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert stopped < max(folder.steps()) < 40

    subprocess.run(arguments, env=EXACT, check=True)
    assert losses(killed) == losses(unbroken)
    expected = weights(unbroken)
    assert all(torch.equal(value, expected[name]) for name, value in weights(killed).items())


def torchrun(number: int, arguments: list[str], *options: str) -> list[str]:
    """The command line that runs the command in so many processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
    return [sys.executable, *launcher, *options, "-m", "speechssl.cli.main", *arguments]


def run_processes(number: int, arguments: list[str]) -> None:
    """Runs the command with ``torchrun``, or alone for one process."""
    alone = [sys.executable, "-m", "speechssl.cli.main", *arguments]
    command_line = torchrun(number, arguments) if number > 1 else alone
    subprocess.run(command_line, env=EXACT, check=True)


def start_two(arguments: list[str], logs: Path) -> subprocess.Popen[bytes]:
    """Starts the command in two processes that write to ``logs``; returns when they train."""
    exp = Path(arguments[3])
    reports = exp / "metrics" / "train.jsonl"
    seen = reports.stat().st_size if reports.exists() else 0
    options = ["--redirects=3", f"--log-dir={logs}"]
    process = subprocess.Popen(
        torchrun(2, arguments, *options), env=EXACT, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not (reports.exists() and reports.stat().st_size > seen):
        time.sleep(0.02)
    assert process.poll() is None, said(logs, 0)
    return process


def said(logs: Path, rank: int) -> list[str]:
    """What a process of ``start_two`` said beside its reports."""
    (file,) = logs.glob(f"*/attempt_0/{rank}/stderr.log")
    lines = file.read_text().splitlines()
    return [line for line in lines if not line.startswith(("train ", "valid ")) and line.strip()]


def test_processes_that_end_say_so_in_one_line(
    data: Path, pretrain_recipe: Path, tmp_path: Path
) -> None:
    """Stopped by torchrun, which passes SIGTERM on, or because one of them was lost."""
    exp = tmp_path / "exp"
    long = ["training.updates=4000", "training.log_every=2", "training.validate_every=2000"]
    run = command(pretrain_recipe, data, exp, *long)

    process = start_two(run, tmp_path / "stopped")
    process.send_signal(signal.SIGTERM)
    process.wait()
    (step,) = RunFolder(exp).steps()
    assert f"stopped after update {step}, with a checkpoint" in said(tmp_path / "stopped", 0)[-1]
    assert "stopping when this update is done" in said(tmp_path / "stopped", 0)[-2]
    assert said(tmp_path / "stopped", 1) == []

    process = start_two(run, tmp_path / "lost")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in map(int, children):
        if b"RANK=1" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            os.kill(child, signal.SIGKILL)
    process.wait()
    lines = said(tmp_path / "lost", 0)
    assert lines[-1].startswith(f"error: {exp}: another process of the run has ended")
    assert not any("Traceback" in line for line in lines)
    assert RunFolder(exp).steps() == [step]


def assert_close_weights(exp: Path, expected: dict[str, torch.Tensor]) -> None:
    found = weights(exp)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-5, msg=name)


def test_two_processes_train_as_one(data: Path, pretrain_recipe: Path, tmp_path: Path) -> None:
    """Each with a copy of the weights (DDP), and each with a share of them (FSDP)."""
    more = ["training.updates=4", "training.precision=fp32"]
    shares = ["training.data_parallel=fsdp", "training.validate_every=2", "training.keep_last=2"]
    runs = {name: tmp_path / name for name in ("one", "copies", "shares")}
    run_processes(1, command(pretrain_recipe, data, runs["one"], *more))
    run_processes(2, command(pretrain_recipe, data, runs["copies"], *more))
    sharded = command(pretrain_recipe, data, runs["shares"], *more, *shares)
    run_processes(2, sharded)
    expected = weights(runs["one"])
    for name in ("copies", "shares"):
        assert losses(runs[name]) == pytest.approx(losses(runs["one"]), rel=1e-5)
        assert_close_weights(runs[name], expected)
    exported = load_encoder(runs["shares"] / "model").state_dict()
    finished = weights(runs["shares"])
    assert all(torch.equal(value, finished[f"encoder.{name}"]) for name, value in exported.items())

    shutil.rmtree(runs["shares"] / "checkpoints" / "step_4")
    run_processes(2, sharded)  # goes on from update 2
    again = weights(runs["shares"])
    assert all(torch.equal(value, finished[name]) for name, value in again.items())


def test_one_process_says_that_it_was_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    @one_voice()
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as ended:
        interrupted()
    assert ended.value.code == EXIT_INTERRUPTED


def test_terms_may_have_any_weight(data: Path, pretrain_recipe: Path, tmp_path: Path) -> None:
    """The gradient is that of the mean, also where the weights of a batch add up to less than 1."""
    norms = []
    for scale in (1.0, 1e-4):
        weights = [f"objective.{name}_weight={scale}" for name in ("masked", "unmasked")]
        more = [*weights, "training.updates=4", "training.precision=fp32"]
        exp = tmp_path / f"{scale}"
        assert cli(*command(pretrain_recipe, data, exp, *more)).exit_code == 0
        norms.append([row["grad_norm"] for row in metrics(exp)])
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)


def test_a_run_goes_on_where_its_files_have_been_moved(
    data: Path, pretrain_recipe: Path, tmp_path: Path
) -> None:
    first, exp = tmp_path / "first", tmp_path / "exp"
    assert cli(*command(pretrain_recipe, data, first, "training.updates=4")).exit_code == 0
    more = ["training.keep_last=2", "--init"]
    start = command(pretrain_recipe, data, exp, *more, str(first / "model"))
    assert cli(*start).exit_code == 0
    expected = weights(exp)
    shutil.rmtree(exp / "checkpoints" / "step_8")

    moved, corpus, model = (tmp_path / name for name in ("exp2", "corpus2", "model2"))
    exp.rename(moved)
    (first / "model").rename(model)
    shutil.copytree(data, corpus)
    again = command(pretrain_recipe, corpus, moved, *more, str(model))
    result = cli(*again)
    assert result.exit_code == 0, result.output
    assert all(torch.equal(value, expected[name]) for name, value in weights(moved).items())
    assert [row["Step"] for row in metrics(moved)] == [*range(1, 9), *range(5, 9)]

    cuts = list(load_cuts(cuts_path(corpus, "train")))
    CutSet.from_cuts(cuts[:-1]).to_file(cuts_path(corpus, "train"))
    label(corpus, "mfcc", ["train", "dev"], LabelConfig(clusters=CLUSTERS), overwrite=True)
    refuses(cli(*again), "another run", "data")


def test_bad_input_is_refused_before_the_run(
    data: Path, pretrain_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exp = tmp_path / "exp"
    refuses(cli(*command(pretrain_recipe, data, exp, "objectiv.kind=clusters")), "'objective'")
    refuses(cli(*command(pretrain_recipe, data, exp, "objective.kind=clutsers")), "'clusters'")
    refuses(
        cli(*command(pretrain_recipe, data, exp, "objective.kind=")), "objective", "has no kind"
    )
    refuses(cli(*command(pretrain_recipe, data, exp, "model.preset=3")), "unknown preset '3'")
    refuses(cli("pretrain", pretrain_recipe, data, exp), "needs frame targets", "speechssl label")
    other = cli("pretrain", pretrain_recipe, data, exp, "--targets", "100")
    refuses(other, "targets-100.safetensors", "no such targets")
    refuses(cli(*command(pretrain_recipe, tmp_path / "no", exp)), "no such file")
    refuses(cli(*command(pretrain_recipe, data, exp, "--init", data)), "config.yaml")
    refuses(cli(*command(pretrain_recipe, data, exp, "data.min_seconds=4")), "min_seconds")

    label(data, "other", ["train"], LabelConfig(clusters=4))
    path = targets_path(data, "dev", "mfcc")
    shutil.copyfile(targets_path(data, "train", "other"), path)
    refuses(cli(*command(pretrain_recipe, data, exp)), "another codebook")
    codebook_path(data, "mfcc").unlink()
    refuses(cli(*command(pretrain_recipe, data, exp)), "codebook", "missing")

    cuts_path(data, "train").write_bytes(b"")
    refuses(cli(*command(pretrain_recipe, data, exp)), "cuts.jsonl.gz")

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    refuses(cli(*command(pretrain_recipe, data, exp)), "3 processes cannot share evenly")
    assert not exp.exists(), "nothing is written before the input is known to be good"


def test_a_folder_with_other_files_is_left_alone(
    data: Path, pretrain_recipe: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    refuses(cli(*command(pretrain_recipe, data, foreign)), "holds other files")
    assert [p.name for p in foreign.iterdir()] == ["thesis.txt"]


def test_contrastive_needs_no_targets(
    corpus_copy: Path, pretrain_recipe: Path, tmp_path: Path
) -> None:
    exp = tmp_path / "exp"
    result = cli("pretrain", contrastive(pretrain_recipe), corpus_copy, exp, "training.updates=4")
    assert result.exit_code == 0, result.output
    assert metrics(exp)[-1]["codebook_perplexity"] > 1


def test_training_goes_on_from_another_model(
    data: Path, pretrain_recipe: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    short = "training.updates=4"
    assert cli(*command(pretrain_recipe, data, first, short)).exit_code == 0
    init = ["--init", str(first / "model"), "optimizer.lr=1e-9"]
    assert cli(*command(pretrain_recipe, data, second, short, *init)).exit_code == 0
    before, after = (load_encoder(exp / "model").state_dict() for exp in (first, second))
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-5, rtol=0)


def test_bad_audio_stops_the_run_in_one_line(
    corpus_copy: Path, pretrain_recipe: Path, tmp_path: Path
) -> None:
    cuts = list(load_cuts(cuts_path(corpus_copy, "train")))
    broken = tmp_path / "broken.wav"
    broken.write_bytes(Path(cuts[0].recording.sources[0].source).read_bytes()[:2000])
    cuts[0].recording.sources[0].source = str(broken)
    CutSet.from_cuts(cuts).to_file(cuts_path(corpus_copy, "train"))
    result = cli(
        "pretrain", contrastive(pretrain_recipe), corpus_copy, tmp_path / "exp",
        "training.updates=40",
    )  # fmt: skip
    refuses(result, "1 of 12 recordings cannot be read", "broken.wav", "truncated")


def test_two_commands_never_train_in_one_folder(
    data: Path, pretrain_recipe: Path, tmp_path: Path
) -> None:
    exp = tmp_path / "exp"
    start = command(pretrain_recipe, data, exp, "training.updates=4")
    assert cli(*start).exit_code == 0
    with RunFolder(exp).alone():
        refuses(cli(*start), str(exp), "another process is training")
    assert len(RunFolder(exp).starts()) == 1


def test_a_damaged_checkpoint_is_named(data: Path, pretrain_recipe: Path, tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    assert cli(*command(pretrain_recipe, data, exp)).exit_code == 0
    (file,) = (exp / "checkpoints" / "step_8" / "model").rglob("*.pt")
    file.write_bytes(file.read_bytes()[:1000])
    refuses(cli(*command(pretrain_recipe, data, exp)), "step_8", "remove")
    refuses(cli("export", exp, tmp_path / "model", "--checkpoint", "last"), "step_8", "remove")
    assert not (tmp_path / "model").exists()


def test_a_run_that_is_lost_ends_and_keeps_the_last_good_checkpoint(
    data: Path, pretrain_recipe: Path, tmp_path: Path
) -> None:
    """A rate that grows until the weights overflow, and no checkpoint of them."""
    exp = tmp_path / "exp"
    wild = ["optimizer.lr=1e30", "schedule.warmup=0.9", "training.validate_every=1"]
    result = cli(*command(pretrain_recipe, data, exp, *wild))
    refuses(result, "not a number", "lower optimizer.lr", "--checkpoint 1")
    assert 1 in RunFolder(exp).steps()
    assert all(value.isfinite().all() for value in RunFolder(exp).load_weights(1).values())


def test_a_full_disk_is_said_in_one_line(data: Path, pretrain_recipe: Path, tmp_path: Path) -> None:
    """In a process whose files may not grow beyond 100 kB, which is less than a checkpoint has."""
    exp = tmp_path / "exp"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    program = f"{limit}; from speechssl.cli.main import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", program, *command(pretrain_recipe, data, exp)],
        env=EXACT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert "cannot be written to (File too large)" in ended.stderr.splitlines()[-1]
    assert RunFolder(exp).steps() == []
    assert cli(*command(pretrain_recipe, data, exp)).exit_code == 0, "there is room again"


def test_any_checkpoint_can_be_exported(data: Path, pretrain_recipe: Path, tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    assert cli(*command(pretrain_recipe, data, exp, "training.keep_last=2")).exit_code == 0
    for choice, step in (("4", 4), ("last", 8)):
        model = tmp_path / f"model-{choice}"
        assert cli("export", exp, model, "--checkpoint", choice).exit_code == 0
        expected = RunFolder(exp).load_weights(step)
        for name, value in load_encoder(model).state_dict().items():
            assert torch.equal(value, expected[f"encoder.{name}"])
    refuses(cli("export", exp, tmp_path / "no", "--checkpoint", "5"), "no checkpoint at update 5")
    refuses(cli("export", tmp_path, tmp_path / "no"), "is not a run folder")
