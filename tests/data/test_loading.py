from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet
from numpy.typing import NDArray

from speechssl.data.batch import Places, fill_batches
from speechssl.data.index import Cuts
from speechssl.data.loading import BatchLoader, CutLoader, epoch_batches, sorted_batches
from speechssl.data.manifest import cuts_path, load_cuts
from speechssl.data.threads import reading_threads
from speechssl.errors import AudioError
from speechssl.training.recipe import DataConfig
from tools.bench.data_path import batch_shares, librispeech_like


@pytest.fixture
def damaged(corpus: Path, tmp_path: Path) -> CutSet:
    """The train cuts, the first of which has only NaN samples."""
    cuts = list(load_cuts(cuts_path(corpus, "train")))
    file = tmp_path / "nan.wav"
    samples = np.full(round(cuts[0].duration * 16_000), np.nan, dtype=np.float32)
    soundfile.write(file, samples, 16_000, subtype="FLOAT")
    cuts[0].recording.sources[0].source = str(file)
    cuts[0].recording.sampling_rate = 16_000
    cuts[0].recording.num_samples = len(samples)
    return CutSet.from_cuts(cuts)


def test_a_bad_recording_is_skipped_and_counted(damaged: CutSet) -> None:
    cuts = list(damaged)
    loader = BatchLoader(CutLoader(), total_cuts=1000)
    batches = list(loader.load([(cuts[:3], 1), (cuts[3:5], 2), (cuts[:2], 3)]))
    assert [batch.ids for batch in batches] == [
        [cuts[1].id, cuts[2].id],
        [cuts[3].id, cuts[4].id],
        [cuts[1].id],
    ]
    assert list(loader.bad_cuts) == [cuts[0].id]
    assert "nan.wav" in loader.bad_cuts[cuts[0].id]


def test_more_than_one_percent_bad_recordings_stop_the_run(damaged: CutSet) -> None:
    cuts = list(damaged)
    with pytest.raises(AudioError, match=r"1 of 12 recordings cannot be read.*nan\.wav"):
        list(BatchLoader(CutLoader(), total_cuts=12).load([(cuts, 0)]))


def test_a_batch_of_bad_recordings_repeats_the_one_before(damaged: CutSet) -> None:
    cuts = list(damaged)
    loader = BatchLoader(CutLoader(), total_cuts=1000)
    first, second = loader.load([(cuts[1:3], 0), (cuts[:1], 1)])
    assert first.ids == second.ids
    with pytest.raises(AudioError, match="no recording of a batch could be read"):
        list(BatchLoader(CutLoader(), total_cuts=1000).load([(cuts[:1], 0)]))


def test_the_cache_returns_the_same_samples_within_its_bound(corpus: Path) -> None:
    cut = next(iter(load_cuts(cuts_path(corpus, "train"))))
    cached, uncached = CutLoader(cache_gb=1.0), CutLoader()
    assert cached(cut, 0).waveform is cached(cut, 0).waveform
    assert uncached(cut, 0).waveform is not uncached(cut, 0).waveform
    assert bool((cached(cut, 0).waveform == uncached(cut, 0).waveform).all())


def test_a_reading_thread_computes_on_one_core_and_others_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with reading_threads(2) as pool:
            assert set(pool.map(lambda _: torch.get_num_threads(), range(8))) == {1}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def an4_like() -> NDArray[np.float64]:
    """Seconds of 859 recordings distributed as AN4's: 0.7 to 6.3 s, mean 2.7, median 2.5."""
    return np.random.default_rng(0).gamma(6.0, 0.45, 859).clip(0.7, 6.3)


LENGTHS = {
    "an4, small batches": (an4_like(), 10.0),
    "an4": (an4_like(), 20.0),
    "librispeech": (np.minimum(librispeech_like(28_000), 15.6), 87.5),
}
"""Seconds of the cuts, and the seconds of a batch."""


