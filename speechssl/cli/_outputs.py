"""What the commands that write transcripts have in common: their formats and files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from speechssl.decoding.outputs import FORMATS
from speechssl.decoding.subtitles import LINE_CHARACTERS

if TYPE_CHECKING:
    from speechssl.decoding.settings import DecodingSettings

_NO_MATTER = {
    "model",
    "audio",
    "formats",
    "output_dir",
    "out",
    "overwrite",
    "device",
    "batch_seconds",
}
"""Options that do not change what is recognised (the model counts by its files)."""


class FormatList(click.ParamType[tuple[str, ...]]):
    """One or several formats with commas between them."""

    name = "formats"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """The formats, each once. Fails on an unknown one."""
        if isinstance(value, tuple):
            return value
        wanted = tuple(dict.fromkeys(str(value).lower().split(",")))
        for form in wanted:
            if form not in FORMATS:
                self.fail(f"unknown format {form!r}; known are {', '.join(FORMATS)}.", param, ctx)
        return wanted


format_option = click.option(
    "--format",
    "formats",
    type=FormatList(),
    default="txt",
    show_default=True,
    help=f"One or several, with commas: {', '.join(FORMATS)}.",
)

line_option = click.option(
    "--line-characters",
    type=click.IntRange(min=10),
    default=LINE_CHARACTERS,
    show_default=True,
    help="The longest line of a subtitle, of which there are two.",
)


def settings_hash(context: click.Context, model: Path, decoding: DecodingSettings) -> str:
    """A hash of the model and of all options that change what is recognised.

    Files among the options, and those that the file of ``--decoding`` names, count by their size
    and time of change.
    """
    from speechssl.files import sha256
    from speechssl.models.folder import CONFIG, TOKENS, WEIGHTS

    settings: dict[str, object] = {}
    for name, value in sorted(context.params.items()):
        if name not in _NO_MATTER:
            several = isinstance(value, (tuple, list))
            settings[name] = [_described(item) for item in (value if several else [value])]
    for name in ("lm", "lexicon"):
        settings[name] = [_described(getattr(decoding, name))]
    for name in (WEIGHTS, CONFIG, TOKENS):
        file = model / name
        settings[name] = sha256(file) if file.is_file() else None
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


def _described(value: object) -> object:
    """An option's value, or what tells a file from others where it names one."""
    if isinstance(value, (str, Path)) and os.path.isfile(value):
        state = os.stat(value)
        return [Path(value).name, state.st_size, state.st_mtime_ns]
    return repr(value)
