import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from speechssl.data.corpus_report import Report, Totals
from speechssl.hypotheses import Hypothesis, write_hypotheses
from speechssl.scoring import compare, score
from speechssl.training.run_folder import RunFolder

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

from results import main  # noqa: E402

ENTRY = {
    "corpus",
    "system",
    "pretraining_hours_of_audio",
    "untranscribed_hours",
    "label_minutes",
    "wer",
    "wer_ci",
    "cer",
    "words",
    "seed",
    "seconds",
    "command",
    "commit",
}


def hypotheses(wrong: int) -> list[Hypothesis]:
    """40 utterances of two words, ``wrong`` of which hold an error."""
    texts = ["yes na" if i < wrong else "yes no" for i in range(40)]
    return [Hypothesis(f"u{i}", text, "yes no", 1.0) for i, text in enumerate(texts)]


@pytest.fixture
def rows(tmp_path):
    """Options for two systems at two amounts of transcripts, one of them with two seeds."""
    options = []
    for system, minutes, seed, wrong in [
        ("pretrained", 10, 1, 10),
        ("scratch", 10, 1, 30),
        ("pretrained", 44.5, 1, 4),
        ("scratch", 44.5, 1, 9),
        ("pretrained", 10, 2, 12),
    ]:
        path = tmp_path / f"{system}-{minutes}-{seed}.jsonl"
        write_hypotheses(path, hypotheses(wrong))
        hours = 0.7 if system == "pretrained" else 0
        options += [
            "--row",
            f"system={system},hyps={path},label_minutes={minutes},pretraining_hours={hours},"
            f"seed={seed},seconds=90.5",
        ]
    return options


def run(*arguments: object):
    return CliRunner().invoke(main, ["--corpus", "toy", *map(str, arguments)])


def test_results_json(rows, tmp_path):
    out = tmp_path / "new" / "results.json"
    result = run(*rows, "--out", out)
    assert result.exit_code == 0, result.output
    entries = json.loads(out.read_text())
    assert len(entries) == 5
    assert all(set(entry) == ENTRY for entry in entries)
    first = entries[0]
    expected = score(hypotheses(10))
    assert first["wer"] == expected.wer == 10 / 80
    assert first["wer_ci"] == list(expected.wer_interval)
    assert first["cer"] == expected.cer
    assert (first["corpus"], first["system"], first["words"]) == ("toy", "pretrained", 80)
    assert (first["label_minutes"], first["pretraining_hours_of_audio"]) == (10, 0.7)
    assert (first["seed"], first["seconds"]) == (1, 90.5)


def test_table_and_comparisons(rows, tmp_path):
    comparisons = tmp_path / "comparisons.json"
    result = run(*rows, "--compare", "pretrained:scratch", "--comparisons", comparisons)
    table, verdicts = result.stdout.split("\n\n")
    assert len(table.splitlines()) == 6
    assert "12.50" in table.splitlines()[1]
    assert "1.5 min" in table.splitlines()[1]
    # The second seed of "pretrained" has no counterpart.
    assert len(verdicts.splitlines()) == 2
    expected = compare(score(hypotheses(10)), score(hypotheses(30)))
    assert verdicts.startswith("pretrained against scratch, 10 minutes, seed 1: WER -25.00 points")
    assert f"p = {expected.p_value:.2g}" in verdicts.splitlines()[0]
    found = json.loads(comparisons.read_text())
    assert [entry["label_minutes"] for entry in found] == [10, 44.5]
    assert found[0]["p_value"] == expected.p_value
    assert (found[0]["system"], found[0]["against"]) == ("pretrained", "scratch")


def test_figure(rows, tmp_path):
    figure = tmp_path / "new" / "results.png"
    assert run(*rows, "--figure", figure).exit_code == 0
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert figure.stat().st_size > 5000
    assert [path.name for path in figure.parent.iterdir()] == ["results.png"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("sistem=a", "did you mean 'system'?"),
        ("system=a", "lacks hyps, label_minutes, pretraining_hours, seed, seconds"),
        ("system", "'system' is not of the form key=value"),
        (
            "system=a,hyps=/no/such.jsonl,label_minutes=ten,pretraining_hours=0,seed=1,seconds=1",
            "label_minutes: expected a number, found 'ten'",
        ),
        (
            "system=a,hyps=/no/such.jsonl,label_minutes=10,pretraining_hours=0,seed=1,seconds=1",
            "/no/such.jsonl: cannot be read",
        ),
        (
            "system=a,hyps=a.jsonl,label_minutes=nan,pretraining_hours=0,seed=1,seconds=1",
            "label_minutes must be 0 or more",
        ),
    ],
)
def test_bad_rows(tmp_path, row, message):
    out = tmp_path / "results.json"
    result = run("--row", row, "--out", out)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not out.exists()


