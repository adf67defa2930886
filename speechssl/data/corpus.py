"""What the tools that prepare corpora share: checking the audio, splitting, writing, reporting."""

from __future__ import annotations

import hashlib
import json
import shutil
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import click
from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment
from tqdm import tqdm

from speechssl.data.audio import decode_audio, resampled_length
from speechssl.data.index import Cuts, index_path
from speechssl.data.manifest import SPLITS, cut_text, cuts_path, save_cuts
from speechssl.errors import AudioError, ManifestError, RunFolderError, SpeechSSLError
from speechssl.files import atomic_path, write_text
from speechssl.frames import WINDOW_SAMPLES, num_frames

Item = TypeVar("Item")

MIN_SPEAKERS = 10
"""Fewer speakers than this are not divided among the splits: too much would be held out."""


@dataclass(frozen=True)
class Utterance:
    """One recording that a corpus offers, with what is known about it."""

    id: str
    audio: Path
    text: str | None = None
    speaker: str | None = None
    language: str | None = None


@dataclass(frozen=True)
class Rejected:
    """Something that a corpus offers but cannot be used, and why."""

    item: str
    reason: str


@dataclass
class Totals:
    """How much there is of something."""

    utterances: int = 0
    hours: float = 0.0
    transcribed_hours: float = 0.0
    speakers: int = 0


@dataclass
class Report:
    """What a prepared corpus holds; kept beside it as report.txt and report.json."""

    corpus: str
    rights: str
    splits: dict[str, Totals] = field(default_factory=dict)
    languages: dict[str, dict[str, Totals]] = field(default_factory=dict)
    """Totals by split, then language; only where there is more than one language."""
    notes: list[str] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    fingerprint: str = ""
    """A hash of everything that went in: the same again means the same corpus."""

    def short(self) -> str:
        """A table of the splits and the count of each reason to reject, as text."""
        rows = [("split", "utterances", "minutes", "transcribed", "speakers")]
        for split, totals in self.splits.items():
            rows.append(_row(split, totals))
            rows += [_row(f"  {name}", t) for name, t in self.languages.get(split, {}).items()]
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = [f"{self.corpus}. {self.rights}".strip()]
        for row in rows:
            numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))
            lines.append("  ".join([row[0].ljust(widths[0]), *numbers]))
        lines += self.notes
        reasons = Counter(_kind(rejected.reason) for rejected in self.rejected)
        lines.append(f"rejected: {len(self.rejected)}")
        lines += [f"  {count:5d}  {reason}" for reason, count in reasons.most_common()]
        return "\n".join(lines) + "\n"

    def full(self) -> str:
        """``short`` and every rejected item with its reason, as text."""
        return self.short() + "".join(f"  {r.item}: {r.reason}\n" for r in self.rejected)

    def write(self, out: Path) -> None:
        """Writes report.txt and report.json into ``out``."""
        write_text(out / "report.txt", self.full())
        write_text(out / "report.json", json.dumps(asdict(self), indent=1, ensure_ascii=False))


def write_corpus(
    out: Path,
    splits: Mapping[str, Sequence[Utterance]],
    *,
    corpus: str,
    rights: str = "",
    rejected: Sequence[Rejected] = (),
    notes: Sequence[str] = (),
    fastest_speech: float | None = None,
    overwrite: bool = False,
) -> Report:
    """Checks every recording and writes ``<out>/<split>/cuts.jsonl.gz`` and the report.

    Recordings that cannot be read, are shorter than one frame, or are spoken faster than
    ``fastest_speech`` (characters per second) are rejected with the reason. A split without cuts
    is not written. Running again with the same input changes nothing. Raises ``RunFolderError``
    if ``out`` holds another corpus (unless ``overwrite``) or is no folder, ``ManifestError`` if
    nothing at all can be used. Prints the short report.
    """
    report = Report(corpus, rights, notes=list(notes), rejected=list(rejected))
    report.fingerprint = _fingerprint(splits, report.rejected, fastest_speech)
    if check_output(out, report.fingerprint, overwrite):
        click.echo(f"{out}: already prepared from the same files; nothing to do.")
        report = read_report(out)
        click.echo(report.short(), nl=False)
        return report
    cuts = _check_recordings(splits, report.rejected, fastest_speech)
    if not any(cuts.values()):
        first = f"; the first: {report.rejected[0].reason}" if report.rejected else ""
        raise ManifestError(
            f"{corpus}: no usable recording ({len(report.rejected)} rejected{first})."
        )
    report.splits = {split: _totals(part) for split, part in cuts.items()}
    report.languages = {split: _totals_by_language(part) for split, part in cuts.items()}
    write_splits(out, cuts, report)
    click.echo(report.short(), nl=False)
    return report


