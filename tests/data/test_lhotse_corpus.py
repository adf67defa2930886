from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from speechssl.data.lhotse_corpus import NamedCorpus, corpus_command, join_segments
from speechssl.data.manifest import cuts_path, load_cuts
from speechssl.data.utterance import Listing, Utterance


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
        ([(0.0, 9.0), (2.0, 5.0)], [(0.0, 9.0)]),
    ],
)
def test_segments_become_pieces(
    segments: list[tuple[float, float]], expected: list[tuple[float, float]]
) -> None:
    pieces = join_segments(segments, shortest=1.0, longest=10.0)
    assert pieces == [pytest.approx(piece) for piece in expected]


def test_the_order_of_the_files_on_the_disk_does_not_matter(tmp_path: Path) -> None:
    @corpus_command(NamedCorpus("Toy", "", "", "", ""), "none")
    def prepare(folder: Path, jobs: int) -> Listing:
        return Listing([Utterance(n, folder / f"{n}.wav", split="train") for n in ("b", "c", "a")])

    for seed, name in enumerate("abc"):
        sound = np.random.default_rng(seed).standard_normal(4000)
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * sound, 8000)
    options = [str(tmp_path / "out"), "--corpus", str(tmp_path)]
    assert CliRunner().invoke(prepare, options).exit_code == 0
    assert [cut.id for cut in load_cuts(cuts_path(tmp_path / "out", "train"))] == ["a", "b", "c"]
    refused = CliRunner().invoke(prepare, [*options, "--jobs", "0"])
    assert (refused.exit_code, "--jobs" in refused.output) == (2, True)
