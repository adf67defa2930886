"""Mockingjay and TERA: restore the log-mel frames that were altered (Liu et al. 2020 and 2021).

Source: arXiv 1910.12638, section 2 (masked frames, absolute error, a prediction head of two
layers), and arXiv 2007.06028, section III (time and channel alteration). Masked frames are
replaced by the encoder's mask embedding; the papers put zeros there, and in a tenth of the
recordings each other frames or nothing new.

B recordings, T frames, C channels of a log-mel frame, D model size, M frames with something
altered.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from speechssl.config import require
from speechssl.data.batch import SpeechBatch
from speechssl.devices import to_device
from speechssl.errors import ConfigError
from speechssl.models.attention import take_frames
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.objectives.base import (
    Loss,
    Objective,
    frame_counts,
    frame_positions,
    full_precision,
    mean_metrics,
    real_frames,
    variety,
)
from speechssl.objectives.log_mels import LogMels
from speechssl.objectives.masking import MaskConfig, span_mask


@dataclass
class ReconstructionMaskConfig(MaskConfig):
    """``MaskConfig`` with TERA's spans: 15 % of the frames, in spans of about 80 ms."""

    probability: float = 0.15
    span: int = 4


@dataclass
class ReconstructionConfig:
    """Settings of ``Reconstruction``."""

    mask: ReconstructionMaskConfig = field(default_factory=ReconstructionMaskConfig)

    channel_mask: float = 0.0
    """Widest band of neighbouring mel channels that is set to 0 throughout a recording, as a
    share of all (TERA: 0.2). The width is uniform from 0 to that. ``fbank`` frontend only."""

    def __post_init__(self) -> None:
        share = self.channel_mask
        require(0 <= share < 1, "channel_mask", "from 0 to below 1", share)


class Reconstruction(Objective):
    """Context of altered input must give the log-mels as they were."""

    Config = ReconstructionConfig

    def __init__(
        self, config: ReconstructionConfig, encoder: EncoderConfig, num_clusters: int | None = None
    ) -> None:
        """Raises ``ConfigError`` for a channel mask with another frontend than ``fbank``."""
        super().__init__(config, encoder, num_clusters)
        if config.channel_mask > 0 and encoder.frontend.kind != "fbank":
            raise ConfigError(
                f"objective reconstruction: channel_mask must be 0 with model.frontend.kind "
                f"{encoder.frontend.kind}, whose channels are no bands, but is "
                f"{config.channel_mask}."
            )
        self.config = config
        self.bands = encoder.frontend.mel_bins
        self.log_mels = LogMels(encoder)
        self.predict = nn.Sequential(
            nn.Linear(encoder.dim, encoder.dim),
            nn.GELU(),
            nn.LayerNorm(encoder.dim),
            nn.Linear(encoder.dim, self.log_mels.channels),
        )

    def draw(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """``mask`` [B, T] bool, the masked frames, and ``hidden`` [B, C] bool, the channels that
        are 0 throughout a recording; both on the CPU."""
        counts, width = frame_counts(batch)
        mask = span_mask(counts, self.config.mask, width=width)
        widest = int(self.config.channel_mask * self.bands)
        draws = torch.rand(len(counts), 2, 1)
        size = (draws[:, 0] * (widest + 1)).long()  # [B, 1]
        start = (draws[:, 1] * (self.bands - size + 1)).long()
        band = torch.arange(self.bands)
        hidden = (band >= start) & (band < start + size)
        return {"mask": mask, "hidden": hidden.repeat(1, 2)}

    def loss(self, encoder: Encoder, batch: SpeechBatch, *, mask: Tensor, hidden: Tensor) -> Loss:
        """Absolute error of the altered values: all channels of masked frames, and the hidden
        channels of the others. mask [B, T] and hidden [B, C], on the CPU.

        Sum and count are in frames: altered values / C, so that a masked frame counts 1. The
        metric ``loss_trivial`` is the same with 0, the mean of each band, as the prediction.
        """
        counts, width = frame_counts(batch)
        device, channels = batch.waveforms.device, self.log_mels.channels
        altered = mask | (real_frames(counts, width) & hidden.any(dim=1, keepdim=True))
        chosen = frame_positions(altered)  # [M]
        weights = mask.flatten()[chosen, None] | hidden[chosen // width]  # [M, C]
        count = int(weights.sum()) / channels

        positions = to_device(chosen, device)
        frames = encoder.extract(batch.waveforms, batch.lengths)
        mels = self.log_mels(batch, frames)  # [B, T, C]
        if self.config.channel_mask > 0:
            frames = frames.masked_fill(to_device(hidden, device)[:, None], 0.0)
        inputs = encoder.project(encoder.normalize(frames))
        inputs = encoder.apply_mask(inputs, to_device(mask, device))
        context = encoder.contextualize(inputs, counts, positions=positions).float()  # [M, D]
        with full_precision(context):
            targets = take_frames(mels, positions)  # [M, C]
            share = to_device(weights, device) / channels
            total = ((self.predict(context) - targets).abs() * share).sum()
            trivial = (targets.abs() * share).sum()
        return Loss(
            total,
            count,
            {
                "loss_trivial": (trivial, count),
                **mean_metrics(variety("context", context), count),
            },
        )
