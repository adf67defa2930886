"""Which frames each unit of an alignment takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from lhotse import MonoCut

from speechssl.frames import FRAME_RATE


class AlignedUnit(NamedTuple):
    """A unit of speech, such as a phone, and its frames from ``first`` to before ``stop``."""

    symbol: str
    first: int
    stop: int


def unit_at(symbol: str, start: float, end: float) -> AlignedUnit:
    """The frames of a unit from second ``start`` to second ``end``, counted from frame 0.

    A frame belongs to the unit if more than half of its 20 ms hop does.
    """
    first, stop = (max(0, round(seconds * FRAME_RATE)) for seconds in (start, end))
    return AlignedUnit(symbol, first, stop)


def aligned_units(cut: MonoCut, kind: str) -> Iterable[AlignedUnit]:
    """The units of the cut's alignments of one ``kind``, such as ``phone``; none if it has none.

    Lhotse counts their times from the start of the recording, and so not as it counts those of
    supervisions, which are relative to the cut.
    """
    for supervision in cut.supervisions:
        for item in (supervision.alignment or {}).get(kind, []):
            start = item.start - cut.start
            yield unit_at(item.symbol, start, start + item.duration)
