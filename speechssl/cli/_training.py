"""Options that the training commands share."""

from __future__ import annotations

import click

on_collapse_option = click.option(
    "--on-collapse",
    type=click.Choice(["stop", "warn"]),
    default="warn",
    show_default=True,
    help="What to do when the run has failed (see speechssl doctor): end it with an error, or say "
    "what is wrong and go on. Where the loss is no number any more, it ends in any case.",
)
