"""Noise or another recording, mixed into a stretch of a recording.

Source: WavLM (Chen et al. 2022, arXiv 2110.13900), section III, algorithm 1 ("utterance mixing"):
the ratio of the energies is drawn in decibels, the stretch is at most half of the recording, and
both its place and the part that is mixed in are drawn. WavLM's noises are recordings of the DNS
challenge; here they are white noise, which needs no corpus.

B recordings, S samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from speechssl.config import require
from speechssl.data.batch import SpeechBatch
from speechssl.devices import to_device
from speechssl.objectives.base import real_frames


@dataclass
class MixingConfig:
    """How often and how loudly something is mixed in; but for ``probability`` as in WavLM."""

    probability: float = 0.0
    """Share of the recordings into which something is mixed (p; WavLM: 0.2)."""

    noise_probability: float = 0.1
    """Share of these that get noise and not another recording (p_n)."""

    speech_ratio_db: tuple[float, float] = (-5.0, 5.0)
    """Range from which the ratio of the recording's energy to that of another is drawn (r)."""

    noise_ratio_db: tuple[float, float] = (-5.0, 20.0)
    """The same for noise."""

    longest: float = 0.5
    """The longest stretch, as a share of the recording."""

    def __post_init__(self) -> None:
        for name in ("probability", "noise_probability"):
            require(0 <= getattr(self, name) <= 1, name, "from 0 to 1", getattr(self, name))
        for name in ("speech_ratio_db", "noise_ratio_db"):
            low, high = getattr(self, name)
            require(low <= high, name, "a range from low to high", (low, high))
        require(0 < self.longest <= 1, "longest", "above 0 and at most 1", self.longest)


def draw_mixing(batch: SpeechBatch, config: MixingConfig) -> dict[str, Tensor]:
    """What is mixed into each recording, for ``mix``; all on the CPU.

    ``partner`` [B] int64: the recording of the batch that is mixed in (never the same), or -1 for
    noise, which is also what a recording gets that is alone in its batch. ``ratio_db`` [B]: the
    ratio of energies; infinite where nothing is mixed in. ``stretch`` [B, 3] int64: samples, first
    sample, and first sample in what is mixed in. ``noise`` [B, S]: of variance 1, where wanted.
    """
    lengths, total = batch.lengths, len(batch.lengths)
    chance = torch.rand(total, 7, dtype=torch.float64).unbind(dim=1)  # exact up to any length
    mixed = chance[0] < config.probability
    noisy = (chance[1] < config.noise_probability) | torch.tensor(total == 1)
    other = (torch.arange(total) + 1 + _below(total - 1, chance[2])) % total
    low, high = torch.tensor([config.speech_ratio_db, config.noise_ratio_db])[noisy.long()].T

    available = torch.where(noisy, lengths, lengths[other])
    longest = torch.minimum((config.longest * lengths).long(), available)
    samples = (1 + _below(longest, chance[4])).minimum(available)
    start = _below(lengths - samples + 1, chance[5])
    source_start = _below(available - samples + 1, chance[6])

    noise = torch.zeros(batch.waveforms.shape)
    filled = real_frames(lengths, noise.shape[1]) & (mixed & noisy)[:, None]
    noise[filled] = torch.randn(int(filled.sum()))
    return {
        "partner": torch.where(noisy, -1, other),
        "ratio_db": (low + (high - low) * chance[3]).float().masked_fill(~mixed, torch.inf),
        "stretch": torch.stack([samples, start, source_start], dim=1),
        "noise": noise,
    }


def mix(
    batch: SpeechBatch, *, partner: Tensor, ratio_db: Tensor, stretch: Tensor, noise: Tensor
) -> SpeechBatch:
    """The batch with the draws of ``draw_mixing`` mixed in; targets and all else as they were.

    The ratio is that of the mean squares of the whole recordings (E in algorithm 1).
    """
    device, waveforms = batch.waveforms.device, batch.waveforms
    noisy, other = partner < 0, partner.clamp(min=0)
    source_lengths = torch.where(noisy, batch.lengths, batch.lengths[other])
    sources = waveforms.index_select(0, to_device(other, device))
    sources = torch.where(to_device(noisy[:, None], device), to_device(noise, device), sources)

    energy = _mean_square(waveforms, batch.lengths)
    wanted = energy / 10 ** (to_device(ratio_db, device) / 10)
    scale = (wanted / _mean_square(sources, source_lengths).clamp(min=1e-10)).sqrt()  # [B]

    samples, start, source_start = to_device(stretch, device)[:, :, None].unbind(dim=1)  # [B, 1]
    place = torch.arange(waveforms.shape[1], device=device)
    inside = (place >= start) & (place < start + samples)  # [B, S]
    shifted = sources.gather(1, (place + source_start - start).clamp(0, len(place) - 1))
    added = (scale[:, None] * shifted).masked_fill(~inside, 0.0)
    return replace(batch, waveforms=waveforms + added)


def _mean_square(waveforms: Tensor, lengths: Tensor) -> Tensor:
    """[B, S], lengths [B] on the CPU -> [B]."""
    samples = to_device(lengths.clamp(min=1).float(), waveforms.device)
    return waveforms.square().sum(dim=1) / samples


def _below(count: Tensor | int, chance: Tensor) -> Tensor:
    """Whole numbers from 0 to ``count`` - 1, all equally likely: chance [B] in [0, 1) -> [B]."""
    return (chance * count).long()
