"""The options that say how to decode, shared by the commands that do.

A command that has them is written::

    @click.command()
    @decoder_options
    def command(..., decoding: DecodingSettings) -> None:
        transcriber = Transcriber(model)
        transcriber.decoder = make_decoder(decoding, transcriber.tokens)

where ``make_decoder`` is that of ``speechssl.decoding.settings``.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_FILE = click.Path(path_type=Path)

_SEARCH = (
    click.option(
        "--lm", type=_FILE, help="N-gram model of words or characters: ARPA or KenLM binary."
    ),
    click.option(
        "--lexicon", type=_FILE, help="Words to write, with tokens.  [default: those of the ARPA]"
    ),
    click.option(
        "--open-vocabulary/--closed-vocabulary",
        default=None,
        help="Also write words that the ARPA file does not have, as they are spelled; slower.",
    ),
    click.option(
        "--hotwords",
        multiple=True,
        metavar="WORDS",
        help="A word or phrase to expect, or a text file of them, one per line. Repeatable.",
    ),
    click.option("--hotword-weight", type=float, help="Credit for each such word.  [default: 8]"),
)

_WEIGHTS = (
    click.option("--decoding", type=_FILE, help="Settings that tune-decoding wrote."),
    click.option("--beam", type=int, help="Beam search with this many readings.  [default: 50]"),
    click.option("--lm-weight", type=float, help="Weight of the language model.  [default: 1]"),
    click.option("--word-score", type=float, help="Bonus for each word.  [default: 1.5]"),
    click.option(
        "--unknown-score", type=float, help="Bonus for each word not in the ARPA.  [default: -1]"
    ),
)

_NAMES = (
    *("decoding", "lm", "lexicon", "open_vocabulary", "hotwords", "hotword_weight"),
    *("beam", "lm_weight", "word_score", "unknown_score"),
)
"""What these options are called as arguments of a command."""


def decoder_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of beam search; the command gets them as ``decoding: DecodingSettings``.

    Options win over the file of ``--decoding``. Without any of them the settings are greedy.
    """
    return _with_settings(command, (*_WEIGHTS[:1], *_SEARCH, *_WEIGHTS[1:]))


def search_options(command: Callable[..., None]) -> Callable[..., None]:
    """As ``decoder_options``, without the options that ``tune-decoding`` is there to find."""
    return _with_settings(command, _SEARCH)


def _with_settings(command: Callable[..., None], options: tuple[Any, ...]) -> Callable[..., None]:
    @functools.wraps(command)
    def with_settings(**arguments: Any) -> None:
        given = {name: arguments.pop(name, None) for name in _NAMES}
        command(**arguments, decoding=_settings(**given))

    for option in reversed(options):
        option(with_settings)
    return with_settings


def _settings(decoding: Path | None, hotwords: tuple[str, ...], **given: Any) -> Any:
    """The ``DecodingSettings`` of the options."""
    from dataclasses import replace

    from speechssl.decoding.settings import DecodingSettings

    settings = DecodingSettings() if decoding is None else DecodingSettings.load(decoding)
    changes: dict[str, Any] = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in given.items()
        if value is not None
    }
    if hotwords:
        changes["hotwords"] = tuple(_phrases(hotwords))
    return replace(settings, **changes)


def _phrases(hotwords: tuple[str, ...]) -> list[str]:
    """The phrases themselves, in place of the files that hold some."""
    from speechssl.errors import ConfigError

    phrases: list[str] = []
    for given in hotwords:
        if not os.path.isfile(given):  # unlike Path's, it takes a text too long for a name
            phrases.append(given)
            continue
        try:
            lines = Path(given).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise ConfigError(f"{given}: hotwords must be UTF-8 text, one per line.") from None
        phrases += [" ".join(line.split()) for line in lines if line.strip()]
    return phrases
