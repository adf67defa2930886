from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from lhotse import MonoCut, Recording

from speechssl.data.batch import SpeechBatch
from speechssl.data.index import Cuts
from speechssl.data.loading import CutLoader
from speechssl.data.manifest import cuts_path, save_cuts
from speechssl.errors import ConfigError
from speechssl.training.reader import TrainReader, ValidationReader
from speechssl.training.recipe import DataConfig

DATA = DataConfig(batch_seconds=8, forward_seconds=4, max_seconds=4, threads=2)


def reader(corpus: Path, rank: int = 0, world: int = 1, data: DataConfig = DATA) -> TrainReader:
    cuts = Cuts.open(cuts_path(corpus, "train"))
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
    cuts = {cut.id for cut in Cuts.open(cuts_path(corpus, "train"))}
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
    cut = max(Cuts.open(cuts_path(corpus, "train")), key=lambda c: c.duration)
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
    cuts = Cuts.open(cuts_path(corpus, "dev"))
    seen: list[str] = []
    for rank in range(2):
        part = ValidationReader(cuts, CutLoader(), DATA, seed=0, rank=rank, world=2)
        seen += [id_ for (batch,) in part for id_ in batch.ids]
    assert sorted(seen) == sorted(cut.id for cut in cuts)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 300 parts, of 0.5 to 3 s, of one recording of half a minute."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    soundfile.write(folder / "noise.wav", rng.normal(0, 0.1, 480_000).astype(np.float32), 16_000)
    recording = Recording.from_file(folder / "noise.wav")
    spans = [(float(rng.uniform(0, 27)), float(rng.uniform(0.5, 3))) for _ in range(300)]
    cuts = [MonoCut(f"{i}", s, d, 0, [], recording=recording) for i, (s, d) in enumerate(spans)]
    save_cuts(cuts, folder / "cuts.jsonl.gz")
    return folder / "cuts.jsonl.gz"


def updates(manifest: Path, count: int, *, rank: int = 0, world: int = 1, threads: int = 1) -> Any:
    data = DataConfig(batch_seconds=40, forward_seconds=10, max_seconds=2.5, threads=threads)
    loader = CutLoader(max_seconds=2.5, cache_gb=0.01)
    part = TrainReader(Cuts.open(manifest), loader, data, seed=5, rank=rank, world=world)
    return [summary(update) for update in islice(part, count)]


def test_the_same_batches_on_any_number_of_processes_and_threads(large: Path) -> None:
    count = 30
    expected = updates(large, count)
    assert len({id_ for update in expected for ids, _ in update for id_ in ids}) == 300
    for world, threads in ((1, 4), (2, 1), (4, 3)):
        parts = [
            updates(large, count, rank=rank, world=world, threads=threads) for rank in range(world)
        ]
        for number, update in enumerate(expected):
            dealt = [parts[place % world][number][place // world] for place in range(len(update))]
            assert dealt == update


def test_resuming_anywhere_goes_on_as_if_unbroken(large: Path) -> None:
    data = DataConfig(batch_seconds=20, forward_seconds=10, max_seconds=2.5, threads=2)

    def new() -> TrainReader:
        loader = CutLoader(max_seconds=2.5)
        return TrainReader(Cuts.open(large), loader, data, seed=5, rank=0, world=1)

    states, seen, waveforms = [], [], []
    unbroken = new()
    while unbroken.epoch < 2:
        states.append(unbroken.state_dict())
        update = next(unbroken)
        seen.append(summary(update))
        waveforms.append(update[0].waveforms)
    for stop in (0, 1, len(seen) // 2 - 1, len(seen) // 2, len(seen) // 2 + 1, len(seen) - 1):
        resumed = new()
        resumed.load_state_dict(states[stop])
        update = next(resumed)
        assert summary(update) == seen[stop]
        assert torch.equal(update[0].waveforms, waveforms[stop])
        following = [summary(u) for u in islice(resumed, min(3, len(seen) - 1 - stop))]
        assert following == seen[stop + 1 : stop + 4]
