"""What is to be told from a recording, for each task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lhotse import MonoCut
from numpy.typing import NDArray
from tqdm import tqdm

from speechssl.data.alignments import AlignedUnit, aligned_units, unit_at
from speechssl.data.index import Cuts
from speechssl.data.manifest import cut_text
from speechssl.decoding.alignment import align
from speechssl.decoding.transcriber import Transcriber
from speechssl.decoding.words import to_words
from speechssl.errors import AudioError, ManifestError, TokensError
from speechssl.extraction import extract

UtteranceTask = Literal["speaker", "language", "keyword"]

NO_KEYWORD = "(none)"
"""The label of an utterance with none of the keywords."""


@dataclass(frozen=True)
class Labelled:
    """A cut and what is to be told from it."""

    place: int
    """Where it is among the cuts of its manifest."""

    cut_id: str

    speaker: str | None

    labels: tuple[str, ...]
    """One for the whole cut, or one for each of ``frames``."""

    frames: NDArray[np.int64] | None = None
    """[len(labels)] frames of the cut; None if the label is that of the whole cut."""


def label_utterances(
    cuts: Cuts, task: UtteranceTask, keywords: Sequence[str] = ()
) -> list[Labelled]:
    """The cuts that have a label, with it. Raises ``ManifestError`` if none has.

    - speaker, language: that of the supervisions, where all of a cut say the same
    - keyword: the whole transcript; with ``keywords`` (words or phrases) the one that stands in
      the transcript, or ``NO_KEYWORD``; an utterance that has several is left out
    """
    found = []
    wanted = list(dict.fromkeys(map(_spaced, keywords)))
    for place, cut in enumerate(tqdm(cuts, desc="labels", unit="cut", delay=2, disable=None)):
        label = _keyword(cut_text(cut), wanted) if task == "keyword" else _agreed(cut, task)
        if label is not None:
            found.append(Labelled(place, cut.id, _agreed(cut, "speaker"), (label,)))
    if not found:
        missing = "transcript" if task == "keyword" else task
        raise ManifestError(
            f"{cuts.path}: no cut has a {missing}; prepare the corpus with {missing}s, or choose "
            "another --task."
        )
    return found


def repeated(items: Sequence[Labelled], path: Path) -> list[Labelled]:
    """The utterances whose label others have too: one alone can only be learned or tested.

    Raises ``ManifestError`` if there are none; ``path`` is that of the cuts.
    """
    counts = Counter(item.labels for item in items)
    kept = [item for item in items if counts[item.labels] > 1]
    if not kept:
        raise ManifestError(
            f"{path}: no two cuts have the same label, so there is nothing to learn; where "
            "transcripts are sentences, choose words of them with --keywords."
        )
    return kept


def label_frames(
    cuts: Cuts, places: NDArray[np.int64], aligner: Transcriber | None
) -> list[Labelled]:
    """The frames of the cuts at ``places`` that belong to a phone, or to a character.

    Phones are those of the cuts' ``phone`` alignments; with an ``aligner``, characters are those
    of the transcript at the times where the recogniser writes them. Frames between words have no
    label then. Raises ``ManifestError`` if no frame has a label.
    """
    chosen: list[int] = places.tolist()
    if aligner is None:
        units = {place: list(aligned_units(cuts[place], "phone")) for place in chosen}
    else:
        units = _align(cuts, chosen, aligner)
    lengths = cuts.frames
    found = []
    for place, parts in units.items():
        spans = [np.arange(unit.first, min(unit.stop, lengths[place])) for unit in parts]
        labels = [unit.symbol for unit, span in zip(parts, spans) for _ in span]
        if labels:
            cut = cuts[place]
            frames = np.concatenate(spans)
            found.append(Labelled(place, cut.id, _agreed(cut, "speaker"), tuple(labels), frames))
    if not found:
        what = "phone alignments" if aligner is None else "transcripts that fit its audio"
        raise ManifestError(
            f"{cuts.path}: no cut has {what}; give --aligner MODEL, a recogniser, to probe for the "
            "characters of the transcripts."
        )
    return found


def _align(cuts: Cuts, places: list[int], aligner: Transcriber) -> dict[int, list[AlignedUnit]]:
    """The characters of each transcript, at the times that CTC forced alignment finds.

    Transcripts that do not fit into their audio are left out.
    """
    selected = cuts.select(places)
    place_of = dict(zip(selected.ids(), places))
    units: dict[int, list[AlignedUnit]] = {}
    for ids, recordings in extract(selected, aligner.log_probs, "alignment"):
        for cut_id, log_probs in zip(ids, recordings):
            place = place_of[cut_id]
            text = cut_text(cuts[place])
            if text is None:
                continue
            try:
                spans = align(log_probs, aligner.tokens.encode(text))
            except TokensError as error:
                raise TokensError(f"cut {cut_id!r}: {error}") from None
            except AudioError:
                continue
            units[place] = [
                unit_at(symbol.text, symbol.start, symbol.end)
                for word in to_words(spans, aligner.tokens, num_frames=len(log_probs))
                for symbol in word.symbols
            ]
    return dict(sorted(units.items()))


def _agreed(cut: MonoCut, field: str) -> str | None:
    """What all supervisions of the cut say about a field; None if they differ or say nothing."""
    values: set[Any] = {getattr(supervision, field) for supervision in cut.supervisions}
    value = values.pop() if len(values) == 1 else None
    return str(value) if value else None


def _keyword(text: str | None, keywords: Sequence[str]) -> str | None:
    """The label of a transcript; see ``label_utterances``. ``keywords`` are ``_spaced``."""
    if text is None or not keywords:
        return text
    present = [keyword for keyword in keywords if keyword in _spaced(text)]
    if len(present) > 1:
        return None
    return present[0].strip() if present else NO_KEYWORD


def _spaced(text: str) -> str:
    """The words of ``text`` with a space before, between and after them."""
    return f" {' '.join(text.casefold().split())} "
