"""What the training commands print, and what they keep from the console."""

from __future__ import annotations

import logging
import sys

import click


def echo(line: str) -> None:
    """Prints a line on standard error, above the progress bar where there is one."""
    from fairseq2.utils.rich import get_error_console

    if sys.stderr.isatty():
        get_error_console().print(line, highlight=False, soft_wrap=True)
    else:
        click.echo(line, err=True)


def quiet_console() -> None:
    """Leaves warnings on the console; everything else goes to logs/ in the run's folder."""
    logging.getLogger("fairseq2").setLevel(logging.INFO)
    for handler in logging.getLogger().handlers:
        handler.setLevel(logging.WARNING)


def hide_library_warnings() -> None:
    """Keeps what libraries say to their own developers off the user's console."""
    engine = logging.getLogger("fairseq2")
    engine.setLevel(logging.WARNING)  # until the log file is open
    engine.addFilter(lambda record: "training will be run on CPU" not in record.getMessage())
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").addFilter(
        lambda record: "DeprecationWarning" not in record.getMessage()
    )
