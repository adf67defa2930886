#!/usr/bin/env python3
"""Prepares anyone's folder of recordings, with or without transcripts.

Audio of any rate and any number of channels: wav, flac, ogg, mp3 and others that libsndfile reads,
m4a and others where FFmpeg is installed. Untranscribed recordings serve pretraining; dev and test
are drawn from the transcribed ones, unless the corpus has its own. Long recordings without
transcripts are cut into pieces of speech.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import click

from speechssl.cli._options import language_option
from speechssl.cli.main import OneLineErrors
from speechssl.data.checks import CHECKS
from speechssl.data.corpus import HEARD, open_journal, require_vacant, write_corpus
from speechssl.data.layouts import find_layout, layouts, read_layout
from speechssl.data.normalization import normalize_text
from speechssl.data.scripts import scripts_of
from speechssl.data.segmenting import LONGEST_SECONDS, SHORTEST_SECONDS, cut_long
from speechssl.data.shards import write_shards
from speechssl.data.splitting import complete_splits
from speechssl.data.utterance import Listing, Rejected, Utterance
from speechssl.errors import AudioError, ConfigError, RunFolderError

FASTEST_SPEECH = 40.0
"""Characters per second that nobody speaks, in any script."""


def share_option(split: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option ``--dev`` or ``--test``."""
    return click.option(
        f"--{split}",
        type=click.FloatRange(0, 1, max_open=True),
        default=0.1,
        show_default=True,
        help=f"Share of the transcribed recordings that become {split}, where there is none.",
    )


@click.command(
    cls=OneLineErrors,
    epilog="\b\nExample:\n  python tools/prepare_folder.py recordings data "
    "--transcripts transcripts.tsv --language en --jobs 4",
    help="Writes OUT/{train,dev,test}/cuts.jsonl.gz for the recordings in AUDIO_FOLDER and a "
    "report (OUT/report.html, report.txt, report.json) that names each rejected file. Splits are "
    "those of the corpus; what it lacks is drawn by speaker where the speakers are known, "
    "otherwise by recording. Interrupt it at any time: the same command goes on.",
)
@click.argument("audio_folder", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--layout",
    type=click.Choice(["auto", *layouts()]),
    default="auto",
    show_default=True,
    help="How AUDIO_FOLDER is laid out: recordings with transcripts in a table, in .srt, .vtt or "
    ".txt files of the same name, or none (folder); Kaldi data directories (kaldi); NeMo "
    "manifests (nemo); metadata.csv or metadata.jsonl of Hugging Face datasets (audiofolder).",
)
@click.option(
    "--transcripts",
    type=click.Path(path_type=Path),
    help="A .tsv or .csv table with a header, or .jsonl: one column path, file or audio, one "
    "column text, sentence or transcript, perhaps one column speaker.",
)
@language_option(
    "Language of the recordings, as en or pt-BR: how transcripts are normalised, and the script "
    "they must be in (sr-Latn names another than the usual one)."
)
@click.option(
    "--speaker-from",
    metavar="parent|REGEX",
    help="Take the speaker from the name of the folder that holds a file, or from the first group "
    "of a regular expression found in its path, as '^(spk[0-9]+)_'.",
)
@share_option("dev")
@share_option("test")
@click.option(
    "--keep-long",
    is_flag=True,
    help=f"Leave recordings without transcript whole. Otherwise those of more than "
    f"{LONGEST_SECONDS:.0f} s are cut into pieces of {SHORTEST_SECONDS:.0f} to "
    f"{LONGEST_SECONDS:.0f} s in which somebody speaks.",
)
@click.option(
    "--allow",
    type=click.Choice([*CHECKS, "fast"]),
    multiple=True,
    help="Do not reject an utterance because: "
    + "; ".join(f"{why} ({name})" for name, why in CHECKS.items())
    + f"; it has more than {FASTEST_SPEECH:.0f} characters per second (fast). May be repeated.",
)
@click.option(
    "--shar",
    is_flag=True,
    help="Also write OUT/<split>/shar: Lhotse Shar, few large files with the audio in them. All "
    "commands read a split from there where its cuts.jsonl.gz is missing: move the corpus with "
    "rsync -a --exclude 'cuts.jsonl.gz*' OUT/ CLUSTER:OUT/.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Recordings read at a time; the result is the same.",
)
@click.option("--overwrite", is_flag=True, help="Replace another corpus in OUT.")
def main(
    audio_folder: Path,
    out: Path,
    layout: str,
    transcripts: Path | None,
    language: str | None,
    speaker_from: str | None,
    dev: float,
    test: float,
    keep_long: bool,
    allow: tuple[str, ...],
    shar: bool,
    jobs: int,
    overwrite: bool,
) -> None:
    if dev + test >= 1:
        raise ConfigError(f"--dev and --test must leave something to train, but are {dev}, {test}.")
    if audio_folder.is_file():
        raise AudioError(f"{audio_folder}: is a file; give the folder with the recordings.")
    if out.resolve() == audio_folder.resolve():
        raise RunFolderError(f"{out}: is the folder of the recordings; name another for OUT.")
    if layout == "auto":
        layout = "folder" if transcripts else find_layout(audio_folder)
    listing = read_layout(layout, audio_folder, transcripts, language)
    listing = normalized(listing, language)
    listing.notes.insert(0, f"layout: {layout}")
    if language and not scripts_of(language):
        listing.notes.append(f"the script of {language!r} is not known, so it was not checked")
    utterances = [
        replace(u, speaker=u.speaker or speaker_of(u.audio, audio_folder, speaker_from))
        for u in listing.utterances
    ]
    if speaker_from and utterances and not any(u.speaker for u in utterances):
        raise ConfigError(
            f"--speaker-from {speaker_from!r}: finds no speaker in the path of any recording, such "
            f"as {utterances[0].audio}; change it, or leave it out."
        )
    journal = open_journal(out)
    if not keep_long:
        utterances, without_speech, notes = cut_long(
            utterances,
            journal,
            jobs=jobs,
            # what a corpus in OUT was made from is in its journal: this is from other recordings;
            # where that was removed, only measuring again says whether it is
            before_listening=lambda: require_vacant(out, overwrite or not journal.has_any(HEARD)),
        )
        listing.rejected += without_speech
        listing.notes += notes
    splits, how = complete_splits(utterances, dev=dev, test=test)
    write_corpus(
        out,
        splits,
        corpus=f"recordings in {audio_folder}",
        rejected=listing.rejected,
        notes=[*listing.notes, *how, *untold(utterances)],
        fastest_speech=None if "fast" in allow else FASTEST_SPEECH,
        checks=[name for name in CHECKS if name not in allow],
        jobs=jobs,
        journal=journal,
        overwrite=overwrite,
    )
    if shar:
        write_shards(out, jobs=jobs)


