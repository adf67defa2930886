"""Which metrics of a run are drawn."""

from __future__ import annotations

import json
from pathlib import Path

from speechssl.training.curves import draw_curves


def picture(exp: Path, *rows: dict[str, float]) -> bytes:
    (exp / "metrics").mkdir(parents=True)
    lines = [json.dumps({"Step": step, **row}) for step, row in enumerate(rows, start=1)]
    (exp / "metrics" / "train.jsonl").write_text("\n".join(lines))
    return draw_curves(exp).read_bytes()


def test_a_metric_that_the_first_report_lacks_is_drawn(tmp_path: Path) -> None:
    """As a rank is where the first batches have few frames (``objectives.base.variety``)."""
    losses: list[dict[str, float]] = [{"loss": 3.0}, {"loss": 2.0}, {"loss": 1.0}]
    alone = picture(tmp_path / "alone", *losses)
    assert picture(tmp_path / "same", *losses) == alone
    assert picture(tmp_path / "more", *losses[:2], {"loss": 1.0, "context_rank": 5.0}) != alone
