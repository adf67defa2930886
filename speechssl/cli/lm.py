"""``speechssl lm``: an n-gram language model from text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from speechssl.cli._options import language_option, write_once

ORDERS = {"word": 3, "character": 6}
"""The usual order of each kind of model."""


@click.command(short_help="Build an n-gram language model from text.")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT.arpa", type=click.Path(path_type=Path))
@click.option(
    "--unit",
    type=click.Choice(list(ORDERS)),
    default="word",
    show_default=True,
    help="What the n-grams are of.",
)
@click.option(
    "--order",
    type=click.IntRange(2, 6),
    help="Longest n-grams.  [default: 3 for words, 6 for characters]",
)
@language_option("Of text files, to say numbers in words: en, sw, pt-BR.")
@click.option("--as-written", is_flag=True, help="Do not normalise the text (case, punctuation).")
@click.option(
    "--lexicon",
    type=click.Path(path_type=Path),
    help="Also write the words and their spellings to this file.",
)
@click.option("--dev", type=click.Path(path_type=Path), help="Print the perplexity of this text.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
def command(
    sources: tuple[Path, ...],
    out: Path,
    unit: str,
    order: int | None,
    language: str | None,
    as_written: bool,
    lexicon: Path | None,
    dev: Path | None,
    overwrite: bool,
) -> None:
    """Build an n-gram model of words or characters and write it as the ARPA file OUT.arpa.

    SOURCES are text files with one sentence per line, and manifests (cuts.jsonl.gz), of which the
    transcripts are taken. Text is normalised as transcripts are. Smoothing is interpolated
    modified Kneser-Ney.

    A model of words lets a recogniser write only its words: give it all the text there is, and
    decode with --open-vocabulary where that is little. A model of characters knows no words and
    suits languages whose words have many forms. For gigabytes of text use KenLM's lmplz, whose
    files are read alike; an ARPA file can be made smaller and faster to load with its build_binary,
    to be used with --lexicon.

    \b
    Example:
      speechssl lm data/train/cuts.jsonl.gz books.txt exp/words.arpa --language en \\
        --dev data/dev/cuts.jsonl.gz
      speechssl decode exp/finetune/model data/dev/cuts.jsonl.gz hyps.jsonl --lm exp/words.arpa
    """
    from speechssl.decoding.lexicon import write_lexicon
    from speechssl.decoding.ngram import estimate
    from speechssl.errors import LanguageModelError

    for path in (out, lexicon):
        write_once(path, overwrite)
    if out.exists() and not _is_arpa(out):
        raise LanguageModelError(f"{out}: is no ARPA file; give the place for one last.")
    if lexicon is not None and unit != "word":
        raise LanguageModelError("a model of characters has no words for --lexicon.")
    settings = (unit, language, as_written)
    held_out = [] if dev is None else list(_sentences(dev, *settings))
    sentences = (sentence for path in sources for sentence in _sentences(path, *settings))
    model = estimate(sentences, order or ORDERS[unit])
    model.save(out)
    if lexicon is not None:
        write_lexicon(lexicon, model.words)
    counts = ", ".join(f"{len(table)} {n}-grams" for n, table in enumerate(model.log_probs, 1))
    click.echo(f"{counts} -> {out}")
    if dev is not None:
        known = set(model.words)
        symbols = [symbol for sentence in held_out for symbol in sentence]
        unknown = sum(symbol not in known for symbol in symbols) / max(1, len(symbols))
        click.echo(
            f"{dev}: perplexity {model.perplexity(held_out):.1f} per {unit}, "
            f"{100 * unknown:.1f} % unknown {unit}s"
        )


def _is_arpa(path: Path) -> bool:
    """Whether a file is empty or a language model, so that a source given last is not replaced."""
    with open(path, "rb") as file:
        beginning = file.read(4096)
    return not beginning or b"\\data\\" in beginning


def _sentences(
    path: Path, unit: str, language: str | None, as_written: bool
) -> Iterator[list[str]]:
    """The sentences of a text file or manifest, in units of the model."""
    from speechssl.data.normalization import normalize_text
    from speechssl.data.text import SEPARATOR
    from speechssl.errors import LanguageModelError

    for line in _lines(path):
        words = (line if as_written else normalize_text(line, language)).split()
        if any(SEPARATOR in word for word in words):
            raise LanguageModelError(
                f"{path}: holds {SEPARATOR!r}, which stands for the space between words; remove "
                "it, or leave out --as-written."
            )
        if words and unit == "word":
            yield words
        elif words:
            yield [*SEPARATOR.join(words), SEPARATOR]


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file, or the transcripts of a manifest."""
    from speechssl.data.manifest import cut_text, load_cuts
    from speechssl.errors import LanguageModelError

    if path.name.endswith((".jsonl", ".jsonl.gz")) or path.is_dir():
        yield from (cut_text(cut) or "" for cut in load_cuts(path))
        return
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield from file
    except UnicodeDecodeError:
        raise LanguageModelError(f"{path}: is not UTF-8 text; convert it first.") from None
