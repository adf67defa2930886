from __future__ import annotations

from pathlib import Path

from lhotse.supervision import AlignmentItem

from speechssl.data.alignments import AlignedUnit, aligned_units, unit_at
from speechssl.data.manifest import cuts_path, load_cuts


def test_frames_of_a_unit() -> None:
    assert unit_at("a", 0.0, 0.08) == AlignedUnit("a", 0, 4)
    assert unit_at("a", 0.031, 0.069) == AlignedUnit("a", 2, 3)
    assert unit_at("a", -0.5, 0.02) == AlignedUnit("a", 0, 1)


def test_times_count_from_the_recording_wherever_the_cut_begins(corpus: Path) -> None:
    cut = next(iter(load_cuts(cuts_path(corpus, "test"))))
    items = [AlignmentItem("a", 0.2, 0.1), AlignmentItem("b", 0.3, 0.2)]
    cut.supervisions[0] = cut.supervisions[0].with_alignment("phone", items)
    assert list(aligned_units(cut, "phone")) == [("a", 10, 15), ("b", 15, 25)]
    later = cut.truncate(offset=0.24, preserve_id=True)
    assert list(aligned_units(later, "phone")) == [("a", 0, 3), ("b", 3, 13)]
    assert list(aligned_units(cut, "word")) == []
