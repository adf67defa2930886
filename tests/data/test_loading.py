from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut, Recording

from speechssl.data.loading import BatchLoader, CutLoader, epoch_batches, sorted_batches
from speechssl.data.manifest import cuts_path, load_cuts
from speechssl.errors import AudioError


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


def test_batches_hold_at_most_their_seconds_with_padding(corpus: Path) -> None:
    cuts = load_cuts(cuts_path(corpus, "train"))
    for batches in (
        list(epoch_batches(cuts, batch_seconds=4, buckets=1, seed=0, epoch=0)),
        list(sorted_batches(cuts, 4)),
    ):
        assert sorted(c.id for batch in batches for c in batch) == sorted(c.id for c in cuts)
        for batch in batches:
            assert max(c.duration for c in batch) * len(batch) <= 4 or len(batch) == 1


def test_bucketing_leaves_a_third_of_the_padding_at_most() -> None:
    seconds = np.random.default_rng(0).uniform(1, 16, 600)
    cuts = CutSet.from_cuts(_silent_cut(number, s) for number, s in enumerate(seconds))

    def padding(buckets: int) -> float:
        batches = list(epoch_batches(cuts, batch_seconds=120, buckets=buckets, seed=0, epoch=0))
        audio = sum(c.duration for batch in batches for c in batch)
        return 1 - audio / sum(max(c.duration for c in batch) * len(batch) for batch in batches)

    assert padding(buckets=20) < padding(buckets=1) / 3


def _silent_cut(number: int, seconds: float) -> MonoCut:
    samples = round(seconds * 16_000)
    duration = samples / 16_000
    recording = Recording(str(number), [], 16_000, samples, duration)
    return MonoCut(str(number), start=0, duration=duration, channel=0, recording=recording)