def normalized(listing: Listing, language: str | None) -> Listing:
    """The listing with normalised transcripts; those in which no word is left are rejected."""
    kept = []
    rejected = list(listing.rejected)
    for utterance in listing.utterances:
        spoken = utterance.language or language
        text = normalize_text(utterance.text, spoken) if utterance.text else None
        if text == "":
            reason = f"{utterance.audio}: transcript {utterance.text!r} has no word"
            rejected.append(Rejected(utterance.id, reason, str(utterance.audio)))
        else:
            kept.append(replace(utterance, text=text, language=spoken))
    return Listing(kept, rejected, list(listing.notes))


def untold(utterances: Sequence[Utterance]) -> list[str]:
    """How many utterances have no transcript, as a sentence."""
    told = Counter(utterance.text is not None for utterance in utterances)
    if not told[False]:
        return []
    return [f"{told[False]} recordings have no transcript; they serve pretraining only"]


def speaker_of(audio: Path, folder: Path, rule: str | None) -> str | None:
    """The speaker of a recording by ``rule``: "parent", a regular expression, or None.

    Raises ``ConfigError`` if the expression is malformed or has no group.
    """
    if rule is None:
        return None
    if rule == "parent":
        return audio.parent.name if audio.parent != folder else None
    place = audio.relative_to(folder) if audio.is_relative_to(folder) else audio
    try:
        match = re.search(rule, place.as_posix())
        return match[1] if match else None
    except (re.error, IndexError) as error:
        raise ConfigError(
            f"--speaker-from {rule!r}: is not a regular expression with a group ({error})."
        ) from None


if __name__ == "__main__":
    main()
