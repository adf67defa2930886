from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.data.streams import file_seconds
from speechssl.decoding.transcriber import Transcriber
from speechssl.errors import AudioError
from speechssl.serving.progressive import SEGMENT_FRAMES, parts


def test_parts_are_the_transcript(transcriber: Transcriber, recordings: Path) -> None:
    whole = transcriber.file_transcript(recordings / "short.wav")
    first, last = parts(transcriber, recordings / "short.wav", 60)
    assert whole.words
    assert first.words == whole.words
    assert (last.words, last.until) == ([], whole.seconds)


def test_long_recordings_come_part_by_part(transcriber: Transcriber, recordings: Path) -> None:
    found = list(parts(transcriber, recordings / "long.flac", 120))
    ends = [part.until for part in found]
    assert len(found) >= 5
    assert ends == sorted(ends)
    assert ends[-1] == 70
    assert max(np.diff([0, *ends])) <= SEGMENT_FRAMES / 50
    words = [word for part in found for word in part.words]
    assert all(a.end <= b.start for a, b in pairwise(words))
    letters = transcriber.file_transcript(recordings / "long.flac").text.replace(" ", "")
    assert "".join(word.text for word in words) == letters


def test_too_long(transcriber: Transcriber, recordings: Path) -> None:
    for seconds, shown in ((60, "1"), (30, "0.5")):
        with pytest.raises(AudioError, match=f"longer than the {shown} minutes"):
            next(parts(transcriber, recordings / "long.flac", seconds))


def test_too_long_without_a_header_that_says_so(transcriber: Transcriber, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(60 * 16_000), 16_000)
    path = (tmp_path / "long.wav").rename(tmp_path / "long.m4a")  # such are only known by decoding
    assert file_seconds(path) is None
    with pytest.raises(AudioError, match="longer than the 1 minutes"):
        list(parts(transcriber, path, 59))
