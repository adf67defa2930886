from itertools import pairwise

import pytest
import torch

from speechssl.data.text import BLANK, Tokens
from speechssl.decoding.alignment import (
    ANCHOR_TOKENS,
    PART_FRAMES,
    _join,
    _parts,
    align,
    align_stream,
    anchors,
)
from speechssl.decoding.transcriber import Transcriber
from speechssl.decoding.transcript import Symbol, Word
from speechssl.errors import AudioError, TokensError

TOKENS = Tokens.from_texts(["abcdefgh"])


def frames(path: str) -> torch.Tensor:
    """Log-probabilities [T, V] whose best path is ``path``; "-" is the blank."""
    ids = [BLANK if symbol == "-" else TOKENS.encode(f"a{symbol}a")[1] for symbol in path]
    scores = 6.0 * torch.nn.functional.one_hot(torch.tensor(ids), len(TOKENS))
    return scores.log_softmax(-1)


def times(spans) -> list[tuple[str, int, int]]:
    return [(TOKENS.symbols[span.token], span.start, span.stop) for span in spans]


def test_by_hand():
    spans = align(frames("--aa-b--bb-"), TOKENS.encode("abb"))
    assert times(spans) == [("a", 2, 4), ("b", 5, 6), ("b", 8, 10)]
    likely = frames("a")[0, TOKENS.encode("a")[0]].item()
    assert all(span.log_prob == pytest.approx(likely) for span in spans)
    wrong = align(frames("--aa-c--bb-"), TOKENS.encode("abb"))
    assert [span.log_prob < -5 for span in wrong] == [False, True, False]
    unsure = frames("-aaa-")
    unsure[[1, 3]] = (0.6 * unsure[[1, 3]].exp() + 0.4 / len(TOKENS)).log()
    [span] = align(unsure, TOKENS.encode("a"))
    assert (span.start, span.stop) == (1, 4)
    assert span.log_prob == pytest.approx(likely), "where it is most probable"


def test_best_of_all_paths():
    """Against every path of that length that writes the text."""
    torch.manual_seed(1)
    log_probs = torch.randn(7, len(TOKENS)).log_softmax(-1)
    ids = TOKENS.encode("aba")
    paths = torch.cartesian_prod(*[torch.tensor([BLANK, *sorted(set(ids))])] * 7)  # [3 ** 7, 7]
    scores = log_probs[torch.arange(7), paths].sum(1)
    written = [[t for t in torch.unique_consecutive(path).tolist() if t != BLANK] for path in paths]
    fits = torch.tensor([path == ids for path in written])
    best = paths[scores.masked_fill(~fits, float("-inf")).argmax()].tolist()
    path = [BLANK] * 7
    for span in align(log_probs, ids):
        path[span.start : span.stop] = [span.token] * (span.stop - span.start)
    assert path == best


def test_impossible():
    with pytest.raises(AudioError, match=r"0\.0 s of audio are too short for 3 tokens"):
        align(frames("ab"), TOKENS.encode("aba"))
    with pytest.raises(AudioError, match="too short"):
        align(frames("abb"), TOKENS.encode("abb"))  # equal neighbours need a blank between them
    with pytest.raises(AudioError, match="in 20 minutes the model hears nothing of what the text"):
        align(torch.zeros(60_000, len(TOKENS)), TOKENS.encode("ab" * 2500))


def test_anchors():
    text = "abcdefgh" * 8
    heard = text[:20] + "h" * 3 + text[24:]
    path = "".join(f"{letter}-" for letter in heard)
    found = anchors(frames(path), TOKENS.encode(text))
    assert len(found) == 2
    for frame, token in found:
        assert path[frame] == text[token]
    assert anchors(frames(path[: 2 * (ANCHOR_TOKENS - 1)]), TOKENS.encode(text)) == []


def test_parts_are_cut_at_the_first_anchor_after_a_while(monkeypatch):
    monkeypatch.setattr("speechssl.decoding.alignment.PART_FRAMES", 100)
    text = "abcdefghabcdefgh" * 12
    heard = "".join(f"{text[i : i + 15]}a" for i in range(0, len(text), 16))  # h is never heard
    log_probs, ids = frames("".join(f"{letter}-" for letter in heard)), TOKENS.encode(text)
    parts = _parts(log_probs, ids)
    assert (parts[0][0], parts[-1][1]) == ((0, 0), (len(log_probs), len(ids)))
    assert all(a[1] == b[0] for a, b in pairwise(parts))
    lengths = [stop[0] - start[0] for start, stop in parts]
    assert all(100 <= length < 100 + 40 for length in lengths[:-1])
    assert len(parts) == 4
    assert len(_parts(log_probs[:100], ids)) == 1


