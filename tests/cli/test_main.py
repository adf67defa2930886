import os
import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

import speechssl as package
from speechssl.cli.main import group
from speechssl.errors import AudioError

COMMANDS = group.list_commands(click.Context(group))


def test_commands_are_found_by_file_name():
    assert {"decode", "info", "score", "transcribe"} <= set(COMMANDS)
    assert "main" not in COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(speechssl, name):
    result = speechssl(name, "--help")
    assert result.exit_code == 0
    assert re.search("Examples?:\n", result.output)
    assert f"  speechssl {name} " in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name):
    command = group.get_command(click.Context(group), name)
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert [option.opts for option in options if not option.help] == []


def test_group_help_lists_the_commands(speechssl):
    result = speechssl("--help")
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in result.output


def test_version(speechssl):
    assert package.__version__ in speechssl("--version").output


def test_help_loads_nothing_heavy():
    code = (
        "import sys\n"
        "from speechssl.cli.main import group\n"
        "try: group(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'lhotse', 'fairseq2', 'numpy', 'jiwer'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_unknown_command_names_the_nearest(speechssl):
    result = speechssl("transcibe", "x")
    assert result.exit_code == 2
    assert "did you mean 'transcribe'?" in result.stderr
    assert "known are align" in speechssl("xyz").stderr


@pytest.mark.parametrize(
    ("error", "exit_code", "message"),
    [
        (AudioError("a.wav: is\nempty; remove it."), 2, "error: a.wav: is empty; remove it.\n"),
        (PermissionError(13, "Permission denied", "x"), 2, "error: x: Permission denied.\n"),
        (
            OSError(28, "No space left on device"),
            2,
            "error: No space left on device; free some, then run this again.\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_what_goes_wrong_is_one_line(monkeypatch, error, exit_code, message):
    def raise_error() -> None:
        raise error

    command = click.Command("boom", callback=raise_error)
    monkeypatch.setattr(type(group), "get_command", lambda *_: command)
    monkeypatch.setattr(type(group), "list_commands", lambda *_: ["boom"])
    result = CliRunner().invoke(group, ["boom"])
    assert (result.exit_code, result.stderr) == (exit_code, message)


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    def raise_error() -> None:
        raise ZeroDivisionError

    command = click.Command("boom", callback=raise_error)
    monkeypatch.setattr(type(group), "get_command", lambda *_: command)
    monkeypatch.setattr(type(group), "list_commands", lambda *_: ["boom"])
    with pytest.raises(ZeroDivisionError):
        CliRunner().invoke(group, ["boom"], catch_exceptions=False)


def test_installed_script():
    done = subprocess.run(
        [sys.executable, "-m", "speechssl.cli.main", "score", "/no/such/hyps.jsonl"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: /no/such/hyps.jsonl: cannot be read")
    assert done.stderr.count("\n") == 1


def test_processes_of_torchrun_say_which_they_are():
    """All but the first, which speaks as it does alone."""
    for rank, place in (("0", ""), ("1", "rank 1: ")):
        done = subprocess.run(
            [sys.executable, "-m", "speechssl.cli.main", "score", "/no/such/hyps.jsonl"],
            env={**os.environ, "RANK": rank},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {place}/no/such/hyps.jsonl: cannot be read")
        assert done.stderr.count("\n") == 1


def test_closed_pipe_is_quiet(tmp_path):
    """As in ``speechssl score ... | head -1``."""
    hypotheses = tmp_path / "hyps.jsonl"
    lines = [f'{{"id": "{i}", "text": "a", "reference": "b"}}\n' for i in range(4000)]
    hypotheses.write_text("".join(lines))
    command = [sys.executable, "-m", "speechssl.cli.main", "score", hypotheses, "--worst", "4000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.wait()
