from itertools import groupby

import pytest
import torch

from speechssl.data.text import BLANK, Tokens
from speechssl.decoding.decoder import Decoded
from speechssl.decoding.greedy import GreedyDecoder, greedy_decode

TOKENS = Tokens.from_texts(["abcр и"])  # <blank> | a b c и р


def frames_for(text: str) -> torch.Tensor:
    """Log-probabilities [T, V] whose best path is ``text``; "-" is the blank."""
    ids = [BLANK if symbol == "-" else TOKENS.encode(f"a{symbol}a")[1] for symbol in text]
    return torch.nn.functional.one_hot(torch.tensor(ids), len(TOKENS)).float().log()


def decode(path: str) -> str:
    [text] = greedy_decode(frames_for(path)[None], torch.tensor([len(path)]), TOKENS)
    return text


def test_by_hand():
    assert decode("aabbb") == "ab"
    assert decode("aa-a") == "aa"  # a blank keeps repeated letters apart
    assert decode("--a--b-") == "ab"
    assert decode("----") == ""
    assert decode("a b") == "a b"
    assert decode("  a - b  ") == "a b"  # spaces are squeezed and stripped
    assert decode("рр-и") == "ри"


def test_equals_slow_version_on_random_batches():
    torch.manual_seed(0)
    log_probs = torch.randn(16, 60, len(TOKENS)).log_softmax(-1)
    num_frames = torch.randint(0, 61, (16,))
    slow = []
    for row, frames in zip(log_probs, num_frames.tolist()):
        best = row[:frames].argmax(-1).tolist()
        slow.append(TOKENS.decode(token for token, _ in groupby(best) if token != BLANK))
    assert greedy_decode(log_probs, num_frames, TOKENS) == slow


def test_frames_behind_the_end_are_ignored():
    log_probs = torch.stack([frames_for("abca"), frames_for("bbcc")])
    assert greedy_decode(log_probs, torch.tensor([2, 0]), TOKENS) == ["ab", ""]
    assert greedy_decode(log_probs[:, :0], torch.tensor([0, 0]), TOKENS) == ["", ""]


def test_equals_torchaudio_greedy_example():
    """The example of Graves et al. 2006, section 3.1: B(a-ab-) = B(-aa--abb) = aab."""
    assert decode("a-ab-") == decode("-aa--abb") == "aab"


def test_decoder_tells_tokens_frames_and_score():
    log_probs = (frames_for("--aa-ab b").exp() * 0.9 + 0.01).log()
    [reading] = GreedyDecoder(TOKENS).decode(log_probs)
    assert reading.text == "aab b"
    assert reading.tokens == TOKENS.encode("aab b")
    assert reading.frames == [2, 5, 6, 7, 8]
    assert reading.score == pytest.approx(log_probs.max(-1).values.sum().item())
    assert GreedyDecoder(TOKENS).decode(log_probs[:0]) == [Decoded("", [], [], 0.0)]


def test_decoder_equals_batch():
    torch.manual_seed(1)
    log_probs = torch.randn(8, 40, len(TOKENS)).log_softmax(-1)
    one_by_one = [GreedyDecoder(TOKENS).decode(row)[0].text for row in log_probs]
    assert greedy_decode(log_probs, torch.full((8,), 40), TOKENS) == one_by_one