def test_what_is_said_for_a_word_is_as_sure_as_all_of_its_symbols():
    said = [
        Word("forty", 1.0, 2.0, 0.9, [Symbol(letter, 1.0, 2.0) for letter in "forty"]),
        Word("two", 2.5, 3.0, 0.5, [Symbol(letter, 2.5, 3.0) for letter in "two"]),
        Word("a", 3.5, 4.0, 0.0, [Symbol("a", 3.5, 4.0)]),
    ]
    number, letter = _join(said, ["42", "A,"], [2, 1])
    assert (number.text, number.start, number.end) == ("42", 1.0, 3.0)
    assert "".join(symbol.text for symbol in number.symbols) == "fortytwo"
    assert number.confidence == pytest.approx((0.9**5 * 0.5**3) ** (1 / 8), abs=1e-4)
    assert (letter.text, letter.confidence) == ("A,", 0.0)


# --- with a model ----------------------------------------------------------------------------


def noise(seconds: float) -> torch.Tensor:
    torch.manual_seed(int(seconds))
    return torch.randn(round(16_000 * seconds)) * torch.rand(round(16_000 * seconds))


def test_words_reach_as_far_as_their_sound(near_sighted):
    transcriber, waveform = Transcriber(near_sighted), noise(4)
    waveform[16_000:36_000] = 0
    aligned = align_stream(transcriber, [waveform], transcriber.transcribe([waveform])[0])
    edges = [edge for word in aligned.words for edge in (word.start, word.end)]
    for border in (1.0, 2.25):
        assert min(abs(edge - border) for edge in edges) < 0.011


def test_its_own_words_stand_where_the_model_wrote_them(babbler):
    transcriber = Transcriber(babbler)
    [heard] = transcriber.transcripts([noise(4)])
    aligned = align_stream(transcriber, noise(4).split(7000), heard.text)
    assert aligned.text == heard.text
    assert aligned.seconds == 4.0
    for left, right in zip(aligned.words, heard.words):
        assert left.start == pytest.approx(right.start, abs=0.05)
        assert left.end == pytest.approx(right.end, abs=0.05)


def test_long_recordings_in_parts_equal_the_whole(babbler, monkeypatch):
    transcriber = Transcriber(babbler, window_frames=500, overlap_frames=100)
    waveform = noise(70)
    assert PART_FRAMES < 70 * 50
    heard = transcriber.stream_transcript([waveform])
    words = heard.text.split()
    del words[10:12], words[-8]
    parts = align_stream(transcriber, [waveform], " ".join(words))
    monkeypatch.setattr("speechssl.decoding.alignment.PART_FRAMES", 10**9)
    whole = align_stream(transcriber, [waveform], " ".join(words))
    same = [left == right for left, right in zip(parts.words, whole.words)]
    assert [w.text for w in parts.words] == words
    assert sum(same) >= len(words) - 2


def test_words_as_they_are_written(babbler):
    transcriber = Transcriber(babbler)
    text = "— “Ha, Bed!”\n ... Cafe – Dach.\n"
    aligned = align_stream(transcriber, [noise(4)], text, "en")
    assert [w.text for w in aligned.words] == ["— “Ha,", "Bed!” ...", "Cafe –", "Dach."]
    assert ["".join(s.text for s in w.symbols) for w in aligned.words] == [
        "ha",
        "bed",
        "cafe",
        "dach",
    ]
    assert all(0 <= w.confidence <= 1 for w in aligned.words)
    assert all(a.end <= b.start for a, b in zip(aligned.words, aligned.words[1:]))


def test_texts_that_cannot_be_aligned(babbler):
    transcriber = Transcriber(babbler)
    with pytest.raises(TokensError, match="no token for 'x'"):
        align_stream(transcriber, [noise(1)], "hex")
    with pytest.raises(TokensError, match="holds no word"):
        align_stream(transcriber, [noise(1)], " ... — ")
    with pytest.raises(AudioError, match="too short"):
        align_stream(transcriber, [noise(1)], "abcdefgh " * 50)
    with pytest.raises(AudioError, match="too short"):
        align_stream(transcriber, [noise(0.01)], "ab")
