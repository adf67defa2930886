from __future__ import annotations

import pytest

from speechssl.data.lhotse_corpus import join_segments


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([], []),
        ([(1.0, 4.0)], [(1.0, 4.0)]),
        ([(1.0, 4.0), (5.0, 9.0), (9.5, 12.0)], [(1.0, 9.0), (9.5, 12.0)]),
        ([(5.0, 9.0), (1.0, 4.0)], [(1.0, 9.0)]),
        ([(0.0, 0.5), (20.0, 24.0)], [(20.0, 24.0)]),
        ([(0.0, 21.0)], [(0.0, 7.0), (7.0, 14.0), (14.0, 21.0)]),
        ([(0.0, 1.5), (1.5, 10.0), (10.0, 10.4)], [(0.0, 10.0)]),
    ],
)
def test_segments_become_pieces(
    segments: list[tuple[float, float]], expected: list[tuple[float, float]]
) -> None:
    pieces = join_segments(segments, shortest=1.0, longest=10.0)
    assert pieces == [pytest.approx(piece) for piece in expected]
