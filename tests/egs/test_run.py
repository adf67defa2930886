"""The shell side of the experiments: options, stages, systems trained side by side."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from speechssl.data.manifest import cut_text, cuts_path, load_cuts, save_cuts

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(ROOT.glob("egs/*/run.sh"))
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def bash(text: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Runs ``text`` as a script that has sourced egs/steps.sh, stages 0 to 9 wanted."""
    setup = f'set -euo pipefail; root="{ROOT}" exp="{tmp_path}" stage=0 stop_stage=9 seed=1\n'
    script = f'{setup}source "{ROOT}/egs/steps.sh"\n{text}'
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
        (["--stage", "one"], "are numbers"),
    ):
        refused = run(*arguments)
        assert refused.returncode == 2
        assert message in refused.stderr
        assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.parent.name)
def test_every_experiment_has_the_same_stages(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    text = script.read_text()
    stages = re.findall(r'^\s*run_stage (\d) "[^"]+" (\w+)_stage$', text, re.MULTILINE)
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


def test_what_is_shown_is_what_was_transcribed(tmp_path: Path, corpus: Path) -> None:
    """A part of a recording has a reference of its own, and is not shown."""
    whole, part, *_ = load_cuts(cuts_path(corpus, "test"))
    path = tmp_path / "cuts.jsonl.gz"
    save_cuts([part.truncate(duration=0.5), whole], path)
    shown = bash(
        f'speechssl() {{ echo "heard in $3"; }}\nshow_transcripts model {path} 3', tmp_path
    )
    assert shown.returncode == 0, shown.stderr
    file = whole.recording.sources[0].source
    lines = [line.split(maxsplit=1) for line in shown.stdout.splitlines()]
    assert lines == [
        ["file", file],
        ["reference", cut_text(whole)],
        ["transcript", f"heard in {file}"],
    ]
