"""Two views of each recording: noise, another gain and a mask for each.

B recordings, S samples, T frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from speechssl.config import require
from speechssl.data.batch import SpeechBatch
from speechssl.devices import to_device
from speechssl.models.encoder import Encoder
from speechssl.objectives.base import frame_counts, real_frames
from speechssl.objectives.masking import MaskConfig, span_mask


@dataclass
class ViewsConfig:
    """How the views of a recording differ. All is ours: the papers are about images."""

    mask: MaskConfig = field(default_factory=MaskConfig)
    """Of each view."""

    snr_db: tuple[float, float] = (5.0, 20.0)
    """Range from which the signal-to-noise ratio of a view is drawn, in decibels."""

    gain_db: float = 6.0
    """A view's gain is drawn from so many decibels down to so many up."""

    def __post_init__(self) -> None:
        low, high = self.snr_db
        require(low <= high, "snr_db", "a range from low to high", self.snr_db)
        require(self.gain_db >= 0, "gain_db", "0 or more", self.gain_db)


def draw_views(batch: SpeechBatch, config: ViewsConfig) -> dict[str, Tensor]:
    """``mask`` [B, 2, T] bool, ``gain`` [B, 2] and ``noise`` [B, 2, S], zeros behind ends, for a
    recording of mean square 1; all on the CPU."""
    counts, width = frame_counts(batch)
    mask = span_mask(counts.repeat_interleave(2), config.mask, width=width)
    low, high = config.snr_db
    ratio, gain = torch.rand(2, len(counts), 2).unbind()
    level = _amplitude(-(low + (high - low) * ratio))  # [B, 2]
    real = real_frames(batch.lengths, batch.waveforms.shape[1])  # [B, S]
    real = real[:, None].expand(-1, 2, -1)
    noise = torch.zeros(real.shape)
    noise[real] = torch.randn(int(real.sum()))
    return {
        "mask": mask.view(-1, 2, width),
        "gain": _amplitude(config.gain_db * (2 * gain - 1)),
        "noise": noise * level[:, :, None],
    }


def two_views(batch: SpeechBatch, gain: Tensor, noise: Tensor) -> SpeechBatch:
    """Both views of each recording, as 2 B recordings: ``gain * (recording + its level * noise)``.

    gain [B, 2], noise [B, 2, S] on the CPU. The level is the root mean square.
    """
    device = batch.waveforms.device
    gain, noise = to_device(gain, device), to_device(noise, device)
    samples = to_device(batch.lengths.clamp(min=1).float(), device)
    level = (batch.waveforms.square().sum(dim=1) / samples).sqrt()  # [B]
    views = gain[:, :, None] * (batch.waveforms[:, None] + level[:, None, None] * noise)
    return SpeechBatch(waveforms=views.flatten(0, 1), lengths=batch.lengths.repeat_interleave(2))


class Branch(nn.Module):
    """An encoder and a projector: what a teacher of views has of the student."""

    def __init__(self, encoder: Encoder, project: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.project = project


def perceptron(size_in: int, hidden: int, size_out: int) -> nn.Sequential:
    """Linear, layer norm, ReLU, linear: BYOL's projector and predictor (section 3.3), with layer
    norm for batch norm, which would make a recording's loss depend on others of its process."""
    return nn.Sequential(
        nn.Linear(size_in, hidden),
        nn.LayerNorm(hidden),
        nn.ReLU(),
        nn.Linear(hidden, size_out),
    )


def _amplitude(decibels: Tensor) -> Tensor:
    return 10 ** (decibels / 20)
