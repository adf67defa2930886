import warnings

import pytest

from speechssl.data.manifest import cuts_path, load_cuts
from speechssl.decoding.cuts import decode_cuts
from speechssl.decoding.progress import AudioProgress
from speechssl.decoding.transcriber import Transcriber
from tests.terminal import Terminal


def test_decoding_is_shown(babbler, corpus, monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    decode_cuts(Transcriber(babbler), load_cuts(cuts_path(corpus, "test")))
    assert "decode: 100%" in terminal.getvalue()
    assert "s of audio/s" in terminal.getvalue()


@pytest.mark.parametrize(("expected", "shown"), [(0.3, "100%"), (0.1, "100%"), (9.0, "3%")])
def test_more_or_less_than_was_expected(expected, shown, monkeypatch):
    """Sums of seconds differ in the last digit, and headers say less or more than there is."""
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with AudioProgress("hear", expected) as progress:
            for seconds in (0.1, 0.2):
                progress.update(seconds)
    assert shown in terminal.getvalue()


def test_nothing_is_known_of_the_length(monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with AudioProgress("hear", 0.0) as progress:
        progress.update(120.0)
    assert "120 s of audio [" in terminal.getvalue()
    assert "%" not in terminal.getvalue()
