from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch

from speechssl.data.batch import SpeechBatch
from speechssl.data.loading import CutLoader
from speechssl.data.manifest import cuts_path, load_cuts
from speechssl.errors import ConfigError
from speechssl.training.reader import TrainReader, ValidationReader
from speechssl.training.recipe import DataConfig

DATA = DataConfig(batch_seconds=8, forward_seconds=4, max_seconds=4, threads=2)


def reader(corpus: Path, rank: int = 0, world: int = 1, data: DataConfig = DATA) -> TrainReader:
    cuts = load_cuts(cuts_path(corpus, "train"))
    return TrainReader(cuts, CutLoader(), data, seed=3, rank=rank, world=world)


def summary(update: list[SpeechBatch]) -> list[tuple[list[str], int]]:
    return [(batch.ids, batch.seed) for batch in update]


def test_a_resumed_reader_sees_what_an_unbroken_one_sees(corpus: Path) -> None:
    unbroken = reader(corpus)
    updates = [summary(update) for update in islice(unbroken, 9)]
    for stop in (1, 4, 8):
        first = reader(corpus)
        assert [summary(u) for u in islice(first, stop)] == updates[:stop]
        second = reader(corpus)
        second.load_state_dict(first.state_dict())
        assert [summary(u) for u in islice(second, 9 - stop)] == updates[stop:]
    assert unbroken.epoch >= 1, "the test must cross an epoch"


def test_processes_share_every_update_without_overlap(corpus: Path) -> None:
    whole = [summary(update) for update in islice(reader(corpus), 6)]
    shares = [islice(reader(corpus, rank, 2), 6) for rank in range(2)]
    for update, first, second in zip(whole, *shares, strict=True):
        assert update == [*summary(first), *summary(second)]


def test_every_cut_is_seen_once_an_epoch(corpus: Path) -> None:
    cuts = {cut.id for cut in load_cuts(cuts_path(corpus, "train"))}
    seen: list[str] = []
    for update in reader(corpus):
        seen += [id_ for batch in update for id_ in batch.ids]
        if len(seen) >= 2 * len(cuts):
            break
    assert set(seen[: len(cuts)]) == cuts
    assert set(seen[len(cuts) : 2 * len(cuts)]) == cuts
    assert seen[: len(cuts)] != seen[len(cuts) : 2 * len(cuts)], "epochs differ in order"


def test_an_update_that_processes_cannot_share_is_refused(corpus: Path) -> None:
    with pytest.raises(ConfigError, match="3 processes cannot share evenly"):
        reader(corpus, world=3)


def test_long_cuts_are_cropped_at_a_frame_of_the_batch_seed(corpus: Path) -> None:
    cut = max(load_cuts(cuts_path(corpus, "train")), key=lambda c: c.duration)
    whole = CutLoader()(cut, 0).waveform
    loader = CutLoader(max_seconds=0.5)
    crops = {seed: loader(cut, seed).waveform for seed in range(6)}
    assert {len(crop) for crop in crops.values()} == {8000}
    assert torch.equal(loader(cut, 3).waveform, crops[3])
    starts = []
    for crop in crops.values():
        places = whole.unfold(0, 8000, 320)
        distances = (places - crop).abs().amax(1)
        starts.append(int(distances.argmin()))
        assert distances.min() < 1e-3
    assert len(set(starts)) > 1


def test_validation_reads_every_cut_once_on_any_number_of_processes(corpus: Path) -> None:
    cuts = load_cuts(cuts_path(corpus, "dev"))
    seen: list[str] = []
    for rank in range(2):
        part = ValidationReader(cuts, CutLoader(), DATA, seed=0, rank=rank, world=2)
        seen += [id_ for (batch,) in part for id_ in batch.ids]
    assert sorted(seen) == sorted(cut.id for cut in cuts)
