"""Options that the training commands share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import click

on_collapse_option = click.option(
    "--on-collapse",
    type=click.Choice(["stop", "warn"]),
    default="warn",
    show_default=True,
    help="What to do when the run has failed (see speechssl doctor): end it with an error, or say "
    "what is wrong and go on. Where the loss is no number any more, it ends in any case.",
)


@contextmanager
def one_voice() -> Iterator[None]:
    """Of the processes that torchrun started, lets only the first say that it was interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            raise
        from speechssl.cli.main import EXIT_INTERRUPTED

        raise SystemExit(EXIT_INTERRUPTED) from None
