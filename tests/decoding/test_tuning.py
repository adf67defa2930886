from dataclasses import replace
from itertools import chain

import pytest
import torch
from torch import Tensor

from speechssl.data.text import BLANK, Tokens
from speechssl.decoding.beam import BeamDecoder
from speechssl.decoding.greedy import GreedyDecoder
from speechssl.decoding.ngram import estimate
from speechssl.decoding.settings import DecodingSettings
from speechssl.decoding.tuning import (
    OPEN_BEAM,
    Trial,
    _ranked,
    draw_trials,
    middle,
    tune,
    word_error_rate,
)

TOKENS = Tokens.from_texts(["abc"])
TEXT = ["ab ba", "ab ab ba", "ca ab", "ca ba ab", "ba ba ca", "ab ca"]


def heard(text: str, seed: int, clarity: float = 2.5) -> Tensor:
    """Noisy log-probabilities [T, V] of a model that hears ``text``, blanks in between."""
    torch.manual_seed(seed)
    ids = list(chain.from_iterable((token, BLANK) for token in TOKENS.encode(text)))
    scores = 2 * torch.randn(len(ids), len(TOKENS))
    scores[range(len(ids)), ids] += clarity
    return scores.log_softmax(-1)


@pytest.fixture(scope="module")
def dev() -> list[Tensor]:
    return [heard(text, seed) for seed, text in enumerate(TEXT)]


def merit(trial: Trial) -> tuple[float, ...]:
    """The smaller error rate is better, then the smaller weights."""
    return trial.wer, trial.settings.lm_weight, abs(trial.settings.word_score)


@pytest.mark.parametrize("unit", ["word", "character"])
def test_finds_weights_better_than_greedy(dev, tmp_path, unit):
    units = [line.split() if unit == "word" else [*line.replace(" ", "|"), "|"] for line in TEXT]
    estimate(units, 3).save(tmp_path / "lm.arpa")
    settings = DecodingSettings(lm=str(tmp_path / "lm.arpa"))
    trials = tune(BeamDecoder(TOKENS, settings), dev, TEXT)
    greedy = word_error_rate(GreedyDecoder(TOKENS), dev, TEXT)
    assert trials[0].wer < 0.7 * greedy
    ranked = sorted(trials, key=merit)
    assert trials[0] == middle(ranked)
    assert trials[1:] == [trial for trial in ranked if trial != trials[0]]
    chosen = [trial.settings for trial in trials]
    assert len(set(chosen)) == len(chosen)
    assert {settings.beam for settings in chosen} == {50}
    assert len({settings.lm_weight for settings in chosen}) > 5
    assert (len({settings.word_score for settings in chosen}) > 3) == (unit == "word")
    draw_trials(trials, tmp_path / "tuning.png")
    assert (tmp_path / "tuning.png").read_bytes().startswith(b"\x89PNG")


def test_weights_of_an_open_vocabulary(tmp_path):
    """The language model lacks a word that is said in half of the recordings."""
    dev = [heard(text, seed, clarity=4.0) for seed, text in enumerate(TEXT)]
    estimate([line.replace("ca", "").split() for line in TEXT], 3).save(tmp_path / "lm.arpa")
    settings = DecodingSettings(lm=str(tmp_path / "lm.arpa"), open_vocabulary=True)
    trials = tune(BeamDecoder(TOKENS, settings), dev, TEXT)
    assert all(trial.settings.open_vocabulary for trial in trials)
    assert len({trial.settings.unknown_score for trial in trials}) > 5
    closed = tune(BeamDecoder(TOKENS, replace(settings, open_vocabulary=False)), dev, TEXT)
    assert trials[0].wer < 0.8 * closed[0].wer
    draw_trials(trials, tmp_path / "tuning.png")
    assert (tmp_path / "tuning.png").read_bytes().startswith(b"\x89PNG")


def test_an_open_vocabulary_is_tuned_on_some_recordings_and_tried_on_all(tmp_path, monkeypatch):
    dev = [heard(text, seed) for seed, text in enumerate(TEXT)]
    estimate([line.split() for line in TEXT], 3).save(tmp_path / "lm.arpa")
    decoder = BeamDecoder(
        TOKENS, DecodingSettings(lm=str(tmp_path / "lm.arpa"), open_vocabulary=True)
    )
    monkeypatch.setattr("speechssl.decoding.tuning.OPEN_RECORDINGS", 2)
    chosen, *others = tune(decoder, dev, TEXT)
    assert chosen.settings.beam == 50
    assert chosen.wer == word_error_rate(decoder.reweighted(chosen.settings), dev, TEXT)
    assert {trial.settings.beam for trial in others} == {OPEN_BEAM}
    some = decoder.reweighted(others[0].settings)
    assert others[0].wer == word_error_rate(some, dev[::3], TEXT[::3])


def test_the_middle_of_what_is_about_as_good_is_chosen():
    def trial(wer: float, lm_weight: float, word_score: float) -> Trial:
        return Trial(DecodingSettings(lm_weight=lm_weight, word_score=word_score), wer)

    good = [trial(0.1, 2.0, 4.0), *(trial(0.104, w, s) for w in (0.5, 1.0, 2.0) for s in (0, 2))]
    assert middle([*good, trial(0.106, 1.0, -2.0)]).settings.lm_weight == 1.0
    worse = [trial(0.106, 1.0, 0.0), trial(0.106, 1.0, 2.0)]
    assert middle([trial(0.1, 2.0, 4.0), *worse]).settings.lm_weight == 2.0
    around = [trial(0.1, 0.25, 0.0), trial(0.1, 4.0, 0.0), trial(0.1, 1.0, 2.0)]
    assert middle(around) == around[2], "a step is to double the weight, or to add 2"


def test_of_equally_good_trials_the_smallest_weights_come_first():
    weights = [(2.0, 0.0), (1.0, 4.0), (1.0, -2.0), (1.0, 0.0)]
    tried = [DecodingSettings(lm_weight=w, word_score=s) for w, s in weights]
    ranked = _ranked({settings: Trial(settings, 0.1) for settings in tried})
    assert [trial.settings for trial in ranked] == [tried[3], tried[2], tried[1], tried[0]]


@pytest.mark.parametrize("hotwords", [(), ("cab",)])
def test_trials_equal_those_of_decoders_of_their_own(dev, tmp_path, caplog, hotwords):
    """What is loaded is loaded once: the word without tokens is named once."""
    estimate([*(line.split() for line in TEXT), ["ab", "überall"]], 2).save(tmp_path / "lm.arpa")
    settings = DecodingSettings(lm=str(tmp_path / "lm.arpa"), hotwords=hotwords)
    trials = tune(BeamDecoder(TOKENS, settings), dev, TEXT)
    [record] = caplog.records
    assert "1 of 4 words" in record.getMessage()
    for trial in trials[::7]:
        decoder = BeamDecoder(TOKENS, trial.settings)
        assert trial.wer == word_error_rate(decoder, dev, TEXT)
