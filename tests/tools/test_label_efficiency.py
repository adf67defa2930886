import json
import math
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from scipy.stats import ttest_1samp

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

from label_efficiency import main, read_points  # noqa: E402


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two systems, one of them with three seeds at one of two amounts of transcripts."""
    entries = [("scratch", 10, 0.8), ("scratch", 42, 0.6), ("clusters", 42, 0.3)]
    entries += [("clusters", 10, wer) for wer in (0.50, 0.56, 0.53)]
    rows = [{"system": s, "label_minutes": m, "wer": wer} for s, m, wer in entries]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(rows))
    return path


def run(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_seeds_make_a_mean_and_an_interval(results: Path) -> None:
    points = read_points(results)
    assert [(p.system, p.amount) for p in points] == [
        ("clusters", 10),
        ("clusters", 42),
        ("scratch", 10),
        ("scratch", 42),
    ], "the best system first"
    assert points[0].mean == pytest.approx(0.53)
    low, high = ttest_1samp([0.50, 0.56, 0.53], 0).confidence_interval(0.95)
    assert points[0].half_width == pytest.approx((high - low) / 2)
    assert math.isnan(points[1].half_width), "one seed says nothing of its spread"


def test_table_and_figure(results: Path, tmp_path: Path) -> None:
    figure = tmp_path / "figure.png"
    done = run(results, figure, "--reference", "Kaldi tri3=5.95", "--title", "toy")
    assert done.exit_code == 0, done.output
    assert figure.read_bytes().startswith(b"\x89PNG")
    lines = done.stdout.splitlines()
    assert "10 min" in lines[0]
    assert "42 min" in lines[0]
    assert lines[1].split() == ["clusters", "53.00", "±", "7.45", "(3)", "30.00", "(1)"]


def test_one_amount_of_transcripts_makes_a_row_per_system(tmp_path: Path) -> None:
    rows = [
        {"system": system, "label_minutes": 10, "wer": wer}
        for system, wer in [("scratch", 0.8), ("clusters", 0.5), ("clusters", 0.6)]
    ]
    path, figure = tmp_path / "results.json", tmp_path / "figure.png"
    path.write_text(json.dumps(rows))
    done = run(path, figure, "--reference", "Kaldi tri3=5.95", "--title", "toy")
    assert done.exit_code == 0, done.output
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_over_hours_of_recordings(tmp_path: Path) -> None:
    """Corpora of one objective are points of one line; without pretraining there are no hours."""
    entries = [("scratch", 0.0, 0.8), ("clusters@10", 0.17, 0.6), ("clusters", 0.64, 0.4)]
    rows = [
        {"system": s, "label_minutes": 10, "untranscribed_hours": hours, "wer": wer}
        for s, hours, wer in entries
    ]
    path, figure = tmp_path / "results.json", tmp_path / "figure.png"
    path.write_text(json.dumps(rows))
    points = read_points(path, "recordings")
    assert [(p.system, p.amount) for p in points] == [
        ("clusters, 10 min", 0.17),
        ("clusters, 10 min", 0.64),
        ("scratch, 10 min", 0.0),
    ]
    done = run(path, figure, "--over", "recordings")
    assert done.exit_code == 0, done.output
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert done.stdout.splitlines()[0].split()[-6:] == ["0", "h", "0.17", "h", "0.64", "h"]


ELSEWHERE = '[{"system": "w2v2", "label_minutes": 10, "untranscribed_hours": null, "wer": 0.1}]'
"""A result of an imported encoder."""


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("[]", [], "holds no results"),
        ('[{"system": "a"}]', [], "is no results.json"),
        ("{", [], "is no results.json"),
        (ELSEWHERE, ["--over", "recordings"], "hours that 'w2v2' was pretrained on, elsewhere"),
        (None, ["--reference", "Kaldi"], "is not of the form NAME=WER"),
        (None, ["--reference", "Kaldi=low"], "is not of the form NAME=WER"),
    ],
)
def test_nonsense_is_refused_in_one_line(
    results: Path, tmp_path: Path, text: str | None, arguments: list[str], message: str
) -> None:
    if text is not None:
        results.write_text(text)
    done = run(results, tmp_path / "figure.png", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "figure.png").exists()


def test_a_figure_is_a_png(results: Path, tmp_path: Path) -> None:
    done = run(results, tmp_path / "figure.pdf")
    assert done.exit_code == 2
    assert "give a name that ends in .png" in done.stderr
    assert not (tmp_path / "figure.pdf").exists()
