import json

import pytest
import soundfile
from click.testing import CliRunner

from speechssl.cli.listen import _until_interrupted
from speechssl.cli.main import group
from speechssl.data.streams import file_blocks
from speechssl.decoding.live import listen
from speechssl.decoding.transcriber import Transcriber


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


def test_nothing_comes(recogniser):
    result = CliRunner().invoke(group, ["listen", str(recogniser), "-"], input=b"")
    assert result.exit_code == 2
    assert "stdin: has no samples" in result.stderr
