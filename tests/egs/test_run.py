"""The shell side of the experiments: options, stages, systems trained side by side."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.data.manifest import cut_text, cuts_path, load_cuts, save_cuts

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(ROOT.glob("egs/*/run.sh"))
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


SETUP = f"""set -euo pipefail; root="{ROOT}" exp="{{exp}}" stage=0 stop_stage=9 seed=1
source "{ROOT}/egs/steps.sh"
"""


def bash(text: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Runs ``text`` as a script that has sourced egs/steps.sh, stages 0 to 9 wanted."""
    script = SETUP.format(exp=tmp_path) + text
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.parent.name)
def test_every_experiment_explains_itself_and_refuses_nonsense(script: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(script), *arguments], capture_output=True, text=True, env=ENVIRONMENT, check=False
        )

    explained = run("--help")
    assert explained.returncode == 0
    assert "example: " in explained.stdout
    for arguments, message in (
        (["--stgae", "1"], "unknown option --stgae"),
        (["--stage"], "--stage needs a value"),
        (["--stage", "one"], "--stage needs a number"),
        (["--stage", "7"], "comes after --stop-stage 6"),
        (["--seed", ""], "--seed needs a number"),
    ):
        refused = run(*arguments)
        assert refused.returncode == 2
        assert message in refused.stderr
        assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.parent.name)
def test_every_experiment_has_the_same_stages(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    text = script.read_text()
    stages = re.findall(r'^\s*run_stage (\d) "[^"]+" (\w+)_stage\b', text, re.MULTILINE)
    names = ["corpus", "targets", "pretrain", "finetune", "decode", "score", "transcribe"]
    if script.parent.name in ("an4", "own", "common_voice"):
        names.append("self_training")
    assert stages == [(str(number), name) for number, name in enumerate(names)]
    explained = text[text.index("usage() {") : text.index("parse_options")]
    for added in re.findall(r'^options\+="([^"]*)"', text, re.MULTILINE):
        for option in added.split():
            assert f"--{option}" in explained
    assert (script.parent / "RESULTS.md").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("own", "--corpus is needed"),
        ("common_voice --corpus x", "--language is needed"),
        ("common_voice --language sw", "--corpus is needed"),
        ("librispeech", "--corpus is needed"),
        ("librispeech --corpus x", "--librilight is needed for 10min"),
        ("librispeech --corpus x --labels 5h", "not 5h"),
        ("librispeech --corpus x --method mfcc", "not mfcc"),
        ("librispeech --corpus x --labels 960h --init x", "is no model folder"),
        ("own --corpus x --systems scratched", "not scratched"),
        ("own --corpus x --pretrain-updates many", "--pretrain-updates needs a number"),
        ("own --corpus x --benchmark", "unknown option --benchmark"),
        ("an4 --corpus x --benchmark --objectives hubert", "there is no recipes/hubert_tiny.yaml"),
        ("an4 --corpus x --benchmark --objectives clusters@more", "needs --more"),
    ],
)
def test_an_experiment_says_what_it_needs(tmp_path: Path, arguments: str, message: str) -> None:
    name, *given = arguments.split()
    refused = subprocess.run(
        [str(ROOT / "egs" / name / "run.sh"), "--exp", str(tmp_path / "exp"), *given],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert refused.returncode == 2
    assert message in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "exp").exists()


def test_a_finished_stage_is_skipped_and_a_failed_one_is_not(tmp_path: Path) -> None:
    text = """
    good() { echo ran; }
    bad() { echo tried; false; }
    run_stage 1 "a good stage" good
    run_stage 1 "a good stage" good
    run_stage 2 "a bad stage" bad
    echo never
    """
    first, second = bash(text, tmp_path), bash(text, tmp_path)
    assert first.returncode == second.returncode == 1
    assert (first.stdout.count("ran"), second.stdout.count("ran")) == (1, 0)
    assert (first.stdout.count("tried"), second.stdout.count("tried")) == (1, 1)
    assert "never" not in first.stdout


@pytest.mark.parametrize(
    ("first", "then", "message"),
    [
        ("--seed 2 --corpus data/an4/", "--seed 2 --corpus ./data/an4", None),
        ("--seed 2 --corpus data/an4", "--seed 2", None),
        ("--seed 2", "", "was done with --seed 2"),
        ("", "--corpus other", "was done without --corpus"),
        ("--corpus data/an4", "--corpus other", "/data/an4; go on so, or give another --exp"),
    ],
)
def test_a_stage_that_was_done_with_other_options_is_refused(
    tmp_path: Path, first: str, then: str, message: str | None
) -> None:
    def run(arguments: str) -> subprocess.CompletedProcess[str]:
        stages = 'good() { echo ran; }; run_stage 1 "a" good seed corpus; run_stage 2 "b" good'
        return bash(f'corpus=""; cd "{tmp_path}"; parse_options {arguments}\n{stages}', tmp_path)

    assert run(first).stdout.count("ran") == 2
    again = run(then)
    assert "ran" not in again.stdout
    assert again.returncode == (0 if message is None else 2), again.stderr
    assert (message or "") in again.stderr
    assert again.stderr.count("\n") == (0 if message is None else 1)


def test_a_stage_goes_on_with_more_rounds(tmp_path: Path) -> None:
    def run(rounds: int) -> str:
        stage = 'good() { echo "did $rounds"; }; run_stage 7 "self-training" good seed rounds'
        return bash(f"rounds={rounds}; {stage}", tmp_path).stdout

    assert "did 2" in run(2)
    assert "already done" in run(2)
    assert "did 3" in run(3)


