import json

import pytest
import soundfile
from click.testing import CliRunner

from speechssl.cli.listen import _show_tentative, _until_interrupted
from speechssl.cli.main import group
from speechssl.data.streams import file_blocks
from speechssl.decoding.live import listen
from speechssl.decoding.transcriber import Transcriber
from tests.terminal import Terminal


@pytest.fixture
def samples(corpus) -> bytes:
    paths = sorted((corpus / "audio").glob("test-*.wav"))
    path = next(path for path in paths if soundfile.info(path).samplerate == 16_000)
    return path.read_bytes()


def test_lines(recogniser, samples):
    result = CliRunner().invoke(group, ["listen", str(recogniser), "-"], input=samples)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()
    promise, summary = result.stderr.splitlines()
    assert promise.startswith("listening: words appear within 0.5 s and are final 2.0 s after")
    assert summary.startswith("computing took")


def test_updates_as_json(recogniser, samples):
    arguments = ["listen", str(recogniser), "-", "--json", "--step", "0.3", "--beam", "4"]
    result = CliRunner().invoke(group, arguments, input=samples)
    assert result.exit_code == 0, result.output
    updates = [json.loads(line) for line in result.stdout.splitlines()]
    assert {update["final"] for update in updates} == {True, False}
    assert updates[-1]["final"]
    for update in updates:
        assert update["text"] == " ".join(word["text"] for word in update["words"])


def test_ctrl_c_keeps_what_was_said_last(recogniser, corpus):
    path = sorted((corpus / "audio").glob("test-*.wav"))[0]

    def microphone():
        yield from file_blocks(path)
        raise KeyboardInterrupt

    *_, last = listen(Transcriber(recogniser), _until_interrupted(microphone()))
    assert last.final
    assert last.text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("so it is", "so it is"),
        ("and so it is now", "it is now"),
        ("今日は晴れ", "日は晴れ"),
        ("abcd日本語", "bcd日本語"),
        ("ｆｕｌｌ ok", "ｕｌｌ ok"),
        ("한국어 말", "한국어 말"),
        ("cafe\u0301 cafe\u0301", "cafe\u0301 cafe\u0301"),
        ("xx cafe\u0301 cafe\u0301", "cafe\u0301 cafe\u0301"),
        ("e\u0301" + 9 * "i", 9 * "i"),  # no mark without its letter
        ("की बात ठीक है", "बात ठीक है"),
    ],
)
def test_what_may_change_stays_on_one_line(monkeypatch, text, shown):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "10")
    monkeypatch.setenv("LINES", "24")
    _show_tentative(text)
    assert terminal.getvalue() == f"\r\x1b[K{shown}"


def test_nothing_comes(recogniser):
    result = CliRunner().invoke(group, ["listen", str(recogniser), "-"], input=b"")
    assert result.exit_code == 2
    assert "stdin: has no samples" in result.stderr
