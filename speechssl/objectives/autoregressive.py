"""APC: predict the log-mel frame some steps ahead from the frames so far (Chung et al. 2019).

Source: arXiv 1904.03240, section 2: the loss is the sum over t of |x[t + n] - y[t]|, where y[t] is
a linear map of the context of frames 1 to t. The context comes from a causal transformer, as in
Chung and Glass 2020 (arXiv 1910.12607), in place of a recurrent network. The log-mels are
normalised over the recording, which tells of the future no more than mean and variance.

B recordings, T frames, C channels of a log-mel frame, D model size, M frames with a future.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speechssl.config import require
from speechssl.data.batch import SpeechBatch
from speechssl.devices import to_device
from speechssl.models.attention import take_frames
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.objectives.base import (
    Loss,
    Objective,
    encode,
    frame_counts,
    frame_positions,
    full_precision,
    mean_metrics,
    real_frames,
    variety,
)
from speechssl.objectives.log_mels import LogMels


@dataclass
class AutoregressiveConfig:
    """Settings of ``Autoregressive``."""

    steps: int = 3
    """Frames of 20 ms from the last one seen to the one predicted (n). The paper compares 1 to 20
    frames of 10 ms. One step is too easy: the windows of neighbouring frames overlap."""

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", "1 or more", self.steps)


class Autoregressive(Objective):
    """Context at a frame must give the log-mels ``steps`` frames later."""

    Config = AutoregressiveConfig
    needs_causal = True

    def __init__(
        self, config: AutoregressiveConfig, encoder: EncoderConfig, num_clusters: int | None = None
    ) -> None:
        super().__init__(config, encoder, num_clusters)
        self.config = config
        self.log_mels = LogMels(encoder)
        self.predict = nn.Linear(encoder.dim, self.log_mels.channels)

    def draw(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """Nothing: the loss has no chance in it."""
        return {}

    def loss(self, encoder: Encoder, batch: SpeechBatch) -> Loss:
        """Absolute error, averaged over channels and summed over the frames that have
        one ``steps`` later; these are the count.

        Two metrics are the same for predictions that need no learning: ``loss_trivial`` for 0, the
        mean of each band, and ``loss_copy`` for the last frame seen.
        """
        counts, width = frame_counts(batch)
        device = batch.waveforms.device
        seen = frame_positions(real_frames(counts - self.config.steps, width))  # [M]
        count = len(seen)
        nothing = torch.zeros(len(counts), width, dtype=torch.bool)
        now, then = to_device(seen, device), to_device(seen + self.config.steps, device)
        frames, _, context = encode(encoder, batch, nothing, now)
        context = context.float()  # [M, D]
        with full_precision(context):
            mels = self.log_mels(batch, frames)  # [B, T, C]
            targets = take_frames(mels, then)  # [M, C]
            total = (self.predict(context) - targets).abs().mean(dim=-1).sum()
            trivial = targets.abs().mean(dim=-1).sum()
            copied = (take_frames(mels, now) - targets).abs().mean(dim=-1).sum()
        return Loss(
            total,
            count,
            {
                "loss_trivial": (trivial, count),
                "loss_copy": (copied, count),
                **mean_metrics(variety("context", context), count),
            },
        )