def test_one_row_given_twice(rows):
    result = run(*rows, *rows[:2])
    assert result.exit_code == 2
    assert "'pretrained' with 10 minutes and seed 1 is given twice" in result.stderr


def test_a_figure_is_a_png(rows, tmp_path):
    result = run(*rows, "--figure", tmp_path / "results.pdf")
    assert result.exit_code == 2
    assert "give a name that ends in .png" in result.stderr
    assert not list(tmp_path.glob("*.pdf"))


def test_a_folder_is_no_place_for_a_file(rows, tmp_path):
    (tmp_path / "folder").mkdir()
    result = run(*rows, "--out", tmp_path / "folder")
    assert result.exit_code == 2
    assert f"{tmp_path / 'folder'}: Is a directory" in result.stderr


def test_unknown_comparison(rows):
    result = run(*rows, "--compare", "pretrained:scrath")
    assert result.exit_code == 2
    assert "the systems pretrained, scratch" in result.stderr


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A function that writes the folder of a finished run of 7 s with so many hours of audio."""

    def write(name: str, description: dict[str, object], hours: float) -> RunFolder:
        exp = RunFolder(tmp_path / name)
        exp.claim(description)
        monkeypatch.setattr("sys.argv", ["speechssl", name, "recipe.yaml"])
        exp.note_start()
        (exp.path / "metrics").mkdir()
        row = {"Step": 5, "total_time": 7.0, "total_audio_hours": hours}
        (exp.path / "metrics" / "train.jsonl").write_text(json.dumps(row) + "\n")
        write_hypotheses(exp.path / "test.hyps.jsonl", hypotheses(4))
        return exp

    return write


def entry_of(exp: RunFolder) -> tuple[dict[str, object], str]:
    """Its entry in results.json, and the table."""
    out = exp.path / "results.json"
    result = run("--row", f"system=a,run={exp.path},label_minutes=10", "--out", out)
    assert result.exit_code == 0, result.output
    [entry] = json.loads(out.read_text())
    return entry, result.stdout


def test_a_run_says_what_made_it(finished, tmp_path):
    report = Report("toy", "", {"train": Totals(hours=0.5)})
    (tmp_path / "data").mkdir()
    report.write(tmp_path / "data")
    finished("pretrain", {"data": str(tmp_path / "data")}, 9.0)
    init = str(tmp_path / "pretrain" / "model")
    exp = finished("finetune", {"init": init, "seed": 3}, 0.2)
    entry, _ = entry_of(exp)
    assert entry["command"] == "speechssl finetune recipe.yaml"
    assert entry["commit"] == exp.starts()[0]["commit"]
    assert (entry["seed"], entry["seconds"]) == (3, 14)
    assert (entry["pretraining_hours_of_audio"], entry["untranscribed_hours"]) == (9.0, 0.5)


def test_an_encoder_from_scratch_and_one_from_elsewhere(finished, tmp_path):
    entry, table = entry_of(finished("scratch", {"init": None, "seed": 1}, 0.2))
    assert (entry["pretraining_hours_of_audio"], entry["untranscribed_hours"]) == (0, 0)
    imported = {"init": str(tmp_path / "imported"), "seed": 1}
    entry, table = entry_of(finished("imported-finetune", imported, 0.2))
    assert (entry["pretraining_hours_of_audio"], entry["untranscribed_hours"]) == (None, None)
    assert entry["seconds"] == 7
    assert "elsewhere" in table


def test_runs_by_itself():
    done = subprocess.run(
        [sys.executable, TOOLS / "results.py", "--help"], capture_output=True, text=True, check=True
    )
    assert "Example:" in done.stdout
