import torch

from speechssl.data.text import BLANK, Tokens
from speechssl.decoding.greedy import GreedyDecoder
from speechssl.decoding.segments import PAUSE_FRAMES, best_cut, mark_pauses, pauses, runs, segments

TOKENS = Tokens.from_texts(["abc"])
SEPARATOR = 1
PAUSE = "-" * PAUSE_FRAMES


def frames(path: str) -> torch.Tensor:
    """Log-probabilities [T, V] whose best path is ``path``; "-" is the blank, " " the separator."""
    ids = [BLANK if symbol == "-" else TOKENS.encode(f"a{symbol}a")[1] for symbol in path]
    scores = 9.0 * torch.nn.functional.one_hot(torch.tensor(ids), len(TOKENS))
    return scores.log_softmax(-1)


def read(path: str) -> str:
    return GreedyDecoder(TOKENS).decode(mark_pauses(frames(path), SEPARATOR))[0].text


def test_runs():
    assert runs(torch.tensor([True, True, False, True]), 5) == [(5, 7), (8, 9)]
    assert runs(torch.tensor([False])) == runs(torch.tensor([], dtype=torch.bool)) == []


def test_a_pause_ends_a_word():
    assert read(f"ab{PAUSE}ca") == "ab ca"
    assert read(f"ab{PAUSE[1:]}ca") == "abca"
    assert read(f"{PAUSE}ab--ca{PAUSE}") == "abca"
    assert read(f"ab {PAUSE} ca") == "ab ca"
    assert read(PAUSE) == ""


def test_marking_changes_nothing_else():
    log_probs = frames(f"a-b{PAUSE}--a")
    before = log_probs.clone()
    marked = mark_pauses(log_probs, SEPARATOR)
    assert torch.equal(log_probs, before)
    assert (marked != log_probs).any(-1).sum() == 1
    assert pauses(log_probs) == [(3, 3 + PAUSE_FRAMES + 2)]


def test_cut_in_the_longest_pause_of_the_second_half():
    assert best_cut(frames(f"a{PAUSE * 2}" + "a" * 60 + f"{PAUSE}bb-"), SEPARATOR) == 111 + 12
    word_end = "a" * 20 + "b--" + "ab" + "- -" + "c" * 9
    assert word_end[best_cut(frames(word_end), SEPARATOR)] == " "
    inside = "a" * 20 + "b-----" + "ab" + "-" + "c" * 3
    assert inside[best_cut(frames(inside), SEPARATOR)] == "-"
    assert best_cut(frames("abcabc"), SEPARATOR) == 6


def test_segments_join_to_the_whole():
    torch.manual_seed(0)
    path = "".join(("ab-c" + "-" * int(n) + " " * int(n % 3)) for n in torch.randint(1, 60, (40,)))
    whole = frames(path)
    found = list(segments(whole.split(17), SEPARATOR, longest=100))
    assert max(len(part) for _, part in found) <= 100
    assert [first for first, _ in found] == [
        sum(len(part) for _, part in found[:i]) for i in range(len(found))
    ]
    assert torch.equal(torch.cat([part for _, part in found]), whole)
    decoder = GreedyDecoder(TOKENS)
    texts = [decoder.decode(mark_pauses(part, SEPARATOR))[0].text for _, part in found]
    assert " ".join(" ".join(texts).split()) == read(path)


def test_short_and_empty():
    assert list(segments([], SEPARATOR)) == []
    [(first, only)] = segments([frames("ab")], SEPARATOR)
    assert (first, len(only)) == (0, 2)
    assert len(list(segments([frames("ab c-" * 20)], SEPARATOR, longest=100))) == 1