def read_report(out: Path) -> Report:
    """The report that ``Report.write`` put into ``out``. Raises ``ManifestError``."""
    try:
        values = json.loads((out / "report.json").read_text(encoding="utf-8"))
        values["splits"] = {k: Totals(**v) for k, v in values["splits"].items()}
        values["languages"] = {
            split: {k: Totals(**v) for k, v in part.items()}
            for split, part in values["languages"].items()
        }
        values["rejected"] = [Rejected(**rejected) for rejected in values["rejected"]]
        return Report(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = " ".join(str(error).split())
        raise ManifestError(
            f"{out}/report.json: is missing or malformed ({problem}); prepare the corpus again."
        ) from None


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
    if present and not overwrite:
        raise RunFolderError(
            f"{out}: already holds another corpus; name another folder, or add --overwrite."
        )
    return False


def write_splits(
    out: Path,
    splits: Mapping[str, Sequence[MonoCut]],
    report: Report,
    copies: Mapping[str, Path] | None = None,
) -> None:
    """Writes the report, the cuts of each split, and splits that are ``copies`` of other files.

    Each split is indexed at once, so that training starts without reading it whole. In this
    order ``check_output`` knows an interrupted run: its report names splits that are missing.
    """
    for split in SPLITS:
        cuts_path(out, split).unlink(missing_ok=True)
        index_path(cuts_path(out, split)).unlink(missing_ok=True)
    report.write(out)
    for split, cuts in splits.items():
        if cuts:
            save_cuts(cuts, cuts_path(out, split))
    for split, source in (copies or {}).items():
        with atomic_path(cuts_path(out, split)) as temporary:
            shutil.copyfile(source, temporary)
    for split in SPLITS:
        if cuts_path(out, split).is_file():
            Cuts.open(cuts_path(out, split))


def hash_fraction(key: str) -> float:
    """A number in [0, 1) that depends on nothing but ``key`` (its SHA-256)."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:7], "big") / 2**56


def split_of(key: str, *, dev: float, test: float) -> str:
    """The split of ``key``: always the same, test and dev with these probabilities."""
    place = hash_fraction(key)
    return "test" if place < test else "dev" if place < test + dev else "train"


def split_by_key(
    items: Iterable[Item], key: Callable[[Item], str], *, dev: float, test: float
) -> dict[str, list[Item]]:
    """Divides ``items``, those with equal keys together, by the hash of the key."""
    splits: dict[str, list[Item]] = {split: [] for split in SPLITS}
    for item in items:
        splits[split_of(key(item), dev=dev, test=test)].append(item)
    return splits


def hold_out(keys: Iterable[str], share: float) -> set[str]:
    """About ``share`` of the distinct ``keys``, chosen by their hashes: always the same ones."""
    ordered = sorted(set(keys), key=hash_fraction)
    return set(ordered[: round(share * len(ordered))])


def split_by_speaker(
    utterances: Sequence[Utterance], *, dev: float, test: float
) -> tuple[dict[str, list[Utterance]], str]:
    """Divides ``utterances`` so that no speaker is in two splits, and says how it was done.

    Dev and test are ``dev`` and ``test`` of the speakers who have transcripts (of all, if there
    are no transcripts). Where a speaker is unknown, or there are fewer than ``MIN_SPEAKERS``,
    recordings are divided instead. Returns the splits and a sentence for the report.
    """
    offered = [utterance for utterance in utterances if utterance.text] or utterances
    speakers = {utterance.speaker for utterance in offered if utterance.speaker}
    by_speaker = len(speakers) >= MIN_SPEAKERS and all(u.speaker for u in utterances)

    def key(utterance: Utterance) -> str:
        return utterance.speaker or "" if by_speaker else utterance.id

    keys = {key(utterance) for utterance in offered}
    tested = hold_out(keys, test)
    developed = hold_out(keys - tested, dev / (1 - test))
    splits: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
    for utterance in utterances:
        place = key(utterance)
        split = "test" if place in tested else "dev" if place in developed else "train"
        splits[split].append(utterance)
    if by_speaker:
        return splits, "splits: by speaker, none is in two splits"
    why = f"{len(speakers)} speakers are known" if speakers else "no speakers are known"
    return splits, f"splits: by recording ({why}), so a voice may be in more than one split"


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


def summarize(corpus: str, splits: Mapping[str, Sequence[MonoCut]], fingerprint: str) -> Report:
    """The report of cuts that need no more checking."""
    return Report(
        corpus,
        "",
        {split: _totals(part) for split, part in splits.items()},
        {split: _totals_by_language(part) for split, part in splits.items()},
        fingerprint=fingerprint,
    )


def _check_recordings(
    splits: Mapping[str, Sequence[Utterance]],
    rejected: list[Rejected],
    fastest_speech: float | None,
) -> dict[str, list[MonoCut]]:
    """Decodes every recording; the good ones as cuts, the others added to ``rejected``."""
    cuts: dict[str, list[MonoCut]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    everything = [(split, utterance) for split in SPLITS for utterance in splits.get(split, ())]
    for split, utterance in tqdm(everything, desc="checking audio", unit="file", disable=None):
        try:
            cut = _make_cut(utterance, fastest_speech)
            if cut.id in seen:
                raise ManifestError(f"the id {cut.id} is used twice")
        except SpeechSSLError as error:
            rejected.append(Rejected(utterance.id, str(error)))
        else:
            seen.add(cut.id)
            cuts[split].append(cut)
    return cuts


def _make_cut(utterance: Utterance, fastest_speech: float | None) -> MonoCut:
    """The cut of a recording. Raises ``AudioError`` if it cannot be used."""
    samples, rate = decode_audio(utterance.audio)
    length, channels = samples.shape
    seconds = length / rate
    if num_frames(resampled_length(length, rate)) == 0:
        raise AudioError(f"{utterance.audio}: is shorter than one frame ({WINDOW_SAMPLES} samples)")
    text = utterance.text or None
    if text and fastest_speech and len(text) > fastest_speech * seconds:
        raise AudioError(
            f"{utterance.audio}: the transcript is too long for the recording "
            f"({len(text)} characters in {seconds:.2f} s)"
        )
    source = AudioSource("file", list(range(channels)), str(utterance.audio.resolve()))
    recording = Recording(utterance.id, [source], rate, length, seconds)
    supervision = SupervisionSegment(
        id=utterance.id,
        recording_id=utterance.id,
        start=0.0,
        duration=seconds,
        text=text,
        speaker=utterance.speaker,
        language=utterance.language,
    )
    return MonoCut(
        id=utterance.id,
        start=0.0,
        duration=seconds,
        channel=0,
        recording=recording,
        supervisions=[supervision],
        custom={"downmix": True} if channels > 1 else None,
    )


def _totals(cuts: Iterable[MonoCut]) -> Totals:
    totals = Totals()
    speakers: set[str] = set()
    for cut in cuts:
        totals.utterances += 1
        totals.hours += cut.duration / 3600
        totals.transcribed_hours += cut.duration / 3600 if cut_text(cut) else 0.0
        speakers.update(s.speaker for s in cut.supervisions if s.speaker)
    totals.speakers = len(speakers)
    return totals


def _totals_by_language(cuts: Iterable[MonoCut]) -> dict[str, Totals]:
    groups: dict[str, list[MonoCut]] = defaultdict(list)
    for cut in cuts:
        groups[str(cut.supervisions[0].language or "unknown")].append(cut)
    return {k: _totals(groups[k]) for k in sorted(groups)} if len(groups) > 1 else {}


def _row(name: str, totals: Totals) -> tuple[str, str, str, str, str]:
    minutes, transcribed = totals.hours * 60, totals.transcribed_hours * 60
    return (
        name,
        str(totals.utterances),
        f"{minutes:.1f}",
        f"{transcribed:.1f}",
        str(totals.speakers),
    )


def _kind(reason: str) -> str:
    """A reason without the file and the numbers in it, for counting."""
    return reason.split(": ", 1)[-1].split(" (")[0].split(";")[0]


def _fingerprint(
    splits: Mapping[str, Sequence[Utterance]],
    rejected: Sequence[Rejected],
    fastest_speech: float | None,
) -> str:
    """A hash of all that decides what is written: items, splits, paths and sizes of files."""
    digest = hashlib.sha256(repr(fastest_speech).encode())
    for split in SPLITS:
        for utterance in splits.get(split, ()):
            size = utterance.audio.stat().st_size if utterance.audio.exists() else -1
            path = utterance.audio.resolve()
            digest.update(repr((split, utterance.id, str(path), size)).encode())
            digest.update(repr((utterance.text, utterance.speaker, utterance.language)).encode())
    digest.update(repr([(r.item, r.reason) for r in rejected]).encode())
    return digest.hexdigest()
