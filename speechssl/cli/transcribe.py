"""``speechssl transcribe``: text and subtitles from audio files. Loads no training code."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click

from speechssl.cli._decoding import decoder_options
from speechssl.cli._options import batch_seconds_option, device_option, precision_option, write_once
from speechssl.cli._outputs import format_option, line_option, settings_hash

if TYPE_CHECKING:
    from speechssl.decoding.settings import DecodingSettings
    from speechssl.decoding.transcriber import Transcriber
    from speechssl.decoding.transcript import Transcript
    from speechssl.devices import Precision
    from speechssl.errors import AudioError

    Result = tuple[Path, Transcript | AudioError]
    """A recording and what is said in it, or why it cannot be read."""


@click.command(short_help="Transcribe audio files or folders.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("audio", nargs=-1, required=True, type=click.Path(path_type=Path))
@format_option
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write a file per recording and format to this folder; go on where a run was stopped.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write what is printed to this file instead.",
)
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@click.option(
    "--vad/--no-vad",
    default=None,
    help="Skip silence in all recordings, or in none.  [default: in those of more than 30 s]",
)
@decoder_options
@click.option("--nbest", type=click.IntRange(min=1), help="json: also so many other readings.")
@line_option
@batch_seconds_option
@precision_option
@device_option
@click.pass_context
def command(
    context: click.Context,
    model: Path,
    audio: tuple[Path, ...],
    formats: tuple[str, ...],
    output_dir: Path | None,
    out: Path | None,
    overwrite: bool,
    vad: bool | None,
    nbest: int | None,
    line_characters: int,
    batch_seconds: float | None,
    precision: Precision,
    device: str,
    decoding: DecodingSettings,
) -> None:
    """Transcribe audio files, and all audio files in folders, with the recogniser in MODEL.

    Any format, rate and number of channels, any length; - is a recording from stdin (a WAV
    stream, or raw 16-bit samples at 16 kHz). Prints the text of a single file, or lines of path,
    tabulator, text for several. Other formats: json has words with times and confidences; srt and
    vtt are subtitles; tsv, ctm and textgrid are for other programs.

    In recordings of more than 30 seconds silence is skipped (found by Silero's network) and each
    stretch of speech computed by itself, in windows where it is long, whose seams cut no word.
    With --no-vad everything is computed.

    Decoding is greedy unless an option asks for a beam search (see speechssl decode).

    With --output-dir, recordings whose files are there already are skipped, if those came from
    the same audio, model and options (transcribed.jsonl in the folder remembers). A file that
    cannot be read is named on stderr and the others go on; the exit status is then 2.

    \b
    Example:
      speechssl transcribe exp/finetune/model recording.wav
      speechssl transcribe exp/finetune/model interview.mp3 --format srt --out interview.srt
      speechssl transcribe exp/finetune/model recordings/ --output-dir texts --format txt,vtt
    """
    from dataclasses import replace

    from speechssl.decoding.output_folder import OutputFolder, recordings_in
    from speechssl.decoding.settings import make_decoder
    from speechssl.decoding.transcriber import Transcriber
    from speechssl.errors import AudioError, ConfigError

    stdin = Path("-") in audio
    single = len(audio) == 1 and not audio[0].is_dir()
    if stdin and (not single or output_dir or vad):
        raise ConfigError("- stands alone, without --output-dir and --vad; name files instead.")
    if output_dir is None and formats != ("txt",) and not (single and len(formats) == 1):
        raise ConfigError("several recordings or formats need --output-dir.")
    if output_dir is not None and out is not None:
        raise ConfigError("--out and --output-dir are two ways to write; give one of them.")
    write_once(out, overwrite)

    recordings, bad = ([(Path(), Path("-"))], []) if stdin else recordings_in(audio)
    todo = [path for _, path in recordings]
    folder = None
    if output_dir is not None:
        origin = settings_hash(context, model, decoding)
        folder = OutputFolder(output_dir, formats, origin, line_characters, overwrite)
        todo = folder.plan(recordings)
        if done := len(recordings) - len(todo):
            click.echo(f"{done} of {len(recordings)} recordings are transcribed already", err=True)
    transcriber = Transcriber(
        model, device=device, precision=precision, batch_seconds=batch_seconds
    )
    settings = replace(decoding, nbest=nbest + 1) if nbest else decoding
    transcriber.decoder = make_decoder(settings, transcriber.tokens)
    show_progress = folder is not None or out is not None  # else the lines show it
    found = _stdin(transcriber) if stdin else _files(transcriber, todo, vad, show_progress)
    failed: list[Path] = []
    if folder is not None:
        for path, transcript in _readable(chain(bad, found), failed):
            folder.write(path, transcript)
        written = len(todo) + len(bad) - len(failed)
        click.echo(f"{written} recordings -> {output_dir}", err=True)
    else:
        ordered = _readable(chain(bad, _in_order(found, todo)), failed)
        _print(ordered, formats[0] if single else None, line_characters, out)
    total = len(todo) + len(bad)
    if failed and total > 1:
        raise AudioError(
            f"{len(failed)} of {total} recordings could not be transcribed (named above)."
        )
    if failed:
        raise click.exceptions.Exit(2)


def _files(
    transcriber: Transcriber, files: list[Path], vad: bool | None, show_progress: bool
) -> Iterator[Result]:
    from speechssl.decoding.bulk import any_long, measure, transcribe_files
    from speechssl.decoding.progress import AudioProgress

    lengths = measure(files)
    activity = None
    if vad or (vad is None and any_long(transcriber, lengths)):
        from speechssl.data.vad import VoiceActivity

        activity = VoiceActivity()
    total = sum(length or 0.0 for length in lengths)
    hidden = None if show_progress else True  # None: hidden unless stderr is a terminal
    with AudioProgress("transcribe", total, hidden=hidden) as bar:
        yield from transcribe_files(
            transcriber,
            files,
            lengths,
            activity=activity,
            skip_in_short=bool(vad),
            on_audio=bar.update,
        )


def _stdin(transcriber: Transcriber) -> Iterator[Result]:
    from speechssl.data.streams import pipe_blocks
    from speechssl.errors import AudioError

    try:
        blocks = pipe_blocks(sys.stdin.buffer)
        yield Path("-"), transcriber.stream_transcript(blocks)
    except AudioError as error:
        yield Path("-"), error


def _in_order(results: Iterable[Result], paths: list[Path]) -> Iterator[Result]:
    """``results`` in the order of ``paths``, each as soon as those before it are there."""
    early: dict[Path, Transcript | AudioError] = {}
    awaited = deque(paths)
    for path, result in results:
        early[path] = result
        while awaited and awaited[0] in early:
            yield awaited[0], early.pop(awaited.popleft())


def _readable(results: Iterable[Result], failed: list[Path]) -> Iterator[tuple[Path, Transcript]]:
    """The transcripts; the others are named on stderr, with the reason, and added to ``failed``."""
    from speechssl.errors import AudioError

    for path, result in results:
        if isinstance(result, AudioError):
            click.echo(f"error: {' '.join(str(result).split())}", err=True)
            failed.append(path)
        else:
            yield path, result


def _print(
    transcripts: Iterable[tuple[Path, Transcript]],
    form: str | None,
    line_characters: int,
    out: Path | None,
) -> None:
    """Prints the transcripts, or writes what would be printed to ``out``.

    ``form`` is the format of a single recording; None for lines of path, tabulator, text.
    """
    from speechssl.decoding.outputs import render
    from speechssl.files import write_text

    printed = []
    for path, transcript in transcripts:
        if form is None:
            text = f"{path}\t{transcript.text}\n"
        else:
            name = "stdin" if path == Path("-") else path.stem
            text = render(transcript, form, name, line_characters)
        if out is None:
            click.echo(text, nl=False)
        else:
            printed.append(text)
    if out is not None and printed:
        write_text(out, "".join(printed))
