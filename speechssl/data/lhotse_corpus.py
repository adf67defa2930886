"""What the tools for named corpora share: their options, downloads, and Lhotse's recipes.

A tool says what its corpus is (``NamedCorpus``) and lists it: ``read(folder, jobs, **options) ->
Listing``. ``corpus_command`` makes the command of it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import tarfile
import tempfile
import urllib.error
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click
from lhotse import Recording, SupervisionSegment
from lhotse.utils import resumable_download

from speechssl.cli.main import OneLineErrors
from speechssl.data.corpus import write_corpus
from speechssl.data.manifest import SPLITS
from speechssl.data.normalization import normalize_text
from speechssl.data.utterance import Listing, Rejected, Utterance
from speechssl.errors import ConfigError, ManifestError

Manifests = Mapping[str, Any]
"""What a recipe of Lhotse gives for one part: ``recordings`` and ``supervisions``."""

_DOWNLOAD_ERRORS = (
    urllib.error.URLError,
    tarfile.TarError,
    zipfile.BadZipFile,
    OSError,
    EOFError,
    AssertionError,
)


@dataclass(frozen=True)
class NamedCorpus:
    """What a tool knows about its corpus before it sees it."""

    name: str
    size: str
    """Hours, recordings and languages, as its publishers count them."""
    rights: str
    home: str
    """Where it can be had."""
    layout: str
    """What the folder given with ``--corpus`` holds, as "etc/ and wav/"."""


def corpus_command(
    corpus: NamedCorpus,
    example: str,
    download: Callable[..., Path] | None = None,
    about: str = "",
) -> Callable[[Callable[..., Listing]], click.Command]:
    """Makes a command of ``read(folder, jobs, **options)``, options being the tool's own.

    ``download(where, **options)`` fetches the corpus into a folder and returns the one to read;
    without it there is no ``--download``. Every utterance that ``read`` lists names its split.
    ``about`` is added to the help.
    """

    def command(read: Callable[..., Listing]) -> click.Command:
        @wraps(read)
        def run(
            out: Path,
            source: Path | None,
            jobs: int,
            overwrite: bool,
            where: Path | None = None,
            **own: Any,
        ) -> None:
            if download and where and not source:
                source = _fetch(corpus, download, where, own)
            elif source is None or where is not None:
                either = "either --corpus DIR or --download DIR" if download else "--corpus DIR"
                raise ConfigError(f"give {either}; {corpus.name} is at {corpus.home}.")
            if not source.is_dir():
                raise ManifestError(
                    f"{source}: no such folder; give the one that holds {corpus.layout}."
                )
            listing = read(source, jobs=jobs, **own)
            # Lhotse lists many corpora in the order in which the disk has their files.
            ordered = sorted(listing.utterances, key=lambda utterance: utterance.id)
            write_corpus(
                out,
                {split: [u for u in ordered if u.split == split] for split in SPLITS},
                corpus=corpus.name,
                rights=corpus.rights,
                rejected=listing.rejected,
                notes=listing.notes,
                jobs=jobs,
                overwrite=overwrite,
            )

        options = [
            click.argument("out", type=click.Path(path_type=Path)),
            click.option(
                "--corpus",
                "source",
                type=click.Path(path_type=Path),
                help=f"The folder of the corpus: {corpus.layout}.",
            ),
            click.option(
                "--jobs",
                type=click.IntRange(1),
                default=1,
                show_default=True,
                help="Files read at once.",
            ),
            click.option("--overwrite", is_flag=True, help="Replace another corpus in OUT."),
        ]
        if download:
            get = click.option(
                "--download",
                "where",
                type=click.Path(path_type=Path),
                help="Download the corpus into this folder and use it from there; what is there "
                "already is not downloaded again.",
            )
            options.insert(2, get)
        for option in reversed(options):
            run = option(run)
        text = (
            f"Writes OUT/{{train,dev,test}}/cuts.jsonl.gz for {corpus.name} and a report.\n\n"
            f"{corpus.size} Rights: {corpus.rights} Home: {corpus.home}\n\n{about}"
        )
        make = click.command(cls=OneLineErrors, help=text, epilog=f"\b\nExample:\n  {example}")
        return make(run)

    return command


def run_recipe(
    corpus: NamedCorpus, folder: Path, recipe: Callable[..., Any], *args: Any, **options: Any
) -> tuple[Any, list[Rejected]]:
    """What a recipe of Lhotse makes of ``folder``, and the files that it could not find.

    Recipes only log those. Raises ``ManifestError`` if the recipe stumbles: the folder is another
    corpus, or a file in it is damaged.
    """
    missing = _MissingFiles()
    root = logging.getLogger()
    root.addHandler(missing)
    progress = sys.stderr if sys.stderr.isatty() else io.StringIO()
    try:
        with contextlib.redirect_stdout(progress), contextlib.redirect_stderr(progress):
            made = recipe(*args, **options)
    except Exception as error:
        told = " ".join(str(error).split())[:300]
        problem = f" ({told})" if told else ""
        raise ManifestError(
            f"{folder}: cannot be read as {corpus.name}{problem}; give the folder that holds "
            f"{corpus.layout}, complete."
        ) from None
    finally:
        root.removeHandler(missing)
    return made, missing.rejected


class _MissingFiles(logging.Handler):
    """Collects what Lhotse's recipes log about files that are not there."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.rejected: list[Rejected] = []

    def emit(self, record: logging.LogRecord) -> None:
        start = "No such file: "
        if record.getMessage().startswith(start):
            path = record.getMessage().removeprefix(start)
            self.rejected.append(Rejected(Path(path).stem, f"{path}: no such file"))


