import pytest
import torch

from speechssl.data.text import BLANK, Tokens
from speechssl.decoding.alignment import ANCHOR_TOKENS, PART_FRAMES, align, align_stream, anchors
from speechssl.decoding.transcriber import Transcriber
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


def test_anchors():
    text = "abcdefgh" * 8
    heard = text[:20] + "h" * 3 + text[24:]
    path = "".join(f"{letter}-" for letter in heard)
    found = anchors(frames(path), TOKENS.encode(text))
    assert len(found) == 2
    for frame, token in found:
        assert path[frame] == text[token]
    assert anchors(frames(path[: 2 * (ANCHOR_TOKENS - 1)]), TOKENS.encode(text)) == []


# --- with a model ----------------------------------------------------------------------------


def noise(seconds: float) -> torch.Tensor:
    torch.manual_seed(int(seconds))
    return torch.randn(round(16_000 * seconds)) * torch.rand(round(16_000 * seconds))


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
