from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lhotse.supervision import AlignmentItem

from speechssl.data.index import Cuts
from speechssl.data.manifest import cuts_path, load_cuts, save_cuts
from speechssl.decoding.transcriber import Transcriber
from speechssl.errors import ManifestError
from speechssl.probing.labels import label_frames, label_utterances, repeated
from tests.probing.parts import aligned_cuts


def test_speaker_and_language(corpus: Path) -> None:
    cuts = Cuts.open(cuts_path(corpus, "train"))
    items = label_utterances(cuts, "speaker")
    assert [item.labels[0] for item in items] == [cut.supervisions[0].speaker for cut in cuts]
    assert [item.cut_id for item in items] == list(cuts.ids())
    assert {item.labels for item in label_utterances(cuts, "language")} == {("en",)}


def test_cuts_without_one_clear_label_are_left_out(corpus_copy: Path) -> None:
    path = cuts_path(corpus_copy, "dev")
    one, two, *others = load_cuts(path)
    one.supervisions[0].speaker = None
    stranger = two.supervisions[0].with_offset(0.1)
    stranger.speaker = "carla"
    two.supervisions.append(stranger)
    save_cuts([one, two, *others], path)
    items = label_utterances(Cuts.open(path), "speaker")
    assert [item.cut_id for item in items] == [cut.id for cut in others]
    assert [item.place for item in items] == [2, 3]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("yes", "yes"),
        ("Yes please", "yes"),
        ("yesterday", "(none)"),
        ("please go back now", "go back"),
        ("yes go back", None),
        (None, None),
    ],
)
def test_keywords(corpus_copy: Path, text: str | None, label: str | None) -> None:
    path = cuts_path(corpus_copy, "dev")
    cut, other, *_ = load_cuts(path)
    cut.supervisions[0].text = text
    other.supervisions[0].text = "no"
    save_cuts([cut, other], path)
    items = label_utterances(Cuts.open(path), "keyword", ["yes", "go  back", "no"])
    assert [item.labels for item in items] == [(label,)] * (label is not None) + [("no",)]


def test_transcripts_as_keywords_must_repeat(corpus: Path) -> None:
    path = cuts_path(corpus, "train")
    items = label_utterances(Cuts.open(path), "keyword")
    assert [item.labels[0] for item in items] == list(Cuts.open(path).texts())
    with pytest.raises(ManifestError, match="--keywords"):
        repeated(items, path)
    assert repeated([items[0], items[1], items[0]], path) == [items[0], items[0]]


def test_no_labels_at_all(corpus_copy: Path) -> None:
    path = cuts_path(corpus_copy, "dev")
    cuts = list(load_cuts(path))
    for cut in cuts:
        cut.supervisions[0].language = None
    save_cuts(cuts, path)
    with pytest.raises(ManifestError, match="no cut has a language; prepare the corpus with"):
        label_utterances(Cuts.open(path), "language")
    with pytest.raises(ManifestError, match="no cut has phone alignments; give --aligner"):
        label_frames(Cuts.open(path), np.arange(len(cuts)), None)


def test_frames_of_phones(corpus_copy: Path) -> None:
    path = aligned_cuts(cuts_path(corpus_copy, "dev"))
    cuts = Cuts.open(path)
    item, *others = label_frames(cuts, np.array([1, 3]), None)
    assert [other.place for other in others] == [3]
    assert item.place == 1
    text = cuts[1].supervisions[0].text
    assert item.labels == tuple(letter for letter in text for _ in range(4))
    assert item.frames is not None
    assert item.frames.tolist() == list(range(4, 4 + 4 * len(text)))


def test_an_alignment_longer_than_its_audio(corpus_copy: Path) -> None:
    path = cuts_path(corpus_copy, "dev")
    cut = next(iter(load_cuts(path)))
    items = [AlignmentItem("a", 0.1, 100.0), AlignmentItem("b", 100.1, 1.0)]
    cut.supervisions[0] = cut.supervisions[0].with_alignment("phone", items)
    save_cuts([cut], path)
    cuts = Cuts.open(path)
    (item,) = label_frames(cuts, np.array([0]), None)
    assert set(item.labels) == {"a"}
    assert item.frames is not None
    assert item.frames.tolist() == list(range(5, cuts.frames[0]))


def test_characters_of_a_recogniser(corpus: Path, recogniser: Path) -> None:
    cuts = Cuts.open(cuts_path(corpus, "dev"))
    items = label_frames(cuts, np.array([0, 2]), Transcriber(recogniser))
    assert [item.place for item in items] == [0, 2]
    for item in items:
        said, before = "", None
        assert item.frames is not None
        assert (np.diff(item.frames) > 0).all()
        for label in item.labels:
            said += label * (label != before)
            before = label
        text = cuts[item.place].supervisions[0].text.replace(" ", "")
        assert said == "".join(b for a, b in zip(" " + text, text) if a != b)


def test_transcripts_that_do_not_fit_their_audio_are_left_out(
    corpus_copy: Path, recogniser: Path
) -> None:
    path = cuts_path(corpus_copy, "dev")
    cuts = list(load_cuts(path))
    cuts[0].supervisions[0].text = "abcdefgh" * 50
    cuts[1].supervisions[0].text = None
    save_cuts(cuts, path)
    items = label_frames(Cuts.open(path), np.arange(len(cuts)), Transcriber(recogniser))
    assert [item.place for item in items] == [2, 3]
