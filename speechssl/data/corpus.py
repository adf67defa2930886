"""What the tools that prepare corpora share: checking the audio, writing, reporting."""

from __future__ import annotations

import hashlib
import shutil
import urllib.request
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import click
from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment
from tqdm import tqdm

from speechssl.data.checks import Judge, Measurement, firsts, inspect
from speechssl.data.corpus_page import write_page
from speechssl.data.corpus_report import (
    Report,
    read_report,
    totals_by_language,
    totals_of,
)
from speechssl.data.index import Cuts, index_path
from speechssl.data.journal import Journal
from speechssl.data.listening import Heard, concerns
from speechssl.data.manifest import SPLITS, cuts_path, save_cuts, shar_path
from speechssl.data.segmenting import file_key
from speechssl.data.utterance import Rejected, Utterance
from speechssl.errors import ManifestError, RunFolderError
from speechssl.files import atomic_path

HEARD = "heard "
"""How a journal's key of a checked recording begins: one beside a corpus that was written has some,
unless it was removed and begun anew."""


def write_corpus(
    out: Path,
    splits: Mapping[str, Sequence[Utterance]],
    *,
    corpus: str,
    rights: str = "",
    rejected: Sequence[Rejected] = (),
    notes: Sequence[str] = (),
    fastest_speech: float | None = None,
    checks: Collection[str] = (),
    jobs: int = 1,
    journal: Journal | None = None,
    overwrite: bool = False,
) -> Report:
    """Checks every recording and writes ``<out>/<split>/cuts.jsonl.gz`` and the report.

    Recordings that cannot be read, are shorter than one frame, are spoken faster than
    ``fastest_speech`` (characters per second), or fail one of ``checks`` (names in
    ``checks.CHECKS``) are rejected with the reason. A split without cuts is not written. The
    report is report.txt, report.json and report.html.

    ``jobs`` recordings are read at a time; what comes out does not depend on it. What was measured
    is kept in ``journal`` (default: ``open_journal(out)``): a run that was interrupted goes on
    where it was, and running again with the same input changes nothing.

    Raises ``RunFolderError`` if ``out`` holds another corpus (unless ``overwrite``) or is no
    folder, ``ManifestError`` if nothing at all can be used. Prints the short report.
    """
    report = Report(corpus, rights, notes=list(notes), rejected=list(rejected))
    report.fingerprint = _fingerprint(splits, report.rejected, fastest_speech, checks)
    if check_output(out, report.fingerprint, overwrite):
        click.echo(f"{out}: already prepared from the same files; nothing to do.")
        report = read_report(out)
        click.echo(report.short(), nl=False)
        return report
    journal = journal or open_journal(out)
    heard = _listen(splits, report.rejected, Judge(checks, fastest_speech), journal, jobs)
    if "duplicate" in checks:
        heard = _without_duplicates(heard, report.rejected)
    if not heard:
        journal.discard()
        first = f"; the first: {report.rejected[0].reason}" if report.rejected else ""
        raise ManifestError(
            f"{corpus}: no usable recording ({len(report.rejected)} rejected{first})."
        )
    cuts = {split: [_cut(item) for item in heard if item.split == split] for split in SPLITS}
    report.splits = {split: totals_of(part) for split, part in cuts.items()}
    report.languages = {split: totals_by_language(part) for split, part in cuts.items()}
    worth = concerns(heard)
    if worth:
        found = ", ".join(f"{len(concern.items)} {concern.name}" for concern in worth)
        report.notes.append(f"worth listening to, in report.html: {found}")
    write_page(out, report, heard, worth)
    write_splits(out, cuts, report)
    journal.tidy()
    click.echo(report.short(), nl=False)
    return report


def open_journal(out: Path) -> Journal:
    """Where the preparation of ``out`` keeps what it measured: ``<out>/measured.jsonl``.

    Raises ``RunFolderError`` if ``out`` is a file.
    """
    if out.exists() and not out.is_dir():
        raise RunFolderError(f"{out}: is a file; name a folder for the corpus.")
    return Journal(out / "measured.jsonl")


def check_output(out: Path, fingerprint: str, overwrite: bool) -> bool:
    """Whether ``out`` already holds just this corpus, whole; False if it is to be written.

    Raises ``RunFolderError`` if it is a file, or holds another corpus and ``overwrite`` is not
    set.
    """
    if out.exists() and not out.is_dir():
        raise RunFolderError(f"{out}: is a file; name a folder for the corpus.")
    present = {split for split in SPLITS if cuts_path(out, split).exists()}
    try:
        known = read_report(out)
    except ManifestError:
        known = Report("", "")
    if known.fingerprint == fingerprint:
        return {split for split, totals in known.splits.items() if totals.utterances} <= present
    require_vacant(out, overwrite)
    return False


def require_vacant(out: Path, overwrite: bool) -> None:
    """Raises ``RunFolderError`` if ``out`` holds a corpus, unless ``overwrite`` is set."""
    if not overwrite and any(cuts_path(out, split).exists() for split in SPLITS):
        raise RunFolderError(
            f"{out}: already holds another corpus; name another folder, or add --overwrite."
        )


