"""Self-training: a recogniser's own transcripts of untranscribed recordings as training data.

Source: Kahn et al. 2020 (arXiv 1909.09116), section 2: a recogniser decodes with a language model,
unreliable readings are left out, and a new one is trained on what was transcribed by people and by
it. Xu et al. 2020 (arXiv 2010.11430) find that this adds to pretraining: the new recogniser starts
from the pretrained encoder again. Where the first paper ranks readings by the beam's score per
token, they are ranked here by ``Hypothesis.confidence``, which the language model is no part of.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lhotse import CutSet, MonoCut, SupervisionSegment

from speechssl.data.corpus import check_output, write_splits
from speechssl.data.corpus_report import summarize
from speechssl.data.manifest import SPLITS, cuts_path, load_cuts
from speechssl.errors import ManifestError, RunFolderError
from speechssl.files import atomic_path
from speechssl.hypotheses import Hypothesis

SAME_SECONDS = 0.01
"""By how much the length of a recording may differ where it is stored in another way."""


@dataclass(frozen=True)
class Selection:
    """The readings that are kept as transcripts, most confident first, and the others."""

    kept: list[Hypothesis]
    left_out: list[Hypothesis]


def select_confident(hypotheses: Sequence[Hypothesis], keep: float) -> Selection:
    """The share ``keep`` of ``hypotheses`` with the highest confidence, empty texts never."""
    ranked = sorted(hypotheses, key=lambda h: h.confidence or 0.0, reverse=True)
    count = math.ceil(keep * len(ranked))
    kept = [h for h in ranked[:count] if h.text]
    names = {h.id for h in kept}
    return Selection(kept, [h for h in ranked if h.id not in names])


def untranscribed_cuts(data_dir: Path, transcribed_dir: Path) -> CutSet:
    """The train cuts of ``data_dir`` that no split of ``transcribed_dir`` has, without their texts.

    What ``data_dir`` knows of their texts is not looked at. Raises ``ManifestError`` if none is
    left, or the same id means recordings of different length.
    """
    taken: dict[str, MonoCut] = {}
    for split in SPLITS:
        if cuts_path(transcribed_dir, split).exists():
            taken.update((cut.id, cut) for cut in load_cuts(cuts_path(transcribed_dir, split)))
    cuts = []
    for cut in load_cuts(cuts_path(data_dir, "train")):
        known = taken.get(cut.id, cut)
        if abs(known.duration - cut.duration) > SAME_SECONDS:
            raise ManifestError(
                f"{data_dir}: the id {cut.id!r} is of {cut.duration:.2f} s of audio, in "
                f"{transcribed_dir} of {known.duration:.2f} s, so they are not the same; prepare "
                "both from the same recordings, in the same way."
            )
        if known is cut:
            cuts.append(cut)
    if not cuts:
        raise ManifestError(
            f"{data_dir}: every train cut is in {transcribed_dir} already; give the corpus with "
            "the untranscribed recordings."
        )
    return CutSet.from_cuts(_with_text(cut, None) for cut in cuts)


def write_pseudo_labelled(
    out: Path,
    transcribed_dir: Path,
    cuts: CutSet,
    selection: Selection,
    *,
    labeller: str,
    overwrite: bool = False,
) -> str:
    """Writes the corpus ``out`` to fine-tune on; returns its short report.

    Train is that of ``transcribed_dir`` and those ``cuts`` whose reading is kept, marked by
    ``custom={"pseudo_label": True, "confidence": ...}``; dev and test are those of
    ``transcribed_dir``. ``labeller`` says in the report who wrote the readings. Raises
    ``ManifestError`` if no reading is kept and ``RunFolderError`` if ``out`` holds another corpus.
    """
    if not selection.kept:
        raise ManifestError("no reading is worth keeping; train the recogniser for longer first.")
    by_id = {cut.id: cut for cut in cuts}
    train = list(load_cuts(cuts_path(transcribed_dir, "train"), need_text=True))
    train += [_with_text(by_id[h.id], h) for h in selection.kept]
    splits = {"train": train}
    for split in ("dev", "test"):
        if cuts_path(transcribed_dir, split).exists():
            splits[split] = list(load_cuts(cuts_path(transcribed_dir, split)))
    content = repr([[cut.to_dict() for cut in cuts] for cuts in splits.values()])
    fingerprint = hashlib.sha256(content.encode()).hexdigest()
    title = f"{transcribed_dir.name} with {len(selection.kept)} pseudo-labelled recordings"
    report = summarize(title, splits, fingerprint)
    report.notes.append(f"pseudo-labels by {labeller}; the least confident are left out")
    if not check_output(out, fingerprint, overwrite):
        write_splits(out, splits, report)
    return report.short()


def require_new(out: Path, overwrite: bool) -> None:
    """Raises ``RunFolderError`` if ``out`` is a file or holds a corpus that must stay."""
    if out.is_file():
        raise RunFolderError(f"{out}: is a file; name a folder for the corpus.")
    if cuts_path(out, "train").exists() and not overwrite:
        raise RunFolderError(f"{out}: holds a corpus; name another folder, or add --overwrite.")


def draw_confidences(selection: Selection, path: Path) -> None:
    """A histogram of the readings' confidences: what is kept and what is not. Writes a PNG."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    groups = [
        [h.confidence or 0.0 for h in group] for group in (selection.kept, selection.left_out)
    ]
    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    axes.hist(
        groups,
        bins=40,
        range=(0, 1),
        stacked=True,
        color=["#0072B2", "#D55E00"],
        label=[f"kept ({len(groups[0])})", f"left out ({len(groups[1])})"],
    )
    axes.set(xlabel="confidence", ylabel="recordings", title="Pseudo-labels")
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    pyplot.close(figure)


def _with_text(cut: MonoCut, reading: Hypothesis | None) -> MonoCut:
    """The cut with the text of a reading, or without any, in place of what it had."""
    known = cut.supervisions[0] if cut.supervisions else None
    marks = {"pseudo_label": True, "confidence": reading.confidence} if reading else None
    supervision = SupervisionSegment(
        id=cut.id,
        recording_id=cut.recording.id,
        start=0.0,
        duration=cut.duration,
        text=reading.text if reading else None,
        speaker=known.speaker if known else None,
        language=known.language if known else None,
        custom=marks,
    )
    copy: MonoCut = MonoCut.from_dict({**cut.to_dict(), "supervisions": [supervision.to_dict()]})
    return copy
