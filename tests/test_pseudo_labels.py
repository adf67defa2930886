import dataclasses

import pytest

from speechssl.data.manifest import cut_text, cuts_path, load_cuts, save_cuts
from speechssl.errors import ManifestError, RunFolderError
from speechssl.hypotheses import Hypothesis
from speechssl.pseudo_labels import (
    Selection,
    draw_confidences,
    require_new,
    select_confident,
    untranscribed_cuts,
    write_pseudo_labelled,
)


@pytest.fixture
def transcribed(corpus, tmp_path):
    """A corpus with the first five train recordings, and dev and test, of ``corpus``."""
    folder = tmp_path / "transcribed"
    for split, count in (("train", 5), ("dev", 4), ("test", 4)):
        cuts_path(folder, split).parent.mkdir(parents=True)
        save_cuts(list(load_cuts(cuts_path(corpus, split)))[:count], cuts_path(folder, split))
    return folder


def readings(*confidences: float) -> list[Hypothesis]:
    return [Hypothesis(f"u{i}", "ada", confidence=c) for i, c in enumerate(confidences)]


def test_the_most_confident_are_kept():
    selection = select_confident(readings(0.2, 0.9, 0.5, 0.7), keep=0.5)
    assert [h.id for h in selection.kept] == ["u1", "u3"]
    assert [h.id for h in selection.left_out] == ["u2", "u0"]


def test_an_empty_reading_is_no_transcript():
    heard = [*readings(0.4), Hypothesis("silent", "", confidence=0.0)]
    selection = select_confident(heard, keep=1.0)
    assert [h.id for h in selection.kept] == ["u0"]
    assert [h.id for h in selection.left_out] == ["silent"]


def test_recordings_without_their_texts(corpus, transcribed):
    cuts = list(untranscribed_cuts(corpus, transcribed))
    everything = [cut.id for cut in load_cuts(cuts_path(corpus, "train"))]
    assert [cut.id for cut in cuts] == everything[5:]
    assert {cut_text(cut) for cut in cuts} == {None}
    assert {cut.supervisions[0].speaker for cut in cuts} == {"anna", "boris"}
    assert {cut.supervisions[0].language for cut in cuts} == {"en"}


def test_held_out_recordings_are_never_labelled(corpus, transcribed):
    """A corpus that was split again may have dev's recordings in train."""
    dev = list(load_cuts(cuts_path(corpus, "dev")))
    cuts_path(transcribed, "train").unlink()
    save_cuts(load_cuts(cuts_path(corpus, "train")), cuts_path(transcribed, "train"))
    mixed = transcribed.parent / "mixed"
    cuts_path(mixed, "train").parent.mkdir(parents=True)
    save_cuts(dev, cuts_path(mixed, "train"))
    with pytest.raises(ManifestError, match="untranscribed recordings"):
        untranscribed_cuts(mixed, transcribed)


def test_one_id_of_two_recordings_is_refused(corpus, transcribed):
    """It would keep one of them from being labelled, and the other from being held out."""
    path = cuts_path(transcribed, "dev")
    first, *others = load_cuts(path)
    train = list(load_cuts(cuts_path(corpus, "train")))
    assert train[7].duration != first.duration
    save_cuts([dataclasses.replace(first, id=train[7].id), *others], path)
    with pytest.raises(ManifestError, match=f"the id '{train[7].id}' is of .* not the same"):
        untranscribed_cuts(corpus, transcribed)


def test_the_corpus_to_train_on(corpus, transcribed, tmp_path):
    out = tmp_path / "pseudo"
    cuts = untranscribed_cuts(corpus, transcribed)
    heard = [Hypothesis(cut.id, "haha", confidence=0.75) for cut in cuts]
    selection = Selection(heard[:3], heard[3:])
    report = write_pseudo_labelled(out, transcribed, cuts, selection, labeller="model")
    assert "3 pseudo-labelled" in report
    train = list(load_cuts(cuts_path(out, "train"), need_text=True))
    assert train[:5] == list(load_cuts(cuts_path(transcribed, "train")))
    assert [cut_text(cut) for cut in train[5:]] == ["haha"] * 3
    assert train[5].supervisions[0].custom == {"pseudo_label": True, "confidence": 0.75}
    assert train[5].recording == next(iter(cuts)).recording
    for split in ("dev", "test"):
        assert cuts_path(out, split).read_bytes() == cuts_path(transcribed, split).read_bytes()
    with pytest.raises(RunFolderError, match="--overwrite"):
        require_new(out, overwrite=False)
    with pytest.raises(RunFolderError, match="another corpus"):
        write_pseudo_labelled(out, transcribed, cuts, Selection(heard, []), labeller="model")


def test_other_held_out_recordings_make_another_corpus(corpus, transcribed, tmp_path):
    out = tmp_path / "pseudo"
    cuts = untranscribed_cuts(corpus, transcribed)
    selection = Selection([Hypothesis(cut.id, "haha", confidence=0.75) for cut in cuts], [])
    write_pseudo_labelled(out, transcribed, cuts, selection, labeller="model")
    fewer = list(load_cuts(cuts_path(transcribed, "dev")))[1:]
    save_cuts(fewer, cuts_path(transcribed, "dev"))
    write_pseudo_labelled(out, transcribed, cuts, selection, labeller="model", overwrite=True)
    assert list(load_cuts(cuts_path(out, "dev"))) == fewer


def test_what_people_transcribed_must_be_transcribed(corpus, transcribed, tmp_path):
    path = cuts_path(transcribed, "train")
    first, *others = load_cuts(path)
    save_cuts([dataclasses.replace(first, supervisions=[]), *others], path)
    cuts = untranscribed_cuts(corpus, transcribed)
    heard = Selection([Hypothesis(cut.id, "haha", confidence=0.75) for cut in cuts], [])
    with pytest.raises(ManifestError, match=f"cut '{first.id}' has no transcript"):
        write_pseudo_labelled(tmp_path / "x", transcribed, cuts, heard, labeller="model")


def test_nothing_worth_keeping(corpus, transcribed, tmp_path):
    cuts = untranscribed_cuts(corpus, transcribed)
    with pytest.raises(ManifestError, match="no reading is worth keeping"):
        write_pseudo_labelled(tmp_path / "x", transcribed, cuts, Selection([], []), labeller="m")
    assert not (tmp_path / "x").exists()


def test_picture(tmp_path):
    path = tmp_path / "confidence.png"
    draw_confidences(select_confident(readings(0.2, 0.9, 0.5, 0.7), keep=0.5), path)
    assert path.read_bytes().startswith(b"\x89PNG")
