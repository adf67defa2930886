"""Transcripts as files: plain text, JSON, subtitles, tables, and what other programs read.

txt       the words; a new line after each pause of a second
json      everything: text, seconds, words with times, confidences and symbols, alternatives
srt, vtt  subtitles (SubRip, WebVTT)
tsv       a table: start, end, confidence, word
ctm       NIST's time-marked words: recording, channel, start, duration, word, confidence
textgrid  Praat's TextGrid with two tiers, words and symbols
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from speechssl.decoding.subtitles import LINE_CHARACTERS, subtitles
from speechssl.decoding.transcript import Symbol, Transcript, Word

LINE_PAUSE_SECONDS = 1.0
"""Pauses after which a text goes on in a new line."""


def render(
    transcript: Transcript, form: str, name: str, line_characters: int = LINE_CHARACTERS
) -> str:
    """``transcript`` in one of ``FORMATS``, as the contents of a UTF-8 file.

    ``name`` is what the recording is called; ``line_characters`` is for subtitles.
    """
    return _WRITERS[form](transcript, name, line_characters)


def _txt(transcript: Transcript, name: str, line_characters: int) -> str:
    lines: list[str] = []
    end = float("-inf")
    for word in transcript.words:
        if word.start - end >= LINE_PAUSE_SECONDS:
            lines.append(word.text)
        else:
            lines[-1] += f" {word.text}"
        end = word.end
    return "\n".join(lines) + "\n"


def _json(transcript: Transcript, name: str, line_characters: int) -> str:
    values = {
        "recording": name,
        "seconds": transcript.seconds,
        "text": transcript.text,
        "words": [asdict(word) for word in transcript.words],
        "alternatives": [{"text": text, "score": score} for text, score in transcript.alternatives],
    }
    return json.dumps(values, ensure_ascii=False, indent=1) + "\n"


def _srt(transcript: Transcript, name: str, line_characters: int) -> str:
    blocks = []
    for number, subtitle in enumerate(subtitles(transcript.words, line_characters), start=1):
        times = f"{_clock(subtitle.start, ',')} --> {_clock(subtitle.end, ',')}"
        blocks.append("\n".join([str(number), times, *subtitle.lines]) + "\n")
    return "\n".join(blocks)


def _vtt(transcript: Transcript, name: str, line_characters: int) -> str:
    blocks = ["WEBVTT\n"]
    for subtitle in subtitles(transcript.words, line_characters):
        times = f"{_clock(subtitle.start, '.')} --> {_clock(subtitle.end, '.')}"
        lines = [_escaped(line) for line in subtitle.lines]
        blocks.append("\n".join([times, *lines]) + "\n")
    return "\n".join(blocks)


def _escaped(line: str) -> str:
    """``line`` without what WebVTT takes for tags."""
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _tsv(transcript: Transcript, name: str, line_characters: int) -> str:
    rows = ["start\tend\tconfidence\tword"]
    for word in transcript.words:
        rows.append(f"{word.start:.3f}\t{word.end:.3f}\t{word.confidence:.4f}\t{word.text}")
    return "\n".join(rows) + "\n"


def _ctm(transcript: Transcript, name: str, line_characters: int) -> str:
    def field(text: str) -> str:
        return "_".join(text.split())  # spaces separate the fields

    recording = field(name)
    return "".join(
        f"{recording} 1 {word.start:.3f} {word.end - word.start:.3f} {field(word.text)} "
        f"{word.confidence:.4f}\n"
        for word in transcript.words
    )


def _textgrid(transcript: Transcript, name: str, line_characters: int) -> str:
    """The long text format, as in Praat's manual, "TextGrid file formats"."""
    end = max([transcript.seconds, *(word.end for word in transcript.words)])
    symbols = [symbol for word in transcript.words for symbol in word.symbols]
    tiers: dict[str, Sequence[Word | Symbol]] = {"words": transcript.words, "symbols": symbols}
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {end:.3f}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (tier, marks) in enumerate(tiers.items(), start=1):
        intervals = _intervals(marks, end)
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f'        name = "{tier}"',
            "        xmin = 0",
            f"        xmax = {end:.3f}",
            f"        intervals: size = {len(intervals)}",
        ]
        for place, (start, stop, text) in enumerate(intervals, start=1):
            quoted = text.replace('"', '""')
            lines += [
                f"        intervals [{place}]:",
                f"            xmin = {start:.3f}",
                f"            xmax = {stop:.3f}",
                f'            text = "{quoted}"',
            ]
    return "\n".join(lines) + "\n"


def _intervals(marks: Sequence[Word | Symbol], end: float) -> list[tuple[float, float, str]]:
    """``marks`` and the silences between them, from 0 to ``end`` without gaps."""
    intervals = []
    reached = 0.0
    for mark in marks:
        if mark.start > reached:
            intervals.append((reached, mark.start, ""))
        intervals.append((mark.start, mark.end, mark.text))
        reached = mark.end
    if end > reached or not intervals:
        intervals.append((reached, end, ""))
    return intervals


def _clock(seconds: float, point: str) -> str:
    """Hours, minutes, seconds and milliseconds: 01:02:03,456."""
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}{point}" + (
        f"{milliseconds % 1000:03d}"
    )


_WRITERS: dict[str, Callable[[Transcript, str, int], str]] = {
    "txt": _txt,
    "json": _json,
    "srt": _srt,
    "vtt": _vtt,
    "tsv": _tsv,
    "ctm": _ctm,
    "textgrid": _textgrid,
}

FORMATS = tuple(_WRITERS)

SUFFIXES = {form: ".TextGrid" if form == "textgrid" else f".{form}" for form in FORMATS}
"""How the name of a file in each format ends."""
