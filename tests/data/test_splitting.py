from __future__ import annotations

from pathlib import Path

import pytest

from speechssl.data.splitting import complete_splits, split_by_speaker
from speechssl.data.utterance import Utterance


def cues(recordings: int, each: int = 10) -> list[Utterance]:
    """Transcribed parts of long recordings."""
    return [
        Utterance(f"r{r}-{i}", Path("absent.wav"), "text", start=float(i), recording=f"r{r}")
        for r in range(recordings)
        for i in range(each)
    ]


def test_the_parts_of_a_recording_stay_together() -> None:
    splits, how = split_by_speaker(cues(20), dev=0.1, test=0.1)
    held = {split: {u.recording for u in part} for split, part in splits.items()}
    assert [len(held[split]) for split in ("train", "dev", "test")] == [16, 2, 2]
    assert not held["train"] & (held["dev"] | held["test"])
    assert "by recording" in how


def test_few_long_recordings_are_divided_by_utterance() -> None:
    splits, how = split_by_speaker(cues(2), dev=0.1, test=0.1)
    assert [len(splits[split]) for split in ("train", "dev", "test")] == [16, 2, 2]
    assert "by utterance (there are 2 recordings)" in how


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        (("train", "dev", "test"), [20, 20, 20]),
        (("train", "test"), [18, 2, 20]),
        (("train",), [16, 2, 2]),
        (("dev",), [0, 20, 0]),
    ],
)
def test_splits_of_the_corpus_are_kept(given: tuple[str, ...], sizes: list[int]) -> None:
    offered = [
        Utterance(f"{split}-{i}", Path("absent.wav"), "text", split=split)
        for split in given
        for i in range(20)
    ]
    splits, notes = complete_splits(offered, dev=0.1, test=0.1)
    assert [len(splits[split]) for split in ("train", "dev", "test")] == sizes
    for split in {"dev", "test"} & set(given):
        assert {u.split for u in splits[split]} == {split}
    assert notes[0] == f"splits: {' and '.join(given)} as the corpus has them"
    assert len(notes) == (1 if len(given) == 3 else 2)
