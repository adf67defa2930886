import csv
import io
import os
import shutil

import pytest
from praatio import textgrid

from speechssl.decoding.transcriber import Transcriber


@pytest.fixture
def recording(corpus):
    return sorted((corpus / "audio").glob("test-*.wav"))[0]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "said.txt"
    path.write_text("Ada – gaba!\n", encoding="utf-8")
    return path


def test_table(speechssl, recogniser, recording, text):
    result = speechssl("align", recogniser, recording, text, "--format", "tsv")
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(io.StringIO(result.stdout), dialect="excel-tab"))
    assert [row["word"] for row in rows] == ["Ada –", "gaba!"]
    assert 0 <= float(rows[0]["start"]) < float(rows[0]["end"]) <= float(rows[1]["start"])


def test_its_own_text(speechssl, recogniser, recording, text):
    [heard] = [Transcriber(recogniser).file_transcript(recording)]
    text.write_text(heard.text, encoding="utf-8")
    result = speechssl("align", recogniser, recording, text, "--format", "tsv")
    rows = list(csv.DictReader(io.StringIO(result.stdout), dialect="excel-tab"))
    assert [float(row["start"]) for row in rows] == pytest.approx(
        [word.start for word in heard.words], abs=0.1
    )


def test_a_name_that_is_not_utf8_is_named(fails, recogniser, recording, text, tmp_path):
    bad = tmp_path / os.fsdecode(b"caf\xe9.wav")
    shutil.copyfile(recording, bad)
    assert "caf?.wav: cannot be written as UTF-8" in fails("align", recogniser, bad, text)


def test_several_files(speechssl, fails, recogniser, recording, text, tmp_path):
    out = tmp_path / "new" / "said.srt"
    arguments = ("align", recogniser, recording, text, "--out", out, "--format", "srt,textgrid")
    assert speechssl(*arguments).exit_code == 0
    grid = textgrid.openTextgrid(str(out.with_suffix(".TextGrid")), includeEmptyIntervals=False)
    assert [entry.label for entry in grid.getTier("words").entries] == ["Ada –", "gaba!"]
    assert "Ada – gaba!" in out.read_text(encoding="utf-8")
    assert "exists; give --overwrite" in fails(*arguments)
    assert speechssl(*arguments, "--overwrite").exit_code == 0


def test_a_folder_is_no_file(speechssl, recogniser, recording, text):
    result = speechssl("align", recogniser, recording, text, "--format", "srt,vtt", "--out", ".")
    assert (result.exit_code, "'.' is a directory" in result.stderr) == (2, True)


def test_mistakes(fails, recogniser, recording, text, tmp_path):
    assert "need --out" in fails("align", recogniser, recording, text, "--format", "srt,vtt")
    assert "no such file" in fails("align", recogniser, recording, tmp_path / "none.txt")
    assert "no such file" in fails("align", recogniser, tmp_path / "none.wav", text)
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    assert "not UTF-8" in fails("align", recogniser, recording, tmp_path / "latin.txt")
    (tmp_path / "foreign.txt").write_text("xylophone")
    assert "no token for 'x'" in fails("align", recogniser, recording, tmp_path / "foreign.txt")
