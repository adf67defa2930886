"""Which utterances a person should listen to before training on a corpus, worst first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from speechssl.data.checks import Measurement
from speechssl.data.scripts import script_share, scripts_of
from speechssl.data.segmenting import LONGEST_SECONDS
from speechssl.data.utterance import Utterance

CLIPPED = 0.001
QUIET_DB = -45.0
SILENT = 0.5

OUTLIER = 4.0
"""Distance from the median, in robust standard deviations, at which a length or speed is odd."""

FEWEST = 20
"""Among fewer utterances than this nothing is odd."""


@dataclass(frozen=True)
class Heard:
    """An utterance that is used, and what was measured in it."""

    utterance: Utterance
    split: str
    measured: Measurement

    @property
    def characters_per_second(self) -> float | None:
        """How fast it is spoken; None without transcript."""
        text = self.utterance.text
        return len(text) / self.measured.seconds if text else None


@dataclass(frozen=True)
class Concern:
    """One kind of doubt, and what raises it."""

    name: str
    why: str
    items: list[tuple[Heard, str]]
    """With what was found, in words; the worst come first."""


def concerns(heard: Sequence[Heard]) -> list[Concern]:
    """The doubts that ``heard`` raises; only those that some utterance does raise."""
    found = [
        _over(
            "clipped",
            f"more than {CLIPPED:.1%} of the samples are cut off at full scale",
            heard,
            lambda item: item.measured.clipped_share,
            CLIPPED,
            "{:.2%} clipped",
        ),
        _over(
            "quiet",
            f"the speech is below {QUIET_DB:.0f} dBFS",
            heard,
            lambda item: -item.measured.loudness_db,
            -QUIET_DB,
            "-{:.1f} dBFS",
        ),
        _over(
            "mostly silence",
            f"more than {SILENT:.0%} is below -60 dBFS",
            heard,
            lambda item: item.measured.silent_share,
            SILENT,
            "{:.0%} silence",
        ),
        _over(
            "long with one transcript",
            f"longer than {LONGEST_SECONDS:.0f} s: fine-tuning leaves out what is longer than its "
            "data.max_seconds; subtitles or segments would say which words are where",
            [item for item in heard if item.utterance.text],
            lambda item: item.measured.seconds,
            LONGEST_SECONDS,
            "{:.1f} s",
        ),
        _over(
            "foreign letters",
            "the transcript has letters of another script than the language's",
            [item for item in heard if item.utterance.text],
            _foreign_share,
            0.0,
            "{:.0%} of the letters",
        ),
        _odd(
            "odd speed",
            "the transcript is too long or too short for the sound, compared with the others: "
            "perhaps it belongs to another recording",
            [item for item in heard if item.utterance.text],
            lambda item: item.characters_per_second or 0.0,
            "{:.1f} characters per second",
        ),
        _odd(
            "odd length",
            "much longer or shorter than the others",
            heard,
            lambda item: item.measured.seconds,
            "{:.2f} s",
        ),
    ]
    return [concern for concern in found if concern.items]


def _over(
    name: str,
    why: str,
    heard: Sequence[Heard],
    value: Callable[[Heard], float],
    limit: float,
    words: str,
) -> Concern:
    """Those whose ``value`` is above ``limit``."""
    valued = [(value(item), item) for item in heard]
    worst = sorted((pair for pair in valued if pair[0] > limit), key=lambda pair: -pair[0])
    return Concern(name, why, [(item, words.format(number)) for number, item in worst])


def _odd(
    name: str,
    why: str,
    heard: Sequence[Heard],
    value: Callable[[Heard], float],
    words: str,
) -> Concern:
    """Those whose ``value`` lies far from the median of all, on a scale of ratios."""
    if len(heard) < FEWEST:
        return Concern(name, why, [])
    numbers = np.array([value(item) for item in heard])
    logs = np.log(numbers)
    away = np.abs(logs - np.median(logs))
    deviation = max(1.4826 * float(np.median(away)), 0.1)
    worst = np.argsort(-away, kind="stable")
    odd = [place for place in worst.tolist() if away[place] > OUTLIER * deviation]
    return Concern(name, why, [(heard[place], words.format(numbers[place])) for place in odd])


def _foreign_share(item: Heard) -> float:
    scripts = scripts_of(item.utterance.language)
    return 1 - script_share(item.utterance.text or "", scripts) if scripts else 0.0
