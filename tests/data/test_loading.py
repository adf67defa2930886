from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, MonoCut, Recording
from numpy.typing import NDArray

from speechssl.data.audio import cut_samples
from speechssl.data.batch import Places
from speechssl.data.index import Cuts
from speechssl.data.loading import BatchLoader, CutLoader, epoch_batches, sorted_batches
from speechssl.data.manifest import cut_text, cuts_path, load_cuts
from speechssl.data.targets import FrameTargets, TargetsMeta, cut_frames, write_targets
from speechssl.data.text import Tokens
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


def test_one_percent_do_not_however_often_they_are_due(
    damaged: CutSet, caplog: pytest.LogCaptureFixture
) -> None:
    cuts = list(damaged)
    loader = BatchLoader(CutLoader(), total_cuts=100)
    assert len(list(loader.load([(cuts[:2], epoch) for epoch in range(3)]))) == 3
    assert list(loader.bad_cuts) == [cuts[0].id]
    assert len(caplog.records) == 1, "it is told once"


def test_a_batch_of_bad_recordings_repeats_the_one_before(damaged: CutSet) -> None:
    cuts = list(damaged)
    loader = BatchLoader(CutLoader(), total_cuts=1000)
    first, second = loader.load([(cuts[1:3], 7), (cuts[:1], 8)])
    assert first.ids == second.ids
    assert (first.seed, second.seed) == (7, 8)
    with pytest.raises(AudioError, match="no recording of a batch could be read"):
        list(BatchLoader(CutLoader(), total_cuts=1000).load([(cuts[:1], 0)]))


def test_the_cache_returns_the_same_samples_within_its_bound(corpus: Path) -> None:
    cut = next(iter(load_cuts(cuts_path(corpus, "train"))))
    cached, uncached = CutLoader(cache_gb=1.0), CutLoader()
    assert cached(cut, 0).waveform is cached(cut, 0).waveform
    assert uncached(cut, 0).waveform is not uncached(cut, 0).waveform
    assert bool((cached(cut, 0).waveform == uncached(cut, 0).waveform).all())


def test_the_cache_holds_no_more_than_its_bound(corpus: Path) -> None:
    first, second, *_ = load_cuts(cuts_path(corpus, "train"))
    loader = CutLoader(cache_gb=1.5 * 4 * cut_samples(first) / 1e9)
    assert 4 * cut_samples(second) > 0.5 * 4 * cut_samples(first)
    assert loader(first, 0).waveform is loader(first, 0).waveform
    assert loader(second, 0).waveform is not loader(second, 0).waveform


@pytest.fixture
def counting(tmp_path: Path) -> MonoCut:
    """2.06 s in the middle of a recording; each sample of the cut is its own place."""
    samples = np.arange(-1000, 34_000) / 2**20
    soundfile.write(tmp_path / "counting.wav", samples, 16_000, subtype="FLOAT")
    recording = Recording.from_file(tmp_path / "counting.wav")
    return MonoCut("counting", 1000 / 16_000, 2.06, 0, recording=recording)


def test_a_crop_has_the_targets_of_its_own_frames(counting: MonoCut, tmp_path: Path) -> None:
    frames = cut_frames(counting)
    meta = TargetsMeta("c", "m", "mfcc", None, clusters=frames, frame_rate=50)
    write_targets(tmp_path / "targets", meta, [(counting.id, np.arange(frames))])
    loader = CutLoader(targets=FrameTargets.load(tmp_path / "targets"), max_seconds=2.0)
    places = set()
    for seed in range(60):
        loaded = loader(counting, seed)
        first = round(float(loaded.waveform[0]) * 2**20)
        places.add(first)
        assert len(loaded.waveform) == 32_000
        assert loaded.targets is not None
        assert loaded.targets.tolist() == list(range(first // 320, first // 320 + 99))
    assert places == {0, 320, 640, 960}, "every frame at which a crop fits, and no other"


def test_a_batch_has_what_belongs_to_each_of_its_cuts(corpus: Path, tmp_path: Path) -> None:
    cuts = list(load_cuts(cuts_path(corpus, "dev")))[:3]
    targets = [np.random.default_rng(i).integers(0, 9, cut_frames(c)) for i, c in enumerate(cuts)]
    meta = TargetsMeta("c", "m", "mfcc", None, clusters=9, frame_rate=50)
    write_targets(tmp_path / "targets", meta, zip((cut.id for cut in cuts), targets))
    tokens = Tokens.from_texts(cut_text(cut) or "" for cut in cuts)
    loader = CutLoader(targets=FrameTargets.load(tmp_path / "targets"), tokens=tokens)
    (batch,) = BatchLoader(loader, total_cuts=3).load([(cuts, 5)])
    assert (batch.seed, batch.texts) == (5, [cut_text(cut) for cut in cuts])
    assert batch.lengths.tolist() == [cut_samples(cut) for cut in cuts]
    assert batch.targets is not None
    assert batch.tokens is not None
    for row, cut, own in zip(range(3), cuts, targets):
        assert batch.targets[row, : len(own)].tolist() == own.tolist()
        assert tokens.decode(batch.tokens[row].tolist()) == cut_text(cut)


def test_cuts_of_one_batch_are_cropped_at_places_of_their_own(counting: MonoCut) -> None:
    loader = CutLoader(max_seconds=1.0)
    other = counting.with_id("another")
    first, second = (
        [float(loader(cut, seed).waveform[0]) for seed in range(5)] for cut in (counting, other)
    )
    assert first != second


def test_a_cut_without_one_frame_is_no_recording(counting: MonoCut) -> None:
    cuts = [replace(counting, duration=samples / 16_000) for samples in (399, 400)]
    loader = BatchLoader(CutLoader(), total_cuts=1000)
    (batch,) = loader.load([([cuts[1], cuts[0].with_id("short")], 0)])
    assert batch.ids == ["counting"]
    assert "399 samples are fewer than one frame (400)" in loader.bad_cuts["short"]


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


def test_sorted_batches_hold_at_most_their_seconds_with_padding(corpus: Path) -> None:
    opened = Cuts.open(cuts_path(corpus, "train"))
    cuts = list(opened)
    batches = list(sorted_batches(cuts, 4))
    assert batches == list(sorted_batches(opened, 4))
    lengths = [cut.duration for batch in batches for cut in batch]
    assert lengths == sorted((cut.duration for cut in cuts), reverse=True)
    assert {cut.id for batch in batches for cut in batch} == {cut.id for cut in cuts}
    assert all(batch[0].duration * len(batch) <= 4 or len(batch) == 1 for batch in batches)
