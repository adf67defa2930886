"""``speechssl serve``: a page on this computer that transcribes. Loads no training code."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from speechssl.cli._decoding import decoder_options
from speechssl.cli._options import device_option, precision_option

if TYPE_CHECKING:
    from speechssl.decoding.settings import DecodingSettings
    from speechssl.devices import Precision


@click.command(short_help="Serve a local page that transcribes.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="The port to listen at; 0 takes any that is free.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option(
    "--allow-host",
    "names",
    multiple=True,
    metavar="NAME",
    help="A name or address that others type to reach the page. Repeatable.",
)
@click.option(
    "--max-mb", type=click.IntRange(min=1), default=1000, show_default=True, help="Largest file."
)
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=180.0,
    show_default=True,
    help="Longest recording.",
)
@click.option("--open", "open_browser", is_flag=True, help="Open the page in the browser.")
@decoder_options
@precision_option
@device_option
def command(
    model: Path,
    port: int,
    host: str,
    names: tuple[str, ...],
    max_mb: int,
    max_minutes: float,
    open_browser: bool,
    precision: Precision,
    device: str,
    decoding: DecodingSettings,
) -> None:
    """Serve a page to transcribe audio files and the microphone with the recogniser in MODEL.

    The page shows words as they are found, plays each when it is clicked, and gives text and
    subtitles to download. It needs no internet. One recording is transcribed at a time, the others
    wait. Recordings lie in a temporary folder only while they are transcribed.

    Only this computer reaches the page. With --host 0.0.0.0 and --allow-host others in the network
    do too: there is no password, and browsers let them record only through a proxy with HTTPS.

    Needs the extra serve: pip install -e '.[serve]'.

    \b
    Example:
      speechssl serve exp/finetune/model --open
    """
    from speechssl.decoding.settings import make_decoder
    from speechssl.decoding.transcriber import Transcriber
    from speechssl.errors import MissingExtraError

    try:
        from speechssl.serving.app import Limits, make_app
        from speechssl.serving.guard import allowed_hosts
        from speechssl.serving.progressive import BATCH_SECONDS
        from speechssl.serving.server import serve
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise MissingExtraError(
            f"the page needs {error.name}: pip install -e '.[serve]'."
        ) from None

    hosts = allowed_hosts(host, names)
    transcriber = Transcriber(
        model, device=device, precision=precision, batch_seconds=BATCH_SECONDS
    )
    transcriber.decoder = make_decoder(decoding, transcriber.tokens)

    def started(address: str) -> None:
        click.echo(f"the page is at {address} (Ctrl-C stops it)", err=True)
        if open_browser:
            click.launch(address)

    app = make_app(transcriber, _shown_name(model), Limits(max_mb, max_minutes), hosts)
    with suppress(KeyboardInterrupt):
        serve(app, host, port, started)


def _shown_name(model: Path) -> str:
    """The folder's name, with the one above it where it says nothing."""
    folder = model.resolve()
    return f"{folder.parent.name}/{folder.name}" if folder.name == "model" else folder.name