def test_stages_that_were_done_before_options_were_noted_are_kept(tmp_path: Path) -> None:
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "1-good").touch()
    assert "already done" in bash('good() { false; }; run_stage 1 "a" good seed', tmp_path).stdout


@pytest.mark.parametrize("work", ["work", "side_by_side work a b"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_stops_the_script_stops_all_that_it_started(
    tmp_path: Path, work: str, number: signal.Signals
) -> None:
    text = f"""
    work() {{ bash -c 'echo $$ >> "{tmp_path}/started"; sleep 60; true'; }}
    stage() {{ {work}; }}
    run_stage 1 "long work" stage
    """
    process = subprocess.Popen(
        ["bash", "-c", SETUP.format(exp=tmp_path) + text],
        env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as in a terminal
    )
    started = tmp_path / "started"
    until(lambda: started.is_file() and started.read_text().endswith("\n"))
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    for pid in started.read_text().split():
        until(lambda pid=pid: not Path("/proc", pid).exists())
    assert not (tmp_path / "done").exists()


def until(condition: Callable[[], bool]) -> None:
    """Waits until ``condition`` holds; fails where it never does."""
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("waited in vain")


def test_self_training_goes_on_where_it_was(tmp_path: Path) -> None:
    """A round that was decoded is neither read nor decoded again."""
    text = f"""
    data="{tmp_path}/data" rounds=2
    speechssl() {{ echo "speechssl $1"; if [ "$1" = finetune ]; then mkdir -p "$4"; fi; }}
    decode_run() {{ echo "decode $1"; touch "$1/test.lm.hyps.jsonl"; }}
    self_train reader ten all recipe.yaml
    rm "$exp/self-trained-2/test.lm.hyps.jsonl"
    echo again
    self_train reader ten all recipe.yaml
    """
    first, again = bash(text, tmp_path).stdout.split("again\n")
    assert first.count("speechssl finetune") == 2
    assert first.count("decode") == 2
    assert [line for line in again.splitlines() if "decode" in line] == [
        f"decode {tmp_path}/self-trained-2"
    ]


@pytest.mark.parametrize("unit", ["word", "character"])
def test_the_language_model_is_called_what_it_is(tmp_path: Path, unit: str) -> None:
    text = f'speechssl() {{ echo "$@"; }}; lm_unit={unit}; decode_run run ten all'
    _, lm, tuning, _ = bash(text, tmp_path).stdout.splitlines()
    assert f"run/{unit}s.arpa --unit {unit}" in lm
    assert f"--lm run/{unit}s.arpa" in tuning
    assert ("--open-vocabulary" in tuning) == (unit == "word")
    assert "--open-vocabulary" not in bash(f"vocabulary=closed; {text}", tmp_path).stdout


def test_systems_run_side_by_side_and_a_failure_is_seen(tmp_path: Path) -> None:
    text = 'work() { echo "with $OMP_NUM_THREADS"; [ "$1" != bad ]; }\n'
    good = bash(f"{text} side_by_side work a b c", tmp_path)
    assert good.returncode == 0, good.stderr
    lines = sorted(good.stdout.split("\n"))
    assert [line.split(": with")[0] for line in lines if line] == ["a", "b", "c"]
    failed = bash(f"{text} side_by_side work a bad c; echo never", tmp_path)
    assert failed.returncode == 2
    assert "error: failed: bad" in failed.stderr
    assert "c: with" in failed.stdout, "the others are finished first"
    assert "never" not in failed.stdout


@pytest.mark.parametrize(
    ("updates", "every"), [("2", 50), ("50", 50), ("120", 150), ("1000", 1000)]
)
def test_any_number_of_updates_can_be_benchmarked(tmp_path: Path, updates: str, every: int) -> None:
    """Recipes report every 50 updates, and validate at a multiple of that."""
    text = (ROOT / "egs" / "benchmark.sh").read_text()
    function = text[text.index("run_of() {") : text.index("# Updates of pretraining")]
    done = bash(f"{function} run_of {updates}", tmp_path)
    assert done.stdout == f"training.updates={updates} training.validate_every={every}\n"


@pytest.mark.parametrize("text", ["minutes_of data", "show_transcripts model data/cuts 3"])
def test_a_stage_without_the_one_before(tmp_path: Path, text: str) -> None:
    refused = bash(text, tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: data")
    assert refused.stderr.endswith("run stage 0 first\n")


def test_what_is_shown_is_what_was_transcribed(tmp_path: Path, corpus: Path) -> None:
    """A part of a recording has a reference of its own, and is not shown."""
    whole, part, *_ = load_cuts(cuts_path(corpus, "test"))
    path = tmp_path / "cuts.jsonl.gz"
    save_cuts([part.truncate(duration=0.5), whole], path)
    run = tmp_path / "run"
    run.mkdir()
    text = f'speechssl() {{ echo "heard in $3 ${{*:4}}"; }}\nshow_transcripts {run}/model {path} 3'
    file = whole.recording.sources[0].source
    expected = [
        f"file       {file}",
        f"reference  {cut_text(whole)}",
        f"transcript heard in {file} ",
        f"with LM    heard in {file} --decoding {run}/decoding.yaml",
    ]
    for lines in (expected[:3], expected):
        shown = bash(text, tmp_path)
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.splitlines() == lines
        (run / "decoding.yaml").touch()
