import math
from dataclasses import replace
from itertools import groupby, product
from pathlib import Path
from shutil import copyfile

import pytest
import torch
from torch import Tensor

from speechssl.data.text import BLANK, Tokens
from speechssl.decoding.beam import BeamDecoder
from speechssl.decoding.lexicon import write_lexicon
from speechssl.decoding.ngram import NGramModel, estimate
from speechssl.decoding.open_vocabulary import SPELLING_ORDER
from speechssl.decoding.settings import DecodingSettings
from speechssl.errors import LanguageModelError

TOKENS = Tokens.from_texts(["abc"])  # <blank> | a b c
TEXT = ["ab ba", "ab ab ba", "ca ab", "ca ba ab", "ba ba ca", "ab ca"]


def frames(path: str, certainty: float = 0.98) -> Tensor:
    """Log-probabilities [T, V] whose best path is ``path``; "-" is the blank."""
    ids = [BLANK if symbol == "-" else TOKENS.encode(f"a{symbol}a")[1] for symbol in path]
    probs = torch.full((len(ids), len(TOKENS)), (1 - certainty) / (len(TOKENS) - 1))
    probs[range(len(ids)), ids] = certainty
    return probs.log()


def noise(length: int, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return (2 * torch.randn(length, len(TOKENS))).log_softmax(-1)


def word_model() -> NGramModel:
    return estimate([line.split() for line in TEXT], 2)


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("lm") / "words.arpa"
    word_model().save(path)
    return str(path)


@pytest.fixture(scope="module")
def characters(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("lm") / "characters.arpa"
    estimate([[*line.replace(" ", "|"), "|"] for line in TEXT], 4).save(path)
    return str(path)


def texts(log_probs: Tensor, **settings: object) -> list[str]:
    decoder = BeamDecoder(TOKENS, DecodingSettings(**settings))
    return [reading.text for reading in decoder.decode(log_probs)]


def exhaustive(log_probs: Tensor) -> dict[str, float]:
    """The log-probability of every text, summed over all of its alignments."""
    probs = log_probs.exp().tolist()
    alignments: dict[tuple[int, ...], float] = {}
    for path in product(range(len(TOKENS)), repeat=len(probs)):
        probability = 1.0
        for frame, token in zip(probs, path):
            probability *= frame[token]
        ids = tuple(token for token, _ in groupby(path) if token != BLANK)
        alignments[ids] = alignments.get(ids, 0.0) + probability
    by_text: dict[str, float] = {}
    for ids, probability in alignments.items():
        text = TOKENS.decode(ids)
        by_text[text] = by_text.get(text, 0.0) + probability
    return {text: float(torch.tensor(p).log()) for text, p in by_text.items()}


# --- against all readings ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_word_model_equals_exhaustive_search(words, seed):
    """The best reading among all word sequences, by the formula in the module's docstring."""
    log_probs, model = noise(6, seed), word_model()
    scores = {
        text: log_prob + 1.3 * model.log_prob(text.split()) + 0.7 * len(text.split())
        for text, log_prob in exhaustive(log_probs).items()
        if set(text.split()) <= set(model.words)
    }
    settings = DecodingSettings(lm=words, lm_weight=1.3, word_score=0.7, beam=1000, nbest=3)
    found = BeamDecoder(TOKENS, settings).decode(log_probs)
    expected = sorted(scores, key=scores.get, reverse=True)[:3]
    assert [reading.text for reading in found] == expected
    for reading in found:
        assert reading.score == pytest.approx(scores[reading.text], abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_open_vocabulary_equals_exhaustive_search(words, seed):
    """The best reading among all texts, unknown words by the formula of ``open_vocabulary``."""
    log_probs, model = noise(6, seed), word_model()
    spelling = estimate([[*word] for word in model.words], SPELLING_ORDER)

    def log_prob(text: str) -> float:
        unknown = [word for word in text.split() if word not in model.words]
        shares = math.log10(len(model.words) + 2) * len(unknown)
        return model.log_prob(text.split()) + shares + sum(map(spelling.log_prob, unknown))

    scores = {
        text: heard + 1.3 * log_prob(text) + 0.7 * len(text.split())
        - 0.2 * sum(word not in model.words for word in text.split())
        for text, heard in exhaustive(log_probs).items()
    }  # fmt: skip
    settings = DecodingSettings(
        lm=words, lm_weight=1.3, word_score=0.7, open_vocabulary=True, unknown_score=-0.2,
        beam=5000, nbest=3,
    )  # fmt: skip
    found = BeamDecoder(TOKENS, settings).decode(log_probs)
    assert [reading.text for reading in found] == sorted(scores, key=scores.get, reverse=True)[:3]
    for reading in found:
        assert reading.score == pytest.approx(scores[reading.text], abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_beam_without_model_beats_greedy(seed):
    """Summing alignments finds a text that is at least as probable as that of the best path."""
    log_probs = noise(5, seed)
    scores = exhaustive(log_probs)
    greedy = TOKENS.decode(t for t, _ in groupby(log_probs.argmax(-1).tolist()) if t != BLANK)
    [found] = texts(log_probs, beam=1000)
    assert scores[found] >= scores[greedy]


# --- what each setting does ----------------------------------------------------------------------


def test_language_model_decides(words, characters):
    unsure = frames("c-a-|--b-|".replace("|", " "))  # "b" is no word
    unsure[7] = torch.tensor([0.3, 0.01, 0.3, 0.38, 0.01]).log()
    assert texts(unsure, beam=50) == ["ca b"]
    for lm in (words, characters):
        [text] = texts(torch.cat([unsure[:8], frames("-a ", 0.5)]), lm=lm)
        assert text in ("ca ba", "ca ab")


def test_only_words_of_the_model(words):
    assert texts(frames("b-b"), lm=words)[0] in ("", "ba", "ab")
    assert texts(frames("b-b"), beam=50) == ["bb"]


def test_language_model_looks_ahead_inside_of_words(tmp_path):
    """A beam of one reading keeps the letter of which a probable word can come."""
    lm = tmp_path / "ab.arpa"
    estimate([["ab"]] * 9 + [["ca"]], 2).save(lm)
    heard = torch.tensor([[0.01, 0.01, 0.38, 0.01, 0.59], [0.01, 0.01, 0.48, 0.49, 0.01]]).log()
    for beam in (1, 50):
        assert texts(heard, lm=str(lm), lm_weight=2.0, beam=beam) == ["ab"]


def test_beginnings_of_hotwords_leave_room_in_a_narrow_beam(tmp_path):
    lm = tmp_path / "both.arpa"
    estimate([["ab"], ["ca"]], 2).save(lm)
    heard = torch.tensor([[0.01, 0.01, 0.48, 0.01, 0.49], [1e-9, 1e-9, 1.0, 1e-9, 1e-9]]).log()
    for beam in (1, 50):
        assert texts(heard, lm=str(lm), hotwords=("ab",), beam=beam) == ["ca"]


def test_last_word_needs_no_separator(words):
    assert texts(frames("ab ba"), lm=words) == ["ab ba"]
    assert texts(frames("ab ba  "), lm=words) == ["ab ba"]


def test_word_score(words):
    many = texts(noise(30, 1), lm=words, word_score=6.0)[0]
    few = texts(noise(30, 1), lm=words, word_score=-6.0)[0]
    assert len(many.split()) > len(few.split())


def test_tokens_and_their_frames(words):
    path = "--aab---  bb-a--ca--"
    for settings in ({"beam": 20}, {"lm": words}):
        [reading] = BeamDecoder(TOKENS, DecodingSettings(**settings)).decode(frames(path, 0.999))
        if "lm" not in settings:
            assert reading.text == "ab baca"
            assert reading.tokens == TOKENS.encode("ab baca")
            assert reading.frames == [2, 4, 8, 10, 13, 16, 17]
        assert len(reading.tokens) == len(reading.frames)
        assert reading.frames == sorted(set(reading.frames))
        assert TOKENS.decode(reading.tokens) == reading.text


def test_separators_between_words_are_one_each():
    """However often the model writes them, before, between or after words."""
    decoder = BeamDecoder(TOKENS, DecodingSettings(beam=20))
    [reading] = decoder.decode(frames(" - ab - -  ca - ", 0.999))
    assert reading.text == "ab ca"
    assert reading.tokens == TOKENS.encode("ab ca")
    assert reading.frames == [3, 4, 5, 11, 12]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["words", "tokens"])
def test_nbest_are_different_and_sorted(words, kind, seed):
    """Of several ways to write a text, with and without a last separator, it is the best."""
    settings = {"lm": words} if kind == "words" else {"beam": 50}
    found, alone = (
        BeamDecoder(TOKENS, DecodingSettings(nbest=nbest, **settings)).decode(noise(8, seed))
        for nbest in (5, 1)
    )
    assert found[:1] == alone
    assert len({reading.text for reading in found}) == len(found) == 5
    assert [r.score for r in found] == sorted((r.score for r in found), reverse=True)


def test_nothing_said(words):
    for settings in ({"lm": words}, {"beam": 10}):
        decoder = BeamDecoder(TOKENS, DecodingSettings(**settings))
        for log_probs in (torch.empty(0, len(TOKENS)), frames("-----", 0.999)):
            [reading] = decoder.decode(log_probs)
            assert (reading.text, reading.tokens, reading.frames) == ("", [], [])


def test_no_state_between_recordings(words, characters):
    for lm in (words, characters):
        decoder = BeamDecoder(TOKENS, DecodingSettings(lm=lm, hotwords=("cab",)))
        alone = decoder.decode(noise(20, 1))
        decoder.decode(noise(15, 2))
        assert decoder.decode(noise(20, 1)) == alone


def test_lexicon_of_spellings(tmp_path):
    """Words may be spelled by other symbols than their letters, and in several ways."""
    path = tmp_path / "lexicon.txt"
    path.write_text("sea c a |\nsea c\nbee b a\n")
    assert texts(frames("ca ba c"), lexicon=str(path)) == ["sea bee sea"]


def test_a_token_or_word_for_the_unknown(words, characters, tmp_path):
    """Imported models have "<unk>" among their tokens, other programs' lexicons a line for it."""
    imported = Tokens([*TOKENS.symbols, "<unk>"])
    heard = torch.cat([frames("ab-ba"), torch.full((5, 1), -10.0)], 1)
    heard[2] = heard[2].roll(1)  # the space
    for settings in ({"beam": 10}, {"lm": words}, {"lm": characters}):
        [reading] = BeamDecoder(imported, DecodingSettings(**settings)).decode(heard)
        assert reading.text == "ab ba"
    path = tmp_path / "lexicon.txt"
    path.write_text("<unk> a b |\nbee b a |\n")
    assert texts(frames("ba ab"), lexicon=str(path)) == ["bee"]


# --- hotwords ---------------------------------------------------------------------------------


def test_hotword_that_the_model_does_not_know(words, characters):
    heard = frames("ab caa", 0.6)
    heard[5] = torch.tensor([0.02, 0.02, 0.34, 0.32, 0.3]).log()  # caa, cab or cac
    for settings in ({"lm": words}, {"lm": characters}, {"beam": 50}):
        [before] = texts(heard, **settings)
        assert "cab" not in before
        [after] = texts(heard, hotwords=("cab",), **settings)
        assert after == "ab cab"
        assert texts(frames("ab ba"), hotwords=("cab",), **settings) == ["ab ba"]


@pytest.mark.parametrize("kind", ["words", "tokens"])
def test_hotword_without_weight_changes_nothing(words, kind):
    settings = {"lm": words} if kind == "words" else {"beam": 150}
    for seed in range(5):
        log_probs = noise(20, seed)
        with_it = texts(log_probs, hotwords=("ab",), hotword_weight=0.0, **settings)
        assert with_it == texts(log_probs, **settings)


@pytest.mark.parametrize("lm_weight", [0.5, 2.0])
@pytest.mark.parametrize("kind", ["words", "characters", "none"])
def test_hotwords_earn_their_weight_for_each_word(words, characters, kind, lm_weight):
    """Whatever the weight of the language model, and at the beginning of a recording too.

    A model of characters may also like another end better, with or without a separator.
    """
    files = {"words": {"lm": words}, "characters": {"lm": characters}, "none": {}}
    settings = {"hotwords": ("ab", "ca ba"), "lm_weight": lm_weight, **files[kind]}
    scores = []
    for weight in (0.0, 3.0):
        decoder = BeamDecoder(TOKENS, DecodingSettings(**settings, hotword_weight=weight))
        [reading] = decoder.decode(frames("ab ca ba", 0.999))
        assert reading.text == "ab ca ba"
        scores.append(reading.score)
    assert scores[1] - scores[0] == pytest.approx(9.0, abs=0.2 if kind == "characters" else 1e-3)


def test_only_whole_words_are_hot():
    """ "ca" is expected, which does not make "cab" more probable."""
    scores = []
    for weight in (0.0, 4.0):
        settings = DecodingSettings(hotwords=("ca",), hotword_weight=weight)
        [reading] = BeamDecoder(TOKENS, settings).decode(frames("cab", 0.999))
        assert reading.text == "cab"
        scores.append(reading.score)
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


@pytest.mark.parametrize("lm_weight", [0.5, 1.0, 2.0])
def test_phrase(words, lm_weight):
    """A phrase is credited only if all of it is there."""
    settings = {"lm": words, "hotwords": ("ca cc",), "lm_weight": lm_weight}
    assert texts(frames("ca c-c", 0.9), **settings) == ["ca cc"]
    for text in ("ab c-c", "ca ba", "ba ca"):
        scores = []
        for weight in (0.0, 4.0):
            decoder = BeamDecoder(TOKENS, DecodingSettings(**settings, hotword_weight=weight))
            [reading] = decoder.decode(frames(text, 0.999))
            assert reading.text == text.replace("-", "")
            scores.append(reading.score)
        assert scores[0] == pytest.approx(scores[1], abs=1e-3)


# --- words that the language model does not know --------------------------------------------------


def test_unknown_words_are_written_as_they_are_spelled(words):
    heard = frames("cab ba")
    assert texts(heard, lm=words)[0] != "cab ba"
    assert texts(heard, lm=words, open_vocabulary=True) == ["cab ba"]
    closed = texts(heard, lm=words, beam=200)
    assert texts(heard, lm=words, open_vocabulary=True, unknown_score=-60.0, beam=200) == closed


def test_only_so_many_spellings_are_remembered(words, monkeypatch):
    """Hours of recordings do not fill the memory, and are read alike."""
    decoder = BeamDecoder(TOKENS, DecodingSettings(lm=words, open_vocabulary=True))
    heard = [noise(30, seed) for seed in range(4)]
    expected = [decoder.decode(log_probs) for log_probs in heard]
    most = len(decoder._vocabulary._spelled)
    monkeypatch.setattr("speechssl.decoding.open_vocabulary.KEPT_SPELLINGS", 10)
    assert [decoder.decode(log_probs) for log_probs in heard] == expected
    assert len(decoder._vocabulary._spelled) < most / 2


def test_known_words_are_preferred(words):
    """The sound does not tell "ab" from "ac", which is no word of the language model."""
    unsure = frames("a- ba")
    unsure[1] = torch.tensor([0.1, 0.0, 0.0, 0.45, 0.45]).log()  # "ab" or "ac"
    assert texts(unsure, lm=words, open_vocabulary=True) == ["ab ba"]


def test_an_unknown_word_may_be_hot(words):
    unsure = frames("ca- ba")
    unsure[2] = torch.tensor([0.5, 0.0, 0.0, 0.3, 0.2]).log()  # "ca", "cab" or "cac"
    settings = {"lm": words, "open_vocabulary": True}
    assert texts(unsure, **settings) == ["ca ba"]
    assert texts(unsure, **settings, hotwords=("cac",)) == ["cac ba"]


def test_where_unknown_words_were_counted_their_share_is_taken_as_it_is(tmp_path):
    """Not multiplied by the number of words: together they would be more than likely."""
    scores = {}
    for share in (0.01, 0.5):
        lines = [f"{math.log10(p):.5f}\t{w}" for w, p in (("ab", 0.3), ("ba", 0.1), ("</s>", 0.1))]
        lines += [f"{math.log10(share):.5f}\t<unk>", "-99\t<s>\t0"]
        grams = "\n".join(lines)
        text = f"\\data\\\nngram 1=5\nngram 2=1\n\n\\1-grams:\n{grams}\n\n"
        (tmp_path / "lm.arpa").write_text(f"{text}\\2-grams:\n-0.1\t<s> ab\n\n\\end\\\n")
        settings = DecodingSettings(
            lm=str(tmp_path / "lm.arpa"), open_vocabulary=True, word_score=0.0
        )
        [reading] = BeamDecoder(TOKENS, settings).decode(frames("cc", 0.9999))
        assert reading.text == "c"
        scores[share] = reading.score
    # 0.01 is one of the equal shares of the 2 words, the end and <unk>.
    assert scores[0.5] - scores[0.01] == pytest.approx(math.log10(0.5 / 0.04), abs=1e-3)


def test_an_open_vocabulary_needs_a_model_of_words_with_unknown_ones(words, characters, tmp_path):
    lines = Path(words).read_text().splitlines()
    known = [line for line in lines if "<unk>" not in line]
    known[1] = f"ngram 1={int(known[1].partition('=')[2]) - 1}"
    (tmp_path / "known.arpa").write_text("\n".join(known) + "\n")
    with pytest.raises(LanguageModelError, match=r"known\.arpa: has no <unk>"):
        BeamDecoder(TOKENS, DecodingSettings(lm=str(tmp_path / "known.arpa"), open_vocabulary=True))
    with pytest.raises(LanguageModelError, match=r"characters\.arpa: is no ARPA file of words"):
        BeamDecoder(TOKENS, DecodingSettings(lm=characters, open_vocabulary=True))


# --- subwords and phones -------------------------------------------------------------------------

SUBWORDS = Tokens(["<blank>", "|", "a", "b", "c", "ab", "ca"], "bpe")
PHONES = Tokens(["<blank>", "|", "AH", "B", "K"], "phones")


def path_of(tokens: Tokens, symbols: str) -> Tensor:
    """Log-probabilities [T, V] whose best path is ``symbols``."""
    ids = [tokens.symbols.index(symbol) for symbol in symbols.split()]
    probs = torch.full((len(ids), len(tokens)), 0.02 / (len(tokens) - 1))
    probs[range(len(ids)), ids] = 0.98
    return probs.log()


def test_words_of_subwords(words, characters):
    heard = path_of(SUBWORDS, "ab <blank> | b a | ca ca")
    for settings in ({"lm": words}, {"beam": 20}, {"lm": words, "open_vocabulary": True}):
        [reading] = BeamDecoder(SUBWORDS, DecodingSettings(**settings)).decode(heard)
        assert reading.text == "ab ba ca"
        assert [SUBWORDS.symbols[i] for i in reading.tokens] == ["ab", "|", "b", "a", "|", "ca"]
        assert reading.frames == [0, 2, 3, 4, 5, 6]
    with pytest.raises(LanguageModelError, match=r"characters\.arpa: .* writes bpe"):
        BeamDecoder(SUBWORDS, DecodingSettings(lm=characters))


def test_lexicon_of_phones(words, tmp_path):
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("ab\tAH B\nba\tB AH\nca\tK AH\nzoe\tK B\n")
    heard = path_of(PHONES, "K AH <blank> | AH B B")
    for lm in (None, words):
        hot = {"hotwords": ("zoe",), "hotword_weight": 1.0}
        settings = DecodingSettings(lm=lm, lexicon=str(lexicon), **hot)
        [reading] = BeamDecoder(PHONES, settings).decode(heard)
        assert (reading.text, reading.frames) == ("ca ab", [0, 1, 3, 4, 5])
    [reading] = BeamDecoder(PHONES, DecodingSettings(beam=20)).decode(heard)
    assert reading.text == "K-AH AH-B"
    for settings in ({"lm": words}, {"hotwords": ("ab",)}):
        with pytest.raises(LanguageModelError, match=r"writes phones.*--lexicon"):
            BeamDecoder(PHONES, DecodingSettings(**settings))


# --- other weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("hotwords", [(), ("cab", "ab")])
@pytest.mark.parametrize("kind", ["words", "characters", "lexicon", "none"])
def test_reweighted_equals_a_new_decoder(words, characters, tmp_path, kind, hotwords):
    """And its files are not read again: they are gone."""
    files = {"words": {"lm": words}, "characters": {"lm": characters}, "none": {}}
    write_lexicon(tmp_path / "lexicon.txt", ["ab", "ba", "ca"])
    files["lexicon"] = {"lm": words, "lexicon": str(tmp_path / "lexicon.txt")}
    copies = {name: str(copyfile(file, tmp_path / name)) for name, file in files[kind].items()}
    first = DecodingSettings(hotwords=hotwords, nbest=3, lm_weight=0.5, **copies)
    loaded = BeamDecoder(TOKENS, first)
    changes = (
        {"lm_weight": 2.0},
        {"lm_weight": 0.0},
        {"word_score": 4.0},
        {"beam": 3},
        {"hotword_weight": 1.0},
        {},
    )
    trials = [replace(first, **change) for change in changes]
    expected = [BeamDecoder(TOKENS, trial).decode(noise(20, 1)) for trial in trials]
    for path in copies.values():
        Path(path).unlink()
    decoders = [loaded.reweighted(trial) for trial in trials]
    assert [decoder.decode(noise(20, 1)) for decoder in decoders] == expected
    assert loaded.decode(noise(20, 1)) == expected[-1]
    assert len({str(readings) for readings in expected}) > 1


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"lm": "nothing.arpa"}, ["nothing.arpa", "cannot be read"]),
        ({"lexicon": "nothing.txt"}, ["nothing.txt", "cannot be read"]),
        ({"hotwords": ("zoë",)}, ["hotword 'zoë'", "no tokens"]),
    ],
)
def test_errors(settings, parts):
    with pytest.raises(LanguageModelError) as caught:
        BeamDecoder(TOKENS, DecodingSettings(**settings))
    assert all(part in str(caught.value) for part in parts)