def write_splits(out: Path, splits: Mapping[str, Sequence[MonoCut]], report: Report) -> None:
    """Writes the report and the cuts of each split.

    What another corpus left in ``out``, in Shar too, is removed. Each split is indexed at once, so
    that training starts without reading it whole. In this order ``check_output`` knows an
    interrupted run: its report names splits that are missing.
    """
    for split in SPLITS:
        shutil.rmtree(shar_path(out, split), ignore_errors=True)
        index_path(shar_path(out, split)).unlink(missing_ok=True)
        cuts_path(out, split).unlink(missing_ok=True)
        index_path(cuts_path(out, split)).unlink(missing_ok=True)
    report.write(out)
    for split, cuts in splits.items():
        if cuts:
            save_cuts(cuts, cuts_path(out, split))
    for split in SPLITS:
        if cuts_path(out, split).is_file():
            Cuts.open(cuts_path(out, split))


def download_file(url: str, path: Path) -> None:
    """Downloads ``url`` to ``path``, showing progress; nothing is left if it breaks off.

    Raises ``OSError`` (``URLError`` is one) if the network fails.
    """
    with (
        urllib.request.urlopen(url, timeout=60) as response,
        atomic_path(path) as temporary,
        open(temporary, "wb") as stream,
    ):
        total = int(response.headers.get("Content-Length") or 0)
        with tqdm(total=total or None, unit="B", unit_scale=True, disable=None) as bar:
            bar.set_description(f"downloading {path.name}")
            while block := response.read(1 << 16):
                stream.write(block)
                bar.update(len(block))
            if stream.tell() < total:
                raise OSError(f"{stream.tell()} of {total} bytes came")


def _listen(
    splits: Mapping[str, Sequence[Utterance]],
    rejected: list[Rejected],
    judge: Judge,
    journal: Journal,
    jobs: int,
) -> list[Heard]:
    """Decodes every utterance; gives the good ones, adds the others to ``rejected``.

    Test comes first: what is in two splits stays there, and is not trained on.
    """
    everything = [(split, u) for split in reversed(SPLITS) for u in splits.get(split, ())]
    found = journal.map(
        inspect,
        [utterance for _, utterance in everything],
        lambda utterance: HEARD + file_key(utterance),
        jobs=jobs,
        description="checking audio",
    )
    good: dict[str, Heard] = {}
    for (split, utterance), values in zip(everything, found):
        if "error" in values:
            rejected.append(Rejected(utterance.id, values["error"], str(utterance.audio)))
            continue
        measured = Measurement(**values)
        problem = judge.problem(utterance, measured)
        if problem is None and utterance.id in good:
            problem = f"the id {utterance.id} is used twice"
        if problem is None:
            good[utterance.id] = Heard(utterance, split, measured)
        else:
            rejected.append(_rejected(utterance, problem))
    return list(good.values())


def _without_duplicates(heard: Sequence[Heard], rejected: list[Rejected]) -> list[Heard]:
    """One of each sound; the others are added to ``rejected``."""
    kept = firsts((item.utterance, item.measured) for item in heard)
    unique = []
    for item in heard:
        first = kept[item.measured.digest]
        if first is item.utterance:
            unique.append(item)
        else:
            problem = f"has the same sound as another recording ({first.id})"
            rejected.append(_rejected(item.utterance, problem))
    return unique


def _rejected(utterance: Utterance, problem: str) -> Rejected:
    return Rejected(utterance.id, f"{utterance.audio}: {problem}", str(utterance.audio))


def _cut(heard: Heard) -> MonoCut:
    """The cut of an utterance."""
    utterance, measured = heard.utterance, heard.measured
    name = utterance.recording or utterance.id
    channels = list(range(measured.channels))
    recording = Recording(
        name,
        [AudioSource("file", channels, str(utterance.audio.resolve()))],
        measured.rate,
        measured.recording_samples,
        measured.recording_samples / measured.rate,
    )
    supervision = SupervisionSegment(
        id=utterance.id,
        recording_id=name,
        start=0.0,
        duration=measured.seconds,
        text=utterance.text or None,
        speaker=utterance.speaker,
        language=utterance.language,
    )
    return MonoCut(
        id=utterance.id,
        start=measured.start,
        duration=measured.seconds,
        channel=0,
        recording=recording,
        supervisions=[supervision],
        custom={"downmix": True} if measured.channels > 1 else None,
    )


def _fingerprint(
    splits: Mapping[str, Sequence[Utterance]],
    rejected: Sequence[Rejected],
    fastest_speech: float | None,
    checks: Collection[str],
) -> str:
    """A hash of all that decides what is written: items, splits, files and their versions."""
    digest = hashlib.sha256(repr((fastest_speech, sorted(checks))).encode())
    for split in SPLITS:
        for utterance in splits.get(split, ()):
            digest.update(repr((split, utterance.id, file_key(utterance))).encode())
            digest.update(repr((utterance.text, utterance.speaker, utterance.language)).encode())
    digest.update(repr([(r.item, r.reason) for r in rejected]).encode())
    return digest.hexdigest()
