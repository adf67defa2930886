"""The ``speechssl`` command: finds its subcommands by file name and loads only the one asked for.

A subcommand is a module ``speechssl/cli/<name>.py`` with a click command called ``command``;
where the name is a word of Python's own, the file has an underscore after it (``import_.py``).
Such a module imports torch, Lhotse and the like inside its functions, so that ``--help`` is
instant and ``transcribe`` never loads training code.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import keyword
import os
import pkgutil
import re
from typing import Any

import click

import speechssl
from speechssl.errors import SpeechSSLError

EXIT_BAD_INPUT = 2
"""Exit status when the user can mend what went wrong."""

EXIT_INTERRUPTED = 130
"""Exit status after Ctrl-C (128 + SIGINT), and of training that SIGTERM has ended in order."""


_ADVICE = {
    errno.ENOENT: "; check the path",
    errno.EISDIR: "; give a file",
    errno.ENOTDIR: "; give a folder",
}
"""What to do where the system says no more than what is wrong."""


class UserError(click.ClickException):
    """A problem shown as one ``error:`` line on stderr; exits with status 2."""

    exit_code = EXIT_BAD_INPUT

    def show(self, file: Any = None) -> None:
        """Prints the message, folded into one line. Of the processes that torchrun started, all but
        the first say which they are: what all of them meet is told from what one of them does."""
        rank = os.environ.get("RANK", "0")
        place = "" if rank == "0" else f"rank {rank}: "
        line = f"error: {place}{' '.join(self.message.split())}"
        click.echo(line, file=file, err=file is None)


class OneLineErrors(click.Command):
    """A click command that turns what the user can mend into one line and exit status 2."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        settings["context_settings"] = {
            "help_option_names": ["-h", "--help"],
            **(settings.get("context_settings") or {}),
        }
        super().__init__(*arguments, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command. Raises ``UserError`` in place of ``SpeechSSLError`` and file errors."""
        try:
            return super().invoke(ctx)
        except SpeechSSLError as error:
            raise UserError(str(error)) from error
        except KeyboardInterrupt as interrupt:
            click.echo(str(interrupt) or "interrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)
        except UnicodeEncodeError as error:
            if error.reason != "surrogates not allowed":
                raise
            before, behind = error.object[: error.start], error.object[error.start :]
            word = re.split(r"\s", before)[-1] + re.split(r"\s", behind)[0]
            raise UserError(
                f"{word.encode(errors='replace').decode()}: cannot be written as UTF-8; where this "
                "is the name of a file or folder, rename that."
            ) from error
        except BrokenPipeError:
            raise  # the reader of our output has gone: click leaves quietly
        except OSError as error:
            place = error.filename2 or error.filename  # the second is where a file was to go
            what = f"{place}: {error.strerror}" if place else error.strerror
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(f"{what}; free some, then run this again.") from error
            if error.filename is None or error.strerror is None:
                raise
            raise UserError(f"{what}{_ADVICE.get(error.errno or 0, '')}.") from error


class LazyGroup(OneLineErrors, click.Group):
    """A click group whose commands are the modules of ``speechssl.cli``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The command names, in alphabetical order."""
        package = importlib.import_module("speechssl.cli")
        names = [module.name for module in pkgutil.iter_modules(package.__path__)]
        commands = [name.rstrip("_") for name in names if name != "main" and name[0] != "_"]
        return sorted(name.replace("_", "-") for name in commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command's module. Returns None for an unknown name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        name = cmd_name.replace("-", "_") + "_" * keyword.iskeyword(cmd_name)
        module = importlib.import_module(f"speechssl.cli.{name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but an unknown name is answered with the nearest known one."""
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-"):
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(known)}."
            raise click.UsageError(f"unknown command {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup)
@click.version_option(speechssl.__version__, prog_name="speechssl")
def group() -> None:
    """From untranscribed speech and a few minutes of transcripts to a recogniser.

    \b
    The usual order:
      python tools/prepare_folder.py recordings data --transcripts transcripts.tsv
      speechssl label      data --name mfcc --clusters 100
      speechssl pretrain   recipes/clusters_tiny.yaml data exp/pretrain --targets mfcc
      speechssl finetune   recipes/ctc_tiny.yaml data exp/finetune --init exp/pretrain/model
      speechssl decode     exp/finetune/model data/test/cuts.jsonl.gz exp/test.hyps.jsonl
      speechssl score      exp/test.hyps.jsonl
      speechssl transcribe exp/finetune/model recording.wav

    Every command has its own --help with an example.
    """


def main() -> None:
    """The entry point of the ``speechssl`` script."""
    group(prog_name="speechssl")


if __name__ == "__main__":
    main()
