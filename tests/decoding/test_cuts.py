import math

import pytest
import torch
from lhotse import CutSet

from speechssl.data.manifest import cut_text, cuts_path, load_cuts
from speechssl.data.text import Tokens
from speechssl.decoding.cuts import check_references, decode_cuts
from speechssl.decoding.settings import DecodingSettings, make_decoder
from speechssl.decoding.transcriber import Transcriber
from speechssl.decoding.words import confidence_of, token_spans
from speechssl.errors import TokensError
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder
from speechssl.models.folder import save_model_folder
from speechssl.models.presets import encoder_config


@pytest.fixture(scope="module")
def transcriber(tmp_path_factory) -> Transcriber:
    tokens = Tokens.from_texts(["abcdefgh"])
    config = encoder_config("tiny", {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 64})
    path = tmp_path_factory.mktemp("recogniser") / "model"
    save_model_folder(path, CTCModel(Encoder(config), len(tokens)), tokens=tokens)
    return Transcriber(path, batch_seconds=4)


def test_hypotheses_follow_the_manifest(transcriber, corpus):
    cuts = load_cuts(cuts_path(corpus, "train"))
    shuffled = CutSet.from_cuts(sorted(cuts, key=lambda cut: cut.id[::-1]))
    hypotheses, bad = decode_cuts(transcriber, shuffled)
    assert bad == {}
    assert [hypothesis.id for hypothesis in hypotheses] == [cut.id for cut in shuffled]
    assert [hypothesis.reference for hypothesis in hypotheses] == [cut_text(c) for c in shuffled]


def test_confidence_is_the_mean_of_what_was_written(transcriber):
    """The geometric mean over the symbols, each where it is most probable."""
    log_probs = torch.log_softmax(torch.zeros(6, len(transcriber.tokens)), dim=-1)
    a, b = (transcriber.tokens.symbols.index(letter) for letter in "ab")
    for frame, token, probability in ((0, a, 0.5), (1, a, 0.8), (3, b, 0.2)):
        log_probs[frame, token] = math.log(probability)
    found = confidence_of(token_spans(log_probs, [a, b], [0, 3]))
    assert found == pytest.approx(math.sqrt(0.8 * 0.2), abs=1e-4)
    assert confidence_of(token_spans(log_probs, [], [])) == 0.0


def test_other_readings_and_how_sure_the_best_is(transcriber, corpus, monkeypatch):
    cuts = load_cuts(cuts_path(corpus, "test"))
    settings = DecodingSettings(beam=8, nbest=5)
    monkeypatch.setattr(transcriber, "decoder", make_decoder(settings, transcriber.tokens))
    for hypothesis in decode_cuts(transcriber, cuts, nbest=2)[0]:
        assert hypothesis.nbest is not None
        assert [len(hypothesis.nbest), hypothesis.nbest[0]["text"]] == [2, hypothesis.text]
        assert hypothesis.nbest[0]["score"] > hypothesis.nbest[1]["score"]
        assert (0 < hypothesis.confidence < 1) == bool(hypothesis.text)
    assert {hypothesis.nbest for hypothesis in decode_cuts(transcriber, cuts)[0]} == {None}


def test_part_of_a_recording(transcriber, corpus):
    """A cut need not be a whole file."""
    cut = next(iter(load_cuts(cuts_path(corpus, "test"))))
    part = cut.truncate(offset=0.2, duration=0.4, preserve_id=True)
    [hypothesis], bad = decode_cuts(transcriber, CutSet.from_cuts([part]))
    assert bad == {}
    assert hypothesis.seconds == pytest.approx(0.4)


def test_check_references(transcriber, corpus):
    cuts = load_cuts(cuts_path(corpus, "test"))
    check_references(cuts, transcriber.tokens)
    check_references(cuts, Tokens(["<blank>", "|", "AH"], "phones"))  # words are its lexicon's
    with pytest.raises(TokensError, match="no token for") as caught:
        check_references(cuts, Tokens.from_texts(["ab"]))
    assert "--allow-unknown" in str(caught.value)
    assert "\n" not in str(caught.value)