def require_files(corpus: NamedCorpus, folder: Path, *names: str) -> None:
    """Raises ``ManifestError`` unless ``folder`` holds all ``names`` (files or folders)."""
    missing = next((name for name in names if not (folder / name).exists()), None)
    if missing:
        raise ManifestError(
            f"{folder}: is not {corpus.name} ({missing} is missing); give the folder that holds "
            f"{corpus.layout}."
        )


@contextlib.contextmanager
def linked(places: Mapping[str, Path]) -> Iterator[Path]:
    """A temporary folder that holds ``places`` under other names, for recipes that insist on them.

    Paths of recordings found through it are only good after ``resolve()``.
    """
    with tempfile.TemporaryDirectory() as temporary:
        for name, target in places.items():
            link = Path(temporary) / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target.resolve())
        yield Path(temporary)


def utterances(
    manifests: Manifests,
    split: str,
    language: str,
    text: Callable[[SupervisionSegment], str | None] = lambda supervision: supervision.text,
) -> Iterator[Utterance]:
    """The utterances of one part: each supervision with text as ``normalize_text`` makes it.

    Supervisions that are not the whole of their recording become parts of it. Those whose text has
    no word are left without text.
    """
    recordings: dict[str, Recording] = {r.id: r for r in manifests["recordings"]}
    for supervision in manifests["supervisions"]:
        recording = recordings[supervision.recording_id]
        whole = supervision.start == 0 and supervision.duration >= recording.duration - 0.02
        said = text(supervision)
        yield Utterance(
            supervision.id,
            Path(recording.sources[0].source).resolve(),
            text=normalize_text(said, language) or None if said else None,
            speaker=str(supervision.speaker) if supervision.speaker else None,
            language=language,
            start=0.0 if whole else supervision.start,
            duration=None if whole else supervision.duration,
            recording=None if whole else recording.id,
            split=split,
        )


def join_segments(
    segments: Iterable[tuple[float, float]], shortest: float, longest: float
) -> list[tuple[float, float]]:
    """Neighbouring (start, end) in seconds joined to pieces of at most ``longest`` seconds.

    A segment that is longer by itself is cut into equal parts; pieces below ``shortest`` are left
    out.
    """
    pieces: list[tuple[float, float]] = []
    for start, end in sorted(segments):
        if pieces and end - pieces[-1][0] <= longest:
            first, last = pieces[-1]
            pieces[-1] = (first, max(last, end))
            continue
        parts = max(1, -int(-(end - start) // longest))
        step = (end - start) / parts
        pieces += [(start + i * step, start + (i + 1) * step) for i in range(parts)]
    return [(start, end) for start, end in pieces if end - start >= shortest]


def fetch_archives(urls: Sequence[str], where: Path) -> None:
    """Downloads archives (tar, compressed or not) into ``where`` and unpacks them there.

    A download that broke off goes on where it stopped. What was unpacked is not fetched again; the
    archives are removed.
    """
    where.mkdir(parents=True, exist_ok=True)
    for url in urls:
        archive = where / url.rsplit("/", 1)[-1]
        done = where / f".{archive.name}.unpacked"
        if not done.exists():
            resumable_download(url, filename=archive)
            try:
                with tarfile.open(archive) as tar:
                    tar.extractall(where, filter="data")
            finally:  # a damaged one too, or else the next run would append to it
                archive.unlink()
            done.touch()


def _fetch(
    corpus: NamedCorpus, download: Callable[..., Path], where: Path, options: Mapping[str, Any]
) -> Path:
    try:
        where.mkdir(parents=True, exist_ok=True)
        return Path(download(where, **options))
    except _DOWNLOAD_ERRORS as error:
        problem = " ".join(str(error).split())[:200] or type(error).__name__
        raise ManifestError(
            f"{corpus.name}: cannot be downloaded or unpacked into {where} ({problem}); get it "
            f"from {corpus.home} and give its folder with --corpus."
        ) from None
