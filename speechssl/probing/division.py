"""Which recordings a probe learns from, and which it is tested on: always the same ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from speechssl.data.splitting import hold_out
from speechssl.errors import ManifestError
from speechssl.probing.labels import Labelled

TEST_SHARE = 0.2
"""Share of speakers or utterances that is held out where no test cuts are given."""

_CAVEATS = {
    "language": ", so a voice may give its language away",
    "keyword": ", so a voice may be on both sides",
    "phone": ", so a voice may be on both sides",
    "clusters": ", so a voice may be on both sides",
}
"""What to think of when utterances are held out, not speakers."""


@dataclass(frozen=True)
class Division:
    """What to learn from and what to test on."""

    train: list[Labelled]
    test: list[Labelled]
    how: str
    """Says who is held out, for the report."""


def divide(items: Sequence[Labelled], task: str) -> Division:
    """Holds out a fifth of the speakers, or of the utterances where that cannot be.

    - speaker: a fifth of each speaker's utterances
    - language: a fifth of each language's speakers; utterances of each language if a speaker is
      unknown or a language has only one
    - keyword, phone: a fifth of all speakers; utterances (of each keyword) if a speaker is unknown
      or there is only one

    Who is held out follows from hashes of names (``hold_out``). Raises ``ManifestError`` if
    nothing can be held out.
    """
    whole = items[0].frames is None
    by_label = task in ("speaker", "language")
    if task != "speaker" and all(item.speaker for item in items):
        speakers = _groups(
            (item.labels[0] if by_label else "", item.speaker or "") for item in items
        )
        if min(map(len, speakers.values())) > 1:
            tested = _hold_out(speakers)
            count = len(set().union(*speakers.values()))
            how = f"by speaker: {len(tested)} of {count} speakers are held out"
            return _divided(items, [item.speaker in tested for item in items], how)
    tested = _hold_out(_groups((item.labels[0] if whole else "", item.cut_id) for item in items))
    what = f" of each {task}" if whole else ""
    how = f"by utterance: a fifth{what} is held out{_CAVEATS.get(task, '')}"
    return _divided(items, [item.cut_id in tested for item in items], how)


def given(train: Sequence[Labelled], test: Sequence[Labelled], task: str) -> Division:
    """``test`` as it is; what is in both is not learned from.

    Raises ``ManifestError`` if then there is nothing to learn or to test.
    """
    tested = {item.cut_id for item in test}
    unheard = [item for item in train if item.cut_id not in tested]
    if not unheard:
        raise ManifestError(
            "all cuts to learn from are test cuts too; leave --test out, and a part of the cuts is "
            "held out."
        )
    how = "test cuts as given"
    if len(unheard) < len(train):
        how += f" ({len(train) - len(unheard)} that are in both are not learned from)"
    if any(item.speaker for item in test if item.speaker in {item.speaker for item in unheard}):
        how += _CAVEATS.get(task, "")
    return _comparable(unheard, test, how)


def draw_division(division: Division, count: int, seed: int) -> Division:
    """At most ``count`` examples on either side, see ``draw_examples``.

    Raises ``ManifestError`` if what is drawn has nothing to learn or to test.
    """
    train, test = (draw_examples(items, count, seed) for items in (division.train, division.test))
    return _comparable(train, test, division.how)


def _comparable(train: list[Labelled], test: Sequence[Labelled], how: str) -> Division:
    """``test`` without labels that cannot be learned from ``train``.

    Raises ``ManifestError`` if no label is left.
    """
    known = {label for item in train for label in item.labels}
    if len(known) < 2:
        raise ManifestError(
            f"all that can be learned from has one label, {min(known)!r}; there is nothing to tell "
            "apart."
        )
    kept = [_only(item, known) for item in test]
    tested = [item for item in kept if item.labels]
    if not tested:
        raise ManifestError(
            "no label is both in the training and in the test cuts; leave --test out, and a part "
            "of the cuts is held out."
        )
    return Division(train, tested, how)


def draw_examples(items: list[Labelled], count: int, seed: int) -> list[Labelled]:
    """At most ``count`` examples (utterances or frames) of ``items``, drawn evenly."""
    ends = np.cumsum([len(item.labels) for item in items])
    if ends[-1] <= count:
        return items
    drawn = np.sort(np.random.default_rng(seed).choice(ends[-1], count, replace=False))
    owners = np.searchsorted(ends, drawn, side="right")
    drawn -= np.concatenate([[0], ends])[owners]
    firsts = np.flatnonzero(np.diff(owners, prepend=-1))
    return [
        _pick(items[owner], places)
        for owner, places in zip(owners[firsts].tolist(), np.split(drawn, firsts[1:]))
    ]


def _groups(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """The names of each group, from (group, name)."""
    groups: dict[str, set[str]] = defaultdict(set)
    for group, name in pairs:
        groups[group].add(name)
    return groups


def _hold_out(groups: dict[str, set[str]]) -> set[str]:
    """A fifth of each group, at least one name, but none of a group of one."""
    chosen: set[str] = set()
    for names in groups.values():
        if len(names) > 1:
            chosen |= hold_out(names, max(TEST_SHARE, 1 / len(names)))
    return chosen


def _divided(items: Sequence[Labelled], tested: Sequence[bool], how: str) -> Division:
    train = [item for item, held in zip(items, tested) if not held]
    test = [item for item, held in zip(items, tested) if held]
    if not train or not test:
        raise ManifestError(
            f"{len(items)} cuts with labels are too few to hold some out; give more cuts, or "
            "others with --test."
        )
    return _comparable(train, test, how)


def _only(item: Labelled, known: set[str]) -> Labelled:
    """``item`` with the labels that are ``known``."""
    return _pick(item, np.flatnonzero([label in known for label in item.labels]))


def _pick(item: Labelled, places: NDArray[np.int64]) -> Labelled:
    """``item`` with some of its labels (and their frames)."""
    labels = tuple(item.labels[place] for place in places)
    frames = None if item.frames is None else item.frames[places]
    return replace(item, labels=labels, frames=frames)
