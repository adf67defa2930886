"""Listening to every utterance once: what can be measured in it, and whether it can be used."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from speechssl.data.audio import audio_seconds, decode_audio, resampled_length
from speechssl.data.scripts import script_share, scripts_of
from speechssl.data.utterance import Utterance
from speechssl.errors import AudioError
from speechssl.frames import WINDOW_SAMPLES, num_frames

CHECKS = {
    "silent": "nothing in it is louder than -60 dBFS",
    "clipped": "more than 5 % of its samples are cut off at full scale",
    "duplicate": "another one has the same sound",
    "script": "less than half of its transcript is in the script of the language",
}
"""What may reject an utterance that can be decoded, by name."""

SILENCE_DB = -60.0
"""Frames with less than this (RMS, dB below full scale) are silence."""

MOST_CLIPPED = 0.05
LEAST_IN_SCRIPT = 0.5

FRAME_SECONDS = 0.02
FLOOR_DB = -120.0
"""The level of digital silence, which has none."""

FULL_SCALE = 0.99
TAIL_SECONDS = 0.2
"""A part that ends this close to the end of its recording, or behind it, ends where that does:
the times of transcribers are rounded, and MP3 headers count a little more than there is."""


@dataclass(frozen=True)
class Measurement:
    """What was found in an utterance."""

    start: float
    seconds: float
    rate: int
    """Samples per second."""
    channels: int
    recording_samples: int
    """Length of the whole recording, at its own rate."""
    loudness_db: float
    """Level (RMS, dB below full scale) of all that is not silence; -120 if there is nothing."""
    silent_share: float
    """Share of frames below ``SILENCE_DB``."""
    clipped_share: float
    """Share of samples that stay at full scale for three samples or more."""
    digest: str
    """A hash of the sound: 16-bit samples, channels averaged."""


def inspect(utterance: Utterance) -> dict[str, Any]:
    """``measure`` for a ``Journal``: the fields, or ``{"error": why it cannot be used}``."""
    try:
        return asdict(measure(utterance))
    except AudioError as error:
        return {"error": str(error)}


def measure(utterance: Utterance) -> Measurement:
    """Decodes an utterance and measures it. Raises ``AudioError`` if it cannot be used at all:
    not decodable, shorter than one frame, or a part that its recording does not have."""
    if utterance.is_part:
        samples, rate, recording_samples = _decode_part(utterance)
    else:
        samples, rate = decode_audio(utterance.audio)
        recording_samples = len(samples)
    length, channels = samples.shape
    if num_frames(resampled_length(length, rate)) == 0:
        raise AudioError(f"{utterance.audio}: is shorter than one frame ({WINDOW_SAMPLES} samples)")
    waveform = samples.numpy()
    mono: NDArray[np.float32] = waveform.mean(axis=1) if channels > 1 else waveform[:, 0]
    levels = frame_levels(mono, rate)
    sound = levels[levels > SILENCE_DB]
    return Measurement(
        start=utterance.start,
        seconds=length / rate,
        rate=rate,
        channels=channels,
        recording_samples=recording_samples,
        loudness_db=round(mean_level(sound), 2),
        silent_share=round(1 - len(sound) / len(levels), 4),
        clipped_share=round(clipped_share(waveform), 6),
        digest=sound_digest(mono, rate),
    )


def frame_levels(mono: NDArray[np.float32], rate: int) -> NDArray[np.float64]:
    """[frames of 20 ms] RMS levels of [N] samples, in dB below full scale; at least one."""
    hop = min(len(mono), max(1, round(FRAME_SECONDS * rate)))
    frames = mono[: len(mono) // hop * hop].reshape(-1, hop)
    power = np.einsum("fs,fs->f", frames, frames, dtype=np.float64) / hop
    levels: NDArray[np.float64] = 10 * np.log10(np.maximum(power, 10 ** (FLOOR_DB / 10)))
    return levels


def mean_level(levels: NDArray[np.float64]) -> float:
    """The level of frames with these levels together, in dB; -120 for none."""
    return float(10 * np.log10(np.mean(10 ** (levels / 10)))) if len(levels) else FLOOR_DB


def clipped_share(waveform: NDArray[np.float32]) -> float:
    """The share of [N, channels] samples in runs of three or more at full scale."""
    full = np.abs(waveform) >= FULL_SCALE
    if not full.any():
        return 0.0
    runs = full[:-2] & full[1:-1] & full[2:]
    inside = np.zeros_like(full)
    for shift in range(3):
        inside[shift : len(full) - 2 + shift] |= runs
    return float(inside.mean())


def sound_digest(mono: NDArray[np.float32], rate: int) -> str:
    """A hash of what is heard; the same for the same 16-bit samples in any lossless format."""
    digest = hashlib.sha256(str(rate).encode())
    digest.update(np.round(mono * 32768).astype("<i4").tobytes())
    return digest.hexdigest()[:32]


class Judge:
    """Decides whether an utterance can be used, by itself (for ``duplicate`` see ``firsts``)."""

    def __init__(self, checks: Collection[str], fastest_speech: float | None) -> None:
        """``checks`` are names in ``CHECKS``; ``fastest_speech`` is in characters per second."""
        assert set(checks) <= set(CHECKS), checks
        self._checks = checks
        self._fastest_speech = fastest_speech

    def problem(self, utterance: Utterance, found: Measurement) -> str | None:
        """Why ``utterance`` is not used, if it is not."""
        text = utterance.text
        if text and self._fastest_speech and len(text) > self._fastest_speech * found.seconds:
            return (
                "the transcript is too long for the recording "
                f"({len(text)} characters in {found.seconds:.2f} s)"
            )
        if "silent" in self._checks and found.silent_share == 1:
            return f"is silent (nothing is louder than {SILENCE_DB:.0f} dBFS)"
        if "clipped" in self._checks and found.clipped_share > MOST_CLIPPED:
            return f"is clipped ({found.clipped_share:.1%} of the samples)"
        scripts = scripts_of(utterance.language) if "script" in self._checks else None
        if text and scripts and (share := script_share(text, scripts)) < LEAST_IN_SCRIPT:
            return (
                f"the transcript is not in the script of the language ({share:.0%} of "
                f"{text[:40]!r} is {'/'.join(sorted(scripts))}, as {utterance.language} is written)"
            )
        return None


def firsts(sounds: Iterable[tuple[Utterance, Measurement]]) -> dict[str, Utterance]:
    """The utterance to keep of those with the same sound, by its digest: the first that has a
    transcript, or else the first."""
    kept: dict[str, Utterance] = {}
    for utterance, found in sounds:
        other = kept.setdefault(found.digest, utterance)
        if utterance.text and not other.text:
            kept[found.digest] = utterance
    return kept


def _decode_part(utterance: Utterance) -> tuple[Tensor, int, int]:
    """The samples [N, channels] of a part, their rate, and the length of the recording."""
    path, start = utterance.audio, utterance.start
    total = audio_seconds(path)
    end = total if utterance.duration is None else start + utterance.duration
    if start < 0 or end <= start:
        raise AudioError(f"{path}: the part from {start:.2f} to {end:.2f} s has no length")
    if start >= total:
        raise AudioError(f"{path}: ends ({total:.2f} s) before the part from {start:.2f} s begins")
    if end > total + max(TAIL_SECONDS, 0.5 * (end - start)):
        raise AudioError(f"{path}: ends ({total:.2f} s) before the part to {end:.2f} s does")
    to_the_end = end > total - TAIL_SECONDS
    samples, rate = decode_audio(path, start=start, duration=None if to_the_end else end - start)
    whole = round(start * rate) + len(samples) if to_the_end else round(total * rate)
    return samples[: round((end - start) * rate)], rate, whole
