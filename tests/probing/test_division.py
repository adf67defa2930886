from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from speechssl.errors import ManifestError
from speechssl.probing.division import divide, draw_division, draw_examples, given
from speechssl.probing.labels import Labelled


def said(labels: list[str], speakers: list[str | None]) -> list[Labelled]:
    """An utterance for each label and speaker."""
    return [
        Labelled(place, f"cut-{place}", speaker, (label,))
        for place, (label, speaker) in enumerate(zip(labels, speakers, strict=True))
    ]


def frames(counts: list[int]) -> list[Labelled]:
    """Cuts with so many labelled frames each; the label says where the frame is."""
    return [
        Labelled(place, f"cut-{place}", None, tuple(f"{place}/{i}" for i in range(n)), np.arange(n))
        for place, n in enumerate(counts)
    ]


def other(items: list[Labelled]) -> list[Labelled]:
    """The same of another manifest."""
    return [replace(item, cut_id=f"other-{item.cut_id}") for item in items]


def voices(items: list[Labelled]) -> set[str | None]:
    return {item.speaker for item in items}


def test_some_of_what_each_speaker_says_is_held_out() -> None:
    counts = [2, 3, 10, 25, 1]
    speakers = [f"s{number}" for number, count in enumerate(counts) for _ in range(count)]
    division = divide(said(speakers, list(speakers)), "speaker")
    held_out = Counter(item.speaker for item in division.test)
    assert held_out == {"s0": 1, "s1": 1, "s2": 2, "s3": 5}
    heard = Counter(item.speaker for item in division.train)
    assert heard == {"s0": 1, "s1": 2, "s2": 8, "s3": 20, "s4": 1}
    assert "by utterance: a fifth of each speaker" in division.how


@pytest.mark.parametrize("task", ["keyword", "phone"])
def test_speakers_are_held_out(task: str) -> None:
    speakers: list[str | None] = [f"s{number % 20}" for number in range(200)]
    division = divide(said(["yes", "no"] * 100, speakers), task)
    assert not voices(division.train) & voices(division.test)
    assert len(voices(division.test)) == 4
    assert division.how == "by speaker: 4 of 20 speakers are held out"


def test_speakers_of_each_language_are_held_out() -> None:
    languages = [language for language in ("de", "en", "sw") for _ in range(12)]
    speakers: list[str | None] = [f"{code}{n % 4}" for n, code in enumerate(languages)]
    division = divide(said(languages, speakers), "language")
    assert not voices(division.train) & voices(division.test)
    assert Counter(item.labels[0] for item in division.test) == {"de": 3, "en": 3, "sw": 3}


def test_utterances_are_held_out_where_speakers_cannot_be() -> None:
    languages = ["de"] * 10 + ["en"] * 10
    for speakers in (["a"] * 10 + ["b", "c"] * 5, [None, *["a", "b"] * 9, "a"]):
        division = divide(said(languages, speakers), "language")
        assert Counter(item.labels[0] for item in division.test) == {"de": 2, "en": 2}
        assert "by utterance" in division.how
        assert "a voice may give its language away" in division.how
    division = divide(said(["yes", "no"] * 10, ["a"] * 20), "keyword")
    assert Counter(item.labels[0] for item in division.test) == {"yes": 2, "no": 2}
    assert "a voice may be on both sides" in division.how


def test_the_division_does_not_depend_on_the_order() -> None:
    speakers: list[str | None] = [f"s{number % 9}" for number in range(90)]
    items = said(["yes", "no", "go"] * 30, speakers)
    first, again = divide(items, "keyword"), divide(items[::-1], "keyword")
    assert voices(first.test) == voices(again.test)


def test_what_cannot_be_learned_is_not_tested() -> None:
    train = said(["yes", "no"], ["a", "b"])
    division = given(train, other(said(["no", "maybe"], ["c", "d"])), "keyword")
    assert [item.labels for item in division.test] == [("no",)]
    known = frames([3, 2])
    asked = Labelled(0, "x", None, ("1/1", "?", "0/2"), np.array([7, 8, 9]))
    part = given(known, [asked], "phone").test[0]
    assert part.labels == ("1/1", "0/2")
    assert part.frames is not None
    assert part.frames.tolist() == [7, 9]


def test_what_is_in_both_is_not_learned_from() -> None:
    items = said(["yes", "no"] * 5, [*"abcdefghij"])
    division = given(items, items[:4], "keyword")
    assert [item.place for item in division.train] == [4, 5, 6, 7, 8, 9]
    assert division.how == "test cuts as given (4 that are in both are not learned from)"
    with pytest.raises(ManifestError, match="all cuts to learn from are test cuts too"):
        given(items, items, "keyword")
    heard = given(items, other(items[:4]), "phone").how
    assert heard == "test cuts as given, so a voice may be on both sides"
    assert given(items, other(items[:4]), "speaker").how == "test cuts as given"


def test_what_is_drawn_must_differ() -> None:
    division = divide(said(["yes", "no"] * 30, [None] * 60), "keyword")
    assert len(draw_division(division, 40, seed=0).train) == 40
    with pytest.raises(ManifestError, match=r"one label, '\w+'; there is nothing to tell apart"):
        draw_division(division, 1, seed=0)


def test_too_little_to_divide() -> None:
    with pytest.raises(ManifestError, match="no label is both in the training and in the test"):
        given(said(["yes", "no"], ["a", "b"]), other(said(["maybe"], ["c"])), "keyword")
    with pytest.raises(ManifestError, match="one label, 'en'; there is nothing to tell apart"):
        divide(said(["en"] * 9, ["a", "b", "c"] * 3), "language")
    with pytest.raises(ManifestError, match="1 cuts with labels are too few to hold some out"):
        divide(said(["yes"], ["a"]), "keyword")


def test_examples_are_drawn_evenly() -> None:
    items = frames([40, 0, 1000, 160])
    drawn = draw_examples(items, 300, seed=0)
    assert sum(len(item.labels) for item in drawn) == 300
    for item in drawn:
        assert item.frames is not None
        assert item.labels == tuple(f"{item.place}/{frame}" for frame in item.frames)
        assert (np.diff(item.frames) > 0).all()
    counts = {item.place: len(item.labels) for item in drawn}
    assert counts.get(1) is None
    assert abs(counts[2] - 250) < 4 * np.sqrt(300 * 0.83 * 0.17)
    assert draw_examples(items, 1200, seed=0) == items
    utterances = said(["yes", "no"] * 50, [None] * 100)
    kept = draw_examples(utterances, 30, seed=0)
    assert len(kept) == 30
    assert all(item == utterances[item.place] for item in kept)
    assert kept != draw_examples(utterances, 30, seed=1)
