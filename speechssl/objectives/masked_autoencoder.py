"""MAE: encode the few frames that are shown, and decode the log-mels of the others.

Sources: masked autoencoders (He et al. 2022, arXiv 2111.06377), for audio Audio-MAE (Huang et al.
2022, arXiv 2207.06405, section 3) and MAE-AST (Baade et al. 2022, arXiv 2203.16691, section 2): the
encoder works on a quarter of the input, a light decoder on all of it, with a learned vector for
what was hidden; the loss is the squared error of what was hidden. The papers' decoders are
transformers; this one is data2vec 2.0's stack of convolutions (``speechssl.objectives.decoder``).

Frames are left out after the position embedding is added. It is a convolution over time and sees
the mask embedding in the place of hidden frames, so it tells where gaps are, and not what is there.

B recordings, T frames, C channels of a log-mel frame, D model size, N visible and M masked frames
of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from speechssl.data.batch import SpeechBatch
from speechssl.devices import to_device
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
from speechssl.objectives.decoder import DecoderConfig, MaskedDecoder
from speechssl.objectives.log_mels import LogMels
from speechssl.objectives.masking import MaskConfig, span_mask


@dataclass
class ShownConfig(MaskConfig):
    """``MaskConfig`` of the frames that are shown: about a quarter (0.29, less overlaps), as in
    MAE-AST, in spans of 80 ms."""

    probability: float = 0.29
    span: int = 4


@dataclass
class MaskedAutoencoderConfig:
    """Settings of ``MaskedAutoencoder``."""

    shown: ShownConfig = field(default_factory=ShownConfig)
    """The spans that are shown; all other frames are masked."""

    decoder: DecoderConfig = field(default_factory=DecoderConfig)


class MaskedAutoencoder(Objective):
    """From the context of the frames shown, the log-mels of those hidden must be decoded."""

    Config = MaskedAutoencoderConfig

    def __init__(
        self,
        config: MaskedAutoencoderConfig,
        encoder: EncoderConfig,
        num_clusters: int | None = None,
    ) -> None:
        """Raises ``ConfigError`` for an encoder from which no frames can be left out."""
        super().__init__(config, encoder, num_clusters)
        self.config = config
        self.log_mels = LogMels(encoder)
        self.decoder = MaskedDecoder(config.decoder, encoder, self.log_mels.channels)

    def draw(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """``mask`` [B, T] bool on the CPU. A single frame is shown, and then nothing is masked."""
        counts, width = frame_counts(batch)
        shown = span_mask(counts, self.config.shown, width=width)
        return {"mask": real_frames(counts, width) & ~shown & shown.any(dim=1, keepdim=True)}

    def loss(self, encoder: Encoder, batch: SpeechBatch, *, mask: Tensor) -> Loss:
        """Squared error, averaged over channels and summed over masked frames, which are the count.

        mask [B, T] bool on the CPU. The metric ``loss_trivial`` is the same with 0, the mean of
        each band, as the prediction.
        """
        device, (counts, width) = batch.waveforms.device, frame_counts(batch)
        visible = real_frames(counts, width) & ~mask
        positions = frame_positions(mask)
        count = len(positions)

        frames = encoder.extract(batch.waveforms, batch.lengths)
        inputs = encoder.project(encoder.normalize(frames))
        inputs = encoder.apply_mask(inputs, to_device(mask, device))
        context = encoder.contextualize_visible(inputs, counts, visible)  # [N, D]
        predictions = self.decoder(context, mask, visible, counts)  # [M, C]
        with full_precision(predictions):
            mels = self.log_mels(batch, frames)  # [B, T, C]
            targets = take_frames(mels, to_device(positions, device)).float()
            total = (predictions - targets).square().mean(dim=-1).sum()
            trivial = targets.square().mean(dim=-1).sum()
        metrics = mean_metrics(variety("context", context), count)
        return Loss(total, count, {"loss_trivial": (trivial, count), **metrics})
