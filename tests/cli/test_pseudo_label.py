import pytest

from speechssl.data.manifest import cuts_path, load_cuts, save_cuts


@pytest.fixture
def transcribed(corpus, tmp_path):
    """A corpus with the first five train recordings of ``corpus``."""
    path = cuts_path(tmp_path / "transcribed", "train")
    path.parent.mkdir(parents=True)
    save_cuts(list(load_cuts(cuts_path(corpus, "train")))[:5], path)
    return tmp_path / "transcribed"


def test_a_corpus_to_fine_tune_on(speechssl, recogniser, corpus, transcribed, tmp_path):
    out = tmp_path / "pseudo"
    result = speechssl("pseudo-label", recogniser, corpus, transcribed, out, "--keep", "0.5")
    assert result.exit_code == 0, result.output
    assert "kept 4 of 7 readings" in result.stdout
    assert (out / "confidence.png").is_file()
    train = list(load_cuts(cuts_path(out, "train"), need_text=True))
    assert len(train) == 5 + 4
    confidences = [cut.supervisions[0].custom["confidence"] for cut in train[5:]]
    assert confidences == sorted(confidences, reverse=True)
    assert 0 < confidences[-1] <= confidences[0] <= 1


def test_errors(fails, recogniser, corpus, transcribed, tmp_path):
    everything = fails("pseudo-label", recogniser, transcribed, corpus, tmp_path / "out")
    assert "every train cut" in everything
    assert "--overwrite" in fails("pseudo-label", recogniser, corpus, transcribed, transcribed)
    assert not (tmp_path / "out").exists()
