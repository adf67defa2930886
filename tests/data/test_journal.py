from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from speechssl.data.journal import Journal
from speechssl.data.parallel import map_in_order


class Squares:
    """Squares numbers, remembers which, and can be killed at one of them."""

    def __init__(self, deadly: int | None = None) -> None:
        self.done: set[int] = set()
        self.deadly = deadly

    def __call__(self, number: int) -> dict[str, Any]:
        if number == self.deadly:
            raise KeyboardInterrupt
        self.done.add(number)
        return {"square": number**2}


def squares(journal: Journal, work: Squares, count: int, jobs: int = 1) -> list[int]:
    values = journal.map(work, range(count), str, jobs=jobs, description="squares")
    return [value["square"] for value in values]


@pytest.mark.parametrize("jobs", [1, 3])
def test_an_interrupted_run_goes_on(tmp_path: Path, jobs: int) -> None:
    path = tmp_path / "folder" / "journal.jsonl"
    with pytest.raises(KeyboardInterrupt):
        squares(Journal(path), Squares(deadly=60), 80, jobs)
    kept = len(path.read_text().splitlines())
    assert kept >= 30
    with open(path, "a") as stream:
        stream.write('{"key": "77", "va')  # what a kill leaves
    again = Squares()
    assert squares(Journal(path), again, 80, jobs) == [number**2 for number in range(80)]
    assert again.done == set(range(kept, 80))
    assert squares(Journal(path), Squares(deadly=0), 80, jobs)[-1] == 79**2


def test_tidy_keeps_what_was_asked_for(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    squares(journal, Squares(), 10)
    later = Journal(journal.path)
    squares(later, Squares(), 3)
    later.tidy()
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    assert lines == [{"key": str(n), "value": {"square": n**2}} for n in range(3)]


def test_discard_leaves_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new" / "journal.jsonl")
    squares(journal, Squares(), 2)
    journal.discard()
    assert not (tmp_path / "new").exists()
    Journal(tmp_path / "other" / "journal.jsonl").discard()
    assert list(tmp_path.iterdir()) == []


def test_results_come_in_order_from_several_threads() -> None:
    threads = set()

    def work(number: int) -> int:
        threads.add(threading.get_ident())
        time.sleep(0.001 * (number % 3))
        return number

    assert list(map_in_order(work, range(100), jobs=4)) == list(range(100))
    assert len(threads) > 1
