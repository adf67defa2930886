from __future__ import annotations

import numpy as np
import pytest
import torch

from speechssl.data.batch import PADDING_TARGET, batches_by_length, collate, fill_batches
from speechssl.data.text import BLANK


def test_recordings_and_what_belongs_to_them_are_padded() -> None:
    batch = collate(
        [torch.full((800,), 0.5), torch.full((400,), 0.25)],
        ids=["long", "short"],
        seed=3,
        targets=[torch.tensor([7, 0]), torch.tensor([5])],
        tokens=[[2], [3, 3, 4]],
        texts=["a", "bbc"],
    )
    assert batch.waveforms.tolist() == [[0.5] * 800, [0.25] * 400 + [0.0] * 400]
    assert batch.lengths.tolist() == [800, 400]
    assert (batch.ids, batch.seed, batch.texts) == (["long", "short"], 3, ["a", "bbc"])
    assert batch.targets is not None
    assert batch.targets.tolist() == [[7, 0], [5, PADDING_TARGET]]
    assert PADDING_TARGET < 0, "no cluster's number"
    assert batch.tokens is not None
    assert batch.tokens.tolist() == [[2, BLANK, BLANK], [3, 3, 4]]
    assert batch.token_lengths is not None
    assert batch.token_lengths.tolist() == [1, 3]
    assert batch.ctc_frames is not None
    assert batch.ctc_frames.tolist() == [1, 4], "equal neighbours need a blank between them"
    assert batch.audio_seconds == 1200 / 16_000
    assert batch.padding_share == pytest.approx(0.25)


def test_without_targets_and_transcripts_there_are_none() -> None:
    batch = collate([torch.zeros(400)])
    assert (batch.targets, batch.tokens, batch.token_lengths, batch.ctc_frames) == (None,) * 4
    assert (batch.ids, batch.texts, batch.padding_share) == (["0"], [], 0.0)


def test_it_moves_what_is_computed_with() -> None:
    batch = collate([torch.zeros(400)], targets=[torch.tensor([1])], tokens=[[2]])
    batch.to(torch.device("meta"))
    assert batch.tokens is not None
    assert batch.targets is not None
    assert {batch.waveforms.device.type, batch.tokens.device.type} == {"meta"}
    assert {batch.lengths.device.type, batch.targets.device.type} == {"cpu"}


def test_a_cut_that_fills_a_batch_is_one_by_itself() -> None:
    batches = fill_batches(np.array([9.0, 30.0, 1.0, 4.0]), np.array([1, 0, 3, 2]), 10.0)
    assert [batch.tolist() for batch in batches] == [[1], [0], [3, 2]]


def test_a_batch_may_be_full_and_counts_its_own_longest() -> None:
    seconds = np.array([1.0, 5.0, 2.0, 5.0, 8.0])
    assert [batch.tolist() for batch in batches_by_length(seconds, 10.0)] == [[4], [1, 3], [2, 0]]
    rising = np.array([2.0, 2.0, 3.0, 9.0, 4.0, 4.0])
    batches = fill_batches(rising, np.arange(6), 8.0)
    assert [batch.tolist() for batch in batches] == [[0, 1], [2], [3], [4, 5]]
