"""``speechssl align``: when each word of a known text is said. Loads no training code."""

from __future__ import annotations

from pathlib import Path

import click

from speechssl.cli._options import device_option, language_option, write_once
from speechssl.cli._outputs import format_option, line_option


@click.command(short_help="Find when each word of a text is said.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("audio", type=click.Path(path_type=Path))
@click.argument("text", metavar="TEXT.txt", type=click.Path(path_type=Path))
@format_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to this file, not to stdout. Of several formats, the file of each gets its ending.",
)
@language_option("Of the text (en, pt-BR): how numbers are read.")
@click.option(
    "--lexicon", type=click.Path(path_type=Path), help="How words are said, for models of phones."
)
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@line_option
@device_option
def command(
    model: Path,
    audio: Path,
    text: Path,
    formats: tuple[str, ...],
    out: Path | None,
    language: str | None,
    lexicon: Path | None,
    overwrite: bool,
    line_characters: int,
    device: str,
) -> None:
    """Find when each word of TEXT.txt is said in AUDIO, with the recogniser in MODEL.

    TEXT.txt holds what is said, as people write it: capitals, digits and punctuation are kept and
    need not be known to the model. The confidence of a word says how well it fits the sound: the
    geometric mean of the probabilities of its characters. Hours of audio are cut where the model,
    by itself, hears what the text says.

    \b
    Example:
      speechssl align exp/finetune/model talk.mp3 talk.txt --language en --format srt,textgrid \\
        --out talk.srt
      speechssl align exp/finetune/model word.wav word.txt --format tsv
    """
    from speechssl.data.streams import file_blocks
    from speechssl.decoding.alignment import align_stream
    from speechssl.decoding.lexicon import read_pronunciations
    from speechssl.decoding.outputs import SUFFIXES, render
    from speechssl.decoding.transcriber import Transcriber
    from speechssl.errors import ConfigError, TokensError
    from speechssl.files import write_text

    if out is None and len(formats) > 1:
        raise ConfigError("several formats need --out.")
    several = len(formats) > 1
    files = [out.with_suffix(SUFFIXES[f]) if out and several else out for f in formats]
    for file in files:
        write_once(file, overwrite)
    try:
        words = text.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise TokensError(f"{text}: no such file; give what is said as a text file.") from None
    except UnicodeDecodeError:
        raise TokensError(f"{text}: is not UTF-8 text; give what is said as a text file.") from None
    transcriber = Transcriber(model, device=device)
    if lexicon is not None:
        transcriber.tokens.pronunciations = read_pronunciations(lexicon)
    transcript = align_stream(transcriber, file_blocks(audio), words, language)
    for form, file in zip(formats, files):
        rendered = render(transcript, form, audio.stem, line_characters)
        if file is None:
            click.echo(rendered, nl=False)
        else:
            write_text(file, rendered)
