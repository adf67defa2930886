import pytest

from speechssl.data.text import Tokens
from speechssl.decoding.greedy import GreedyDecoder
from speechssl.decoding.ngram import estimate
from speechssl.decoding.settings import BEAM, DecodingSettings, make_decoder
from speechssl.errors import ConfigError

TOKENS = Tokens.from_texts(["abc"])


def test_greedy_unless_asked():
    assert isinstance(make_decoder(DecodingSettings(), TOKENS), GreedyDecoder)
    for asked in ({"beam": 5}, {"nbest": 2}, {"hotwords": ("ab",)}, {"lm": "lm"}, {"lexicon": "x"}):
        assert not DecodingSettings(**asked).greedy
    assert not isinstance(make_decoder(DecodingSettings(beam=5), TOKENS), GreedyDecoder)


def test_beam_holds_what_is_returned():
    assert DecodingSettings(nbest=3).beam_size == BEAM
    assert DecodingSettings(nbest=500, beam=10).beam_size == 500


def test_a_recogniser_of_phones_writes_no_words_without_a_lexicon(caplog):
    make_decoder(DecodingSettings(), TOKENS)
    assert not caplog.records
    make_decoder(DecodingSettings(), Tokens(["<blank>", "|", "AH"], "phones"))
    assert "writes phones; give --lexicon to get words" in caplog.text


def test_folder_may_be_moved(tmp_path):
    """Paths in a decoding.yaml follow it."""
    folder = tmp_path / "here"
    folder.mkdir()
    estimate([["ab"]], 2).save(folder / "lm.arpa")
    settings = DecodingSettings(
        lm=str(folder / "lm.arpa"), beam=7, lm_weight=0.3, hotwords=("ab", "ba c")
    )
    settings.save(folder / "decoding.yaml")
    assert DecodingSettings.load(folder / "decoding.yaml") == settings
    moved = folder.rename(tmp_path / "there")
    loaded = DecodingSettings.load(moved / "decoding.yaml")
    assert loaded.lm == str(moved / "lm.arpa")
    make_decoder(loaded, TOKENS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beam": 0}, "beam must be at least 1"),
        ({"nbest": 0}, "nbest"),
        ({"lm_weight": -1.0}, "lm_weight"),
        ({"hotword_weight": -1.0}, "hotword_weight"),
        ({"hotwords": ("a", " ")}, "hotwords"),
        ({"open_vocabulary": True}, "open_vocabulary: needs a language model"),
        ({"open_vocabulary": True, "lm": "lm", "lexicon": "x"}, "no lexicon"),
        ({"open_vocabulary": True, "lm": "lm", "lm_weight": 0.0}, "lm_weight must be positive"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(ConfigError, match=message):
        DecodingSettings(**values)


def test_bad_files(tmp_path):
    path = tmp_path / "decoding.yaml"
    path.write_text("lm_wieght: 2\n")
    with pytest.raises(ConfigError, match="did you mean 'lm_weight'"):
        DecodingSettings.load(path)
