"""The parity certificate: both sides of a conversion compute the same from the same waveforms.

Outputs are compared by name ("layer 3", "log-probabilities", "loss"). Two float32 implementations
differ by rounding, which grows with the numbers themselves (the inner layers of large pre-norm
encoders reach hundreds), so a difference counts relative to the largest value of its output where
that is above 1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

import speechssl
from speechssl.data.batch import SpeechBatch, collate
from speechssl.errors import CheckpointError
from speechssl.frames import SAMPLE_RATE

FILE = "certificate.json"

TOLERANCE = 1e-4
"""Largest difference that is put down to float32 rounding."""

PROBE_SECONDS = (1.0, 0.71)
"""Durations of the recordings that both sides compute."""


@dataclass(frozen=True)
class Certificate:
    """How far two implementations agreed on the same weights."""

    status: str
    """"proven", or "unproven" where the other library is not installed."""
    library: str
    """The other library and its version."""
    note: str
    """What was computed, or why nothing was."""
    differences: dict[str, float] = field(default_factory=dict)
    """Largest absolute difference of each output."""
    largest_values: dict[str, float] = field(default_factory=dict)
    """Largest absolute value of each output."""
    tolerance: float = TOLERANCE
    precision: str = "float32"
    speechssl: str = speechssl.__version__

    def to_json(self) -> str:
        """The text of certificate.json."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def summary(self) -> str:
        """One line for people."""
        if not self.differences:
            return f"{self.status}: {self.note}"
        worst = max(self.differences, key=lambda name: self.differences[name])
        return (
            f"{self.status}: {len(self.differences)} outputs equal those of {self.library}, "
            f"the largest difference is {self.differences[worst]:.1e} ({worst})"
        )


def unproven(library: str, extra: str) -> Certificate:
    """The certificate of a conversion that could not be compared."""
    note = (
        f"{library} is not installed, so the outputs were not compared "
        f"(pip install -e '.[{extra}]' and convert again)"
    )
    return Certificate("unproven", library, note)


def compare(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], library: str, note: str
) -> Certificate:
    """The certificate for outputs of the same names and shapes.

    Raises ``CheckpointError`` naming the first output that differs by more than ``TOLERANCE``.
    """
    assert theirs
    assert ours.keys() == theirs.keys(), (ours.keys(), theirs.keys())
    differences, largest = {}, {}
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape, name
        largest[name] = float(expected.abs().max())
        differences[name] = float((ours[name] - expected).abs().max())
        if not differences[name] <= TOLERANCE * max(1.0, largest[name]) < math.inf:
            raise CheckpointError(
                f"the conversion does not give the outputs of {library}: {name} differs by "
                f"{differences[name]:.2g} (largest value {largest[name]:.2g}, tolerance "
                f"{TOLERANCE:g}); nothing was written, please report this checkpoint."
            )
    return Certificate("proven", library, note, differences, largest)


def probe() -> SpeechBatch:
    """The fixed recordings: gliding tones with a slow envelope and a small offset, padded."""
    waveforms = []
    for number, seconds in enumerate(PROBE_SECONDS, start=1):
        time = torch.arange(round(seconds * SAMPLE_RATE), dtype=torch.float64) / SAMPLE_RATE
        glide = torch.sin(2 * torch.pi * (150 * number + 900 * time) * time)
        buzz = torch.sin(2 * torch.pi * 2350 * number * time).pow(3)
        envelope = 0.1 + torch.sin(2 * torch.pi * 3 * time).square()
        waveforms.append((0.2 * envelope * (glide + 0.3 * buzz) + 0.01).float())
    return collate(waveforms)
