"""Every format is read back by a program that is not ours."""

import csv
import html
import io
import itertools
import json
from pathlib import Path

import pytest
import srt
import webvtt
from lhotse import SupervisionSegment, SupervisionSet
from praatio import textgrid

from speechssl.decoding.outputs import FORMATS, SUFFIXES, render
from speechssl.decoding.transcript import Symbol, Transcript, Word


def word(text: str, start: float, end: float, confidence: float = 0.5) -> Word:
    step = (end - start) / len(text)
    times = [round(start + i * step, 3) for i in range(len(text))] + [end]
    symbols = [Symbol(c, times[i], times[i + 1]) for i, c in enumerate(text)]
    return Word(text, start, end, confidence, symbols)


WORDS = [
    word("so", 0.5, 0.75, 0.987),
    word('"<he>"', 0.75, 1.2),
    word("čte", 1.31, 1.9),
    word("&", 2.0, 2.1),
    word("пишет", 3.4, 4.0),
    word("later", 3725.0, 3725.5, 0.0),
]
TRANSCRIPT = Transcript(" ".join(w.text for w in WORDS), WORDS, 3726.0, [("so he", -3.5)])
EMPTY = Transcript("", [], 2.0)


def test_txt():
    assert render(TRANSCRIPT, "txt", "talk") == 'so "<he>" čte &\nпишет\nlater\n'
    assert render(EMPTY, "txt", "talk") == "\n"


def test_json():
    values = json.loads(render(TRANSCRIPT, "json", "talk"))
    assert values["recording"] == "talk"
    assert values["seconds"] == 3726.0
    assert values["text"] == TRANSCRIPT.text
    assert [w["text"] for w in values["words"]] == [w.text for w in WORDS]
    assert values["words"][0]["confidence"] == 0.987
    assert values["words"][2]["symbols"][1] == {"text": "t", "start": 1.507, "end": 1.703}
    assert values["alternatives"] == [{"text": "so he", "score": -3.5}]


def test_srt():
    cues = list(srt.parse(render(TRANSCRIPT, "srt", "talk"), ignore_errors=False))
    assert [cue.content for cue in cues] == ['so "<he>" čte &', "пишет", "later"]
    assert [cue.index for cue in cues] == [1, 2, 3]
    assert cues[0].start.total_seconds() == 0.5
    assert cues[-1].start.total_seconds() == 3725.0
    assert list(srt.parse(render(EMPTY, "srt", "talk"), ignore_errors=False)) == []


def test_times_of_subtitles_are_the_nearest_milliseconds():
    times = [round(1.001 * number, 3) for number in range(100)]
    said = [Word("a", start, start + 0.1, 0.5) for start in times]
    cues = srt.parse(render(Transcript("", said, 100.0), "srt", "talk"), ignore_errors=False)
    assert [cue.start.total_seconds() for cue in cues] == pytest.approx(times, abs=1e-6)


def test_vtt():
    cues = list(webvtt.from_string(render(TRANSCRIPT, "vtt", "talk")))
    assert [html.unescape(cue.text) for cue in cues] == ['so "<he>" čte &', "пишет", "later"]
    assert [cue.start for cue in cues[:2]] == ["00:00:00.500", "00:00:03.400"]
    assert cues[-1].start == "01:02:05.000"
    assert list(webvtt.from_string(render(EMPTY, "vtt", "talk"))) == []


def test_tsv():
    rows = list(
        csv.DictReader(
            io.StringIO(render(TRANSCRIPT, "tsv", "talk")),
            dialect="excel-tab",
            quoting=csv.QUOTE_NONE,
        )
    )
    assert [row["word"] for row in rows] == [w.text for w in WORDS]
    assert [float(row["start"]) for row in rows] == [w.start for w in WORDS]
    assert [float(row["end"]) for row in rows] == [w.end for w in WORDS]
    assert float(rows[0]["confidence"]) == 0.987


def test_ctm(tmp_path: Path):
    path = tmp_path / "words.ctm"
    path.write_text(render(TRANSCRIPT, "ctm", "a talk"), encoding="utf-8")
    whole = SupervisionSegment("1", "a_talk", 0.0, 3726.0, channel=1)
    [read] = SupervisionSet.from_segments([whole]).with_alignment_from_ctm(path)
    items = read.alignment["word"]
    assert [item.symbol for item in items] == [w.text for w in WORDS]
    assert [item.start for item in items] == pytest.approx([w.start for w in WORDS])
    assert [item.end for item in items] == pytest.approx([w.end for w in WORDS], abs=1e-3)
    assert [item.score for item in items] == pytest.approx([w.confidence for w in WORDS])


def test_ctm_of_an_aligned_dash():
    """A word of ``speechssl align`` may hold a space, which would be one field too many."""
    aligned = Transcript("ha – bed", [word("ha –", 0.0, 0.5), word("bed", 0.5, 1.0)], 1.0)
    lines = render(aligned, "ctm", "talk").splitlines()
    assert [line.split()[4] for line in lines] == ["ha_–", "bed"]
    assert all(len(line.split()) == 6 for line in lines)


@pytest.mark.parametrize("transcript", [TRANSCRIPT, EMPTY])
def test_textgrid(tmp_path: Path, transcript: Transcript):
    path = tmp_path / "talk.TextGrid"
    path.write_text(render(transcript, "textgrid", "talk"), encoding="utf-8")
    grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=True, reportingMode="error")
    assert grid.tierNames == ("words", "symbols")
    assert grid.maxTimestamp == transcript.seconds
    tier = grid.getTier("words")
    said = [entry for entry in tier.entries if entry.label]
    assert [entry.label for entry in said] == [w.text for w in transcript.words]
    assert [entry.start for entry in said] == [w.start for w in transcript.words]
    assert [entry.end for entry in said] == [w.end for w in transcript.words]
    for entries in (tier.entries, grid.getTier("symbols").entries):
        assert entries[0].start == 0
        assert entries[-1].end == transcript.seconds
        assert all(a.end == b.start for a, b in itertools.pairwise(entries))


def test_a_word_may_end_behind_the_recording(tmp_path: Path):
    """By what a frame is longer than the last samples."""
    path = tmp_path / "talk.TextGrid"
    late = Transcript("ab", [word("ab", 0.5, 1.004)], 1.0)
    path.write_text(render(late, "textgrid", "talk"), encoding="utf-8")
    grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=True, reportingMode="error")
    assert grid.maxTimestamp == grid.getTier("words").entries[-1].end == 1.004


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_the_length_of_lines(form: str):
    said = [word("word", number, number + 0.9) for number in range(40)]
    lines = render(Transcript("", said, 40.0), form, "talk", line_characters=10).splitlines()
    assert max(len(line) for line in lines if line.startswith("word")) == len("word word")


def test_every_format_is_tested():
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert set(FORMATS) <= tests
    assert set(SUFFIXES) == set(FORMATS)