def plan(seconds: NDArray[np.float64], batch_seconds: float, **changes: Any) -> list[Places]:
    settings = {"length_noise": 0.03, "seed": 0, "epoch": 0, **changes}
    return epoch_batches(seconds, batch_seconds=batch_seconds, **settings)


@pytest.mark.parametrize("name", LENGTHS)
def test_an_epoch_has_every_cut_once_in_batches_of_at_most_their_seconds(name: str) -> None:
    seconds, batch_seconds = LENGTHS[name]
    for epoch in range(3):
        batches = plan(seconds, batch_seconds, epoch=epoch)
        assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(len(seconds)))
        assert all(seconds[batch].max() * len(batch) <= batch_seconds for batch in batches)


@pytest.mark.parametrize("name", LENGTHS)
def test_less_than_three_percent_are_padding(name: str) -> None:
    seconds, batch_seconds = LENGTHS[name]
    for epoch in range(3):
        batches = plan(seconds, batch_seconds, epoch=epoch)
        padded = sum(seconds[batch].max() * len(batch) for batch in batches)
        assert 1 - seconds.sum() / padded < 0.03


@pytest.mark.parametrize("name", LENGTHS)
def test_cuts_meet_again_no_more_than_by_chance(name: str) -> None:
    seconds, batch_seconds = LENGTHS[name]
    data = DataConfig(forward_seconds=batch_seconds, min_seconds=0.1, max_seconds=0.1)
    _, _, again, chance = batch_shares(seconds, data)
    assert 0 < again < 1.1 * chance


def test_batches_mix_the_whole_corpus() -> None:
    seconds, batch_seconds = LENGTHS["librispeech"]
    batches = plan(seconds, batch_seconds)
    distances = np.concatenate([np.abs(np.diff(batch)) for batch in batches if len(batch) > 1])
    assert np.mean(distances) == pytest.approx(len(seconds) / 3, rel=0.02)  # as of random places
    lengths = np.array([seconds[batch].max() for batch in batches])
    assert abs(np.corrcoef(lengths[1:], lengths[:-1])[0, 1]) < 0.05, "lengths come in random order"


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    seconds, batch_seconds = LENGTHS["an4"]

    def rows(**changes: Any) -> list[list[int]]:
        return [batch.tolist() for batch in plan(seconds, batch_seconds, **changes)]

    assert rows(seed=1, epoch=2) == rows(seed=1, epoch=2)
    different = [rows(), rows(seed=1), rows(epoch=1), rows(seed=1, epoch=1)]
    assert all(a != b for a, b in combinations(different, 2))


def test_without_noise_padding_is_least() -> None:
    seconds, batch_seconds = LENGTHS["an4"]

    def padded(noise: float) -> float:
        batches = plan(seconds, batch_seconds, length_noise=noise)
        return sum(seconds[batch].max() * len(batch) for batch in batches)

    assert seconds.sum() < padded(0) < padded(0.03) < padded(0.3)


def test_a_cut_that_fills_a_batch_is_one_by_itself() -> None:
    batches = fill_batches(np.array([9.0, 30.0, 1.0, 4.0]), np.array([1, 0, 3, 2]), 10.0)
    assert [batch.tolist() for batch in batches] == [[1], [0], [3, 2]]


def test_sorted_batches_hold_at_most_their_seconds_with_padding(corpus: Path) -> None:
    opened = Cuts.open(cuts_path(corpus, "train"))
    cuts = list(opened)
    batches = list(sorted_batches(cuts, 4))
    assert batches == list(sorted_batches(opened, 4))
    lengths = [cut.duration for batch in batches for cut in batch]
    assert lengths == sorted((cut.duration for cut in cuts), reverse=True)
    assert {cut.id for batch in batches for cut in batch} == {cut.id for cut in cuts}
    assert all(batch[0].duration * len(batch) <= 4 or len(batch) == 1 for batch in batches)