@pytest.mark.parametrize("content", [b"", b"\\data\\\nngram 1=1\n", b"\xff\xfe", b"mmap nonsense"])
def test_damaged_language_models(tmp_path, content, capfd):
    path = tmp_path / "lm.arpa"
    path.write_bytes(content)
    with pytest.raises(LanguageModelError, match=r"lm\.arpa: "):
        BeamDecoder(TOKENS, DecodingSettings(lm=str(path)))
    assert capfd.readouterr().err == ""


def test_model_of_another_language(tmp_path):
    estimate([["привет", "мир"]], 2).save(tmp_path / "ru.arpa")
    with pytest.raises(LanguageModelError, match=r"ru\.arpa: .* spell none"):
        BeamDecoder(TOKENS, DecodingSettings(lm=str(tmp_path / "ru.arpa")))
    estimate([list("AB|CA|")], 2).save(tmp_path / "capitals.arpa")
    with pytest.raises(LanguageModelError, match=r"capitals\.arpa: knows none .*same case"):
        BeamDecoder(TOKENS, DecodingSettings(lm=str(tmp_path / "capitals.arpa")))


def test_words_that_cannot_be_spelled_are_counted(tmp_path, caplog):
    foreign = ["dé", "Ab", "xyz", "abc1", "c-a", "zz"]
    estimate([["ab", "ba", *foreign], ["ab", "ca"]], 2).save(tmp_path / "lm.arpa")
    settings = DecodingSettings(lm=str(tmp_path / "lm.arpa"))
    assert [r.text for r in BeamDecoder(TOKENS, settings).decode(frames("ab ba"))] == ["ab ba"]
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        f"{tmp_path}/lm.arpa: 6 of 9 words are never written: the model's tokens do not spell "
        "them (Ab abc1 c-a dé xyz ...)"
    )


def test_nothing_is_said_of_words_that_can_all_be_spelled(words, caplog):
    BeamDecoder(TOKENS, DecodingSettings(lm=words))
    assert not caplog.records


def test_words_of_a_binary_are_not_known(words, characters, tmp_path, monkeypatch):
    monkeypatch.setattr("speechssl.decoding.beam.is_binary", lambda path: True)
    with pytest.raises(LanguageModelError, match=r"words\.arpa: is a model of words.*--lexicon"):
        BeamDecoder(TOKENS, DecodingSettings(lm=words))
    assert texts(frames("ab ba"), lm=characters) == ["ab ba"]
    write_lexicon(tmp_path / "lexicon.txt", ["ab", "ba"])
    assert texts(frames("ab ba"), lm=words, lexicon=str(tmp_path / "lexicon.txt")) == ["ab ba"]


def test_kenlm_is_silent(words, capfd):
    BeamDecoder(TOKENS, DecodingSettings(lm=words))
    assert capfd.readouterr().err == ""
