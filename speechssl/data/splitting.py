"""Dividing a corpus into train, dev and test: always the same way, by hashes of names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from speechssl.data.manifest import SPLITS
from speechssl.data.utterance import Utterance

Item = TypeVar("Item")

MIN_SPEAKERS = 10
"""Fewer speakers than this are not divided among the splits: too much would be held out. Nor are
fewer recordings, where each holds many utterances."""


def hash_fraction(key: str) -> float:
    """A number in [0, 1) that depends on nothing but ``key`` (its SHA-256)."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:7], "big") / 2**56


def split_of(key: str, *, dev: float, test: float) -> str:
    """The split of ``key``: always the same, test and dev with these probabilities."""
    place = hash_fraction(key)
    return "test" if place < test else "dev" if place < test + dev else "train"


def split_by_key(
    items: Iterable[Item], key: Callable[[Item], str], *, dev: float, test: float
) -> dict[str, list[Item]]:
    """Divides ``items``, those with equal keys together, by the hash of the key."""
    splits: dict[str, list[Item]] = {split: [] for split in SPLITS}
    for item in items:
        splits[split_of(key(item), dev=dev, test=test)].append(item)
    return splits


def hold_out(keys: Iterable[str], share: float) -> set[str]:
    """About ``share`` of the distinct ``keys``, chosen by their hashes: always the same ones."""
    ordered = sorted(set(keys), key=hash_fraction)
    return set(ordered[: round(share * len(ordered))])


def split_by_speaker(
    utterances: Sequence[Utterance], *, dev: float, test: float
) -> tuple[dict[str, list[Utterance]], str]:
    """Divides ``utterances`` so that no speaker is in two splits, and says how it was done.

    Dev and test are ``dev`` and ``test`` of the speakers who have transcripts (of all, if there
    are no transcripts). Where a speaker is unknown, or there are fewer than ``MIN_SPEAKERS``,
    recordings are divided instead; where there are fewer recordings than that, utterances are.
    Returns the splits and a sentence for the report.
    """
    offered = [utterance for utterance in utterances if utterance.text] or utterances
    speakers = {utterance.speaker for utterance in offered if utterance.speaker}
    recordings = {utterance.recording or utterance.id for utterance in offered}
    if len(speakers) >= MIN_SPEAKERS and all(u.speaker for u in utterances):
        how = "splits: by speaker, none is in two splits"

        def key(utterance: Utterance) -> str:
            return utterance.speaker or ""

    elif len(recordings) >= min(MIN_SPEAKERS, len(offered)):
        why = f"{len(speakers)} speakers are known" if speakers else "no speakers are known"
        how = f"splits: by recording ({why}), so a voice may be in more than one split"

        def key(utterance: Utterance) -> str:
            return utterance.recording or utterance.id

    else:
        how = (
            f"splits: by utterance (there are {len(recordings)} recordings), so a recording may "
            "be in more than one split"
        )

        def key(utterance: Utterance) -> str:
            return utterance.id

    keys = {key(utterance) for utterance in offered}
    tested = hold_out(keys, test)
    developed = hold_out(keys - tested, dev / (1 - test))
    splits: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
    for utterance in utterances:
        place = key(utterance)
        split = "test" if place in tested else "dev" if place in developed else "train"
        splits[split].append(utterance)
    return splits, how


def complete_splits(
    utterances: Sequence[Utterance], *, dev: float, test: float
) -> tuple[dict[str, list[Utterance]], list[str]]:
    """The splits that the corpus itself has; dev and test that it lacks are drawn from the rest.

    What the corpus puts into no split is divided as ``split_by_speaker`` does, with the shares
    ``dev`` and ``test``; so is its train split where it has no dev, or no test. Returns the splits
    and sentences for the report.
    """
    given = {utterance.split for utterance in utterances if utterance.split}
    rest = [utterance for utterance in utterances if utterance.split in (None, "train")]
    splits, how = split_by_speaker(
        rest,
        dev=0.0 if "dev" in given else dev,
        test=0.0 if "test" in given else test,
    )
    for utterance in utterances:
        if utterance.split in ("dev", "test"):
            splits[utterance.split].append(utterance)
    if not given:
        return splits, [how]
    named = " and ".join(split for split in SPLITS if split in given)
    notes = [f"splits: {named} as the corpus has them"]
    if not {"dev", "test"} <= given:
        notes.append(f"what is not among them: {how}")
    return splits, notes
