"""``speechssl listen``: text while somebody speaks. Loads no training code."""

from __future__ import annotations

import json
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from speechssl.cli._decoding import decoder_options
from speechssl.cli._options import device_option, precision_option

if TYPE_CHECKING:
    from torch import Tensor

    from speechssl.decoding.live import Update
    from speechssl.decoding.settings import DecodingSettings
    from speechssl.devices import Precision


@click.command(short_help="Transcribe the microphone or a pipe while somebody speaks.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("source", type=click.Choice(["mic", "-"]), default="mic")
@click.option(
    "--step",
    type=click.FloatRange(min=0.1),
    default=0.5,
    show_default=True,
    help="Seconds of new audio after which the text is updated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print every update as a line of JSON.")
@decoder_options
@precision_option
@device_option
def command(
    model: Path,
    source: str,
    step: float,
    as_json: bool,
    precision: Precision,
    device: str,
    decoding: DecodingSettings,
) -> None:
    """Transcribe what the microphone hears, or (-) what comes through stdin, as it comes.

    stdin is a WAV stream, or raw 16-bit little-endian samples at 16 kHz, mono. Prints a line
    whenever the speaker pauses. Text that may still change is shown on the terminal, or with
    --json printed as {"final": false, "text", "words", "heard_seconds", "computing_seconds"}.

    Latency: a word appears within --step seconds and stays as it is 1.5 seconds plus --step after
    the speaker has paused, both plus the time of computing, which is summed up at the end. Ctrl-C
    ends. The microphone needs the extra: pip install -e '.[microphone]'.

    \b
    Example:
      speechssl listen exp/finetune/model
      ffmpeg -loglevel error -i talk.mp3 -f s16le -ar 16000 -ac 1 - | \\
        speechssl listen exp/finetune/model -
    """
    from speechssl.data.streams import microphone_blocks, pipe_blocks
    from speechssl.decoding.live import FINAL_SECONDS, listen
    from speechssl.decoding.settings import make_decoder
    from speechssl.decoding.transcriber import Transcriber

    transcriber = Transcriber(model, device=device, precision=precision)
    transcriber.decoder = make_decoder(decoding, transcriber.tokens)
    microphone = source == "mic"
    pipe = sys.stdin.buffer
    blocks = _until_interrupted(microphone_blocks()) if microphone else pipe_blocks(pipe)
    click.echo(
        f"listening: words appear within {step:.1f} s and are final {step + FINAL_SECONDS:.1f} s "
        "after a pause begins, plus computing",
        err=True,
    )
    computing: list[float] = []
    try:
        for update in listen(transcriber, blocks, step_seconds=step):
            computing.append(update.computing_seconds)
            _show(update, as_json)
    except KeyboardInterrupt:  # while it computed
        if not microphone:
            raise
        _show_tentative("")
    if computing:
        click.echo(
            f"computing took {sum(computing) / len(computing):.2f} s per update on average, "
            f"{max(computing):.2f} s at most",
            err=True,
        )


def _until_interrupted(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """``blocks`` until Ctrl-C, behind which what was heard is still transcribed to its end."""
    with suppress(KeyboardInterrupt):
        yield from blocks


def _show(update: Update, as_json: bool) -> None:
    if as_json:
        values = {
            "final": update.final,
            "text": update.text,
            "words": [
                {"text": w.text, "start": w.start, "end": w.end, "confidence": w.confidence}
                for w in update.words
            ],
            "heard_seconds": round(update.heard_seconds, 3),
            "computing_seconds": round(update.computing_seconds, 3),
        }
        click.echo(json.dumps(values, ensure_ascii=False))
    elif update.final:
        _show_tentative("")
        click.echo(update.text)
    else:
        _show_tentative(update.text)


def _show_tentative(text: str) -> None:
    """Shows the end of ``text`` on the last line of the terminal, in place of what was there."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        click.echo(f"\r\x1b[K{_end_of(text, width)}", nl=False, err=True)


def _end_of(text: str, columns: int) -> str:
    """As much of the end of ``text`` as a terminal shows in so many columns."""
    start = len(text)
    for place in range(len(text) - 1, -1, -1):
        character = text[place]
        mark = unicodedata.category(character) in ("Mn", "Me", "Cf")  # drawn on the one before
        if not mark:
            columns -= 2 if unicodedata.east_asian_width(character) in "WF" else 1
            if columns < 0:
                break
            start = place
    return text[start:]
