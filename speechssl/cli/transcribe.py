"""``speechssl transcribe``: text from audio files. Loads no training code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click


@click.command(short_help="Transcribe audio files or folders.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("audio", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write the lines to this file, not to stdout."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
def command(model: Path, audio: tuple[Path, ...], out: Path | None, device: str) -> None:
    """Transcribe audio files, and all audio files in folders, with the recogniser in MODEL.

    Prints the text of a single file, or lines of path, tabulator, text for several. Any format,
    rate and number of channels; long recordings are computed in windows. A file that cannot be
    read is named on stderr and the others go on; the exit status is then 2.

    \b
    Example:
      speechssl transcribe exp/finetune/model recording.wav
      speechssl transcribe exp/finetune/model recordings/ --out recordings.tsv
    """
    from speechssl.decoding.transcriber import Transcriber
    from speechssl.errors import AudioError
    from speechssl.files import write_text

    transcriber = Transcriber(model, device=device)
    single = len(audio) == 1 and not audio[0].is_dir()
    lines: list[str] = []
    failed: list[str] = []
    for path in _recordings(audio, failed):
        try:
            text = transcriber.transcribe_file(path)
        except AudioError as error:
            _report(error, failed, path)
            continue
        lines.append(text if single else f"{path}\t{text}")
        if out is None:
            click.echo(lines[-1])
    if out is not None and lines:
        write_text(out, "\n".join(lines) + "\n")
    if failed and len(failed) + len(lines) > 1:
        raise AudioError(
            f"{len(failed)} of {len(failed) + len(lines)} recordings could not be transcribed "
            "(named above)."
        )
    if failed:
        raise click.exceptions.Exit(2)


def _recordings(audio: tuple[Path, ...], failed: list[str]) -> Iterator[Path]:
    """The files to transcribe; a missing path or a folder without audio counts as failed."""
    from speechssl.data.audio import find_audio
    from speechssl.errors import AudioError

    for path in audio:
        try:
            yield from find_audio(path)
        except AudioError as error:
            _report(error, failed, path)


def _report(error: Exception, failed: list[str], path: Path) -> None:
    click.echo(f"error: {' '.join(str(error).split())}", err=True)
    failed.append(str(path))
