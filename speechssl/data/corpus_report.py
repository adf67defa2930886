"""What a prepared corpus holds, in numbers: report.txt and report.json beside its manifests."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lhotse import MonoCut

from speechssl.data.manifest import cut_text
from speechssl.data.utterance import Rejected
from speechssl.errors import ManifestError
from speechssl.files import write_text


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
        reasons = Counter(kind_of(rejected.reason) for rejected in self.rejected)
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


def summarize(corpus: str, splits: Mapping[str, Sequence[MonoCut]], fingerprint: str) -> Report:
    """The report of cuts that need no more checking."""
    return Report(
        corpus,
        "",
        {split: totals_of(part) for split, part in splits.items()},
        {split: totals_by_language(part) for split, part in splits.items()},
        fingerprint=fingerprint,
    )


def totals_of(cuts: Iterable[MonoCut]) -> Totals:
    """How much there is in ``cuts``."""
    totals = Totals()
    speakers: set[str] = set()
    for cut in cuts:
        totals.utterances += 1
        totals.hours += cut.duration / 3600
        totals.transcribed_hours += cut.duration / 3600 if cut_text(cut) else 0.0
        speakers.update(s.speaker for s in cut.supervisions if s.speaker)
    totals.speakers = len(speakers)
    return totals


def totals_by_language(cuts: Iterable[MonoCut]) -> dict[str, Totals]:
    """``totals_of`` each language, sorted; empty if there is only one."""
    groups: dict[str, list[MonoCut]] = defaultdict(list)
    for cut in cuts:
        spoken = next((s.language for s in cut.supervisions if s.language), "unknown")
        groups[spoken].append(cut)
    return {k: totals_of(groups[k]) for k in sorted(groups)} if len(groups) > 1 else {}


def kind_of(reason: str) -> str:
    """A reason without the file and the numbers in it, for counting."""
    return reason.split(": ", 1)[-1].split(": ")[0].split(" (")[0].split(";")[0]


def _row(name: str, totals: Totals) -> tuple[str, str, str, str, str]:
    minutes, transcribed = totals.hours * 60, totals.transcribed_hours * 60
    return (
        name,
        str(totals.utterances),
        f"{minutes:.1f}",
        f"{transcribed:.1f}",
        str(totals.speakers),
    )
