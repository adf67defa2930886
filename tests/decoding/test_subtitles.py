import itertools

import pytest

from speechssl.decoding.subtitles import MAX_SECONDS, MIN_SECONDS, PAUSE_SECONDS, subtitles
from speechssl.decoding.transcript import Symbol, Word


def words(text: str, *, seconds: float = 0.4, pauses: dict[int, float] | None = None) -> list[Word]:
    """Each word takes ``seconds``; ``pauses`` are before words, by their number."""
    found, now = [], 0.0
    for number, word in enumerate(text.split()):
        now += (pauses or {}).get(number, 0.0)
        found.append(Word(word, round(now, 3), round(now + seconds, 3), 0.9))
        now += seconds
    return found


LONG = "the quick brown fox jumps over the lazy dog and runs away into the deep dark forest " * 4


def test_limits():
    for limit in (20, 42):
        shown = subtitles(words(LONG), limit)
        assert " ".join(line for s in shown for line in s.lines) == " ".join(LONG.split())
        assert all(len(line) <= limit for s in shown for line in s.lines)
        assert all(1 <= len(s.lines) <= 2 for s in shown)
        assert all(0 < s.end - s.start <= MAX_SECONDS for s in shown)
        assert all(a.end <= b.start for a, b in itertools.pairwise(shown))


def test_breaks_at_pauses():
    text = "one two three four five six seven eight nine ten eleven twelve"
    [first, second] = subtitles(words(text, pauses={4: 0.8}))
    assert first.lines == ["one two three four"]
    assert second.lines == ["five six seven eight", "nine ten eleven twelve"]
    assert first.end == 1.6
    said = [Word("one", 0.0, 1.0, 0.9), Word("two", 1.0 + PAUSE_SECONDS, 2.0, 0.9)]
    assert len(subtitles(said)) == 2


def test_a_small_pause_decides_where_there_is_too_much():
    shown = subtitles(words(LONG, pauses={11: 0.3}))
    assert " ".join(shown[0].lines).endswith("runs")
    shown = subtitles(words(LONG, pauses={3: 0.5, 11: 0.3}))
    assert " ".join(shown[0].lines).endswith("runs"), "the longest in the second half"


def test_lines_are_even():
    [only] = subtitles(words("a few words that need two lines to be read"), 30)
    assert only.lines == ["a few words that need", "two lines to be read"]
    for limit, lines in ((8, ["four", "and more"]), (13, ["four and more"])):
        [full] = subtitles(words("four and more"), limit)
        assert full.lines == lines


def test_shown_long_enough_to_be_read():
    first, _second = subtitles(words("yes no", seconds=0.2, pauses={1: 3.0}))
    assert (first.start, first.end) == (0.0, MIN_SECONDS)
    close = subtitles(words("yes no", seconds=0.1, pauses={1: 0.75}))
    assert close[0].end == close[1].start


def test_words_longer_than_a_line():
    letters = "他" * 50
    symbols = [Symbol(c, i * 0.1, (i + 1) * 0.1) for i, c in enumerate(letters)]
    shown = subtitles([Word(letters, 0.0, 5.0, 0.9, symbols)], 20)
    assert [line for s in shown for line in s.lines] == [letters[:20], letters[20:40], letters[40:]]
    assert shown[-1].start in (0.0, 4.0)
    unknown = subtitles([Word("x" * 50, 0.0, 5.0, 0.9)], 20)
    assert [line for s in unknown for line in s.lines] == ["x" * 20, "x" * 20, "x" * 10]


def test_long_words_with_what_is_not_said():
    """A text to align has punctuation, so its letters are not the symbols that were heard."""
    symbols = [Symbol("他", i * 0.1, (i + 1) * 0.1) for i in range(40)]
    written = "「" + "他" * 20 + "、" + "他" * 20 + "。」 —"
    pieces = subtitles([Word(written, 0.0, 4.0, 0.9, symbols)], 10)
    assert all(len(line) <= 10 for s in pieces for line in s.lines)
    assert "".join(line for s in pieces for line in s.lines) == written
    assert all(a.start < a.end <= b.start for a, b in itertools.pairwise(pieces))
    even = [4.0 * letters / len(written) for letters in (0, 20, 40)]
    assert [piece.start for piece in pieces] == pytest.approx(even, abs=0.1)


def test_nothing():
    assert subtitles([]) == []
