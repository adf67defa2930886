"""DinoSR: predict the clusters that a slowly following teacher's frames fall into (Liu et al.).

Source: arXiv 2305.10005 (2023), section 3: the teacher is a moving average of the student, each of
its top layers has a codebook whose codewords are moving averages of the frames nearest to them, and
the student names the codewords of each masked frame by cross-entropy, averaged over the layers.

B recordings, T frames, D model size, K layers with a codebook, V codewords of each, M masked frames
of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.config import require
from speechssl.data.batch import SpeechBatch
from speechssl.devices import to_device
from speechssl.models.attention import take_frames
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.objectives.base import (
    Loss,
    Objective,
    Unigram,
    frame_counts,
    frame_positions,
    full_precision,
    mean_metrics,
    perplexity,
    shares,
    variety,
)
from speechssl.objectives.codebooks import OnlineCodebooks
from speechssl.objectives.masking import MaskConfig, span_mask
from speechssl.objectives.teacher import EncoderTeacher, TeacherConfig, upper_layers


@dataclass
class OnlineClustersMaskConfig(MaskConfig):
    """``MaskConfig`` with DinoSR's denser spans."""

    probability: float = 0.8


@dataclass
class OnlineClustersConfig:
    """Settings of ``OnlineClusters``; but for ``codebook_horizon`` the paper's base model."""

    mask: OnlineClustersMaskConfig = field(default_factory=OnlineClustersMaskConfig)

    top_layers: int | None = None
    """Layers of the teacher that have a codebook (K); by default the upper two thirds, which are
    the paper's 8 of 12."""

    entries: int = 256
    """Codewords of each codebook (V)."""

    codebook_horizon: float = 0.001
    """How far back a codeword's average reaches, as a share of the run. The codewords have to keep
    up with the teacher, so this is less than its horizon; but it must hold some dozens of frames
    for each codeword. The paper's decay of 0.9 is 10 of 400,000 updates (0.000025), which do at
    an hour of audio per update and would be less than one update of a short run."""

    teacher: TeacherConfig = field(default_factory=TeacherConfig)

    def __post_init__(self) -> None:
        require(self.entries >= 2, "entries", "2 or more", self.entries)
        horizon = self.codebook_horizon
        require(horizon > 0, "codebook_horizon", "more than 0", horizon)


class OnlineClusters(Objective):
    """Context at a masked frame must name the codewords nearest to the teacher's layers there."""

    Config = OnlineClustersConfig

    def __init__(
        self, config: OnlineClustersConfig, encoder: EncoderConfig, num_clusters: int | None = None
    ) -> None:
        """Raises ``ConfigError`` where the encoder has fewer layers than ``top_layers``."""
        super().__init__(config, encoder, num_clusters)
        self.config = config
        layers = upper_layers(encoder, config.top_layers)
        self.teacher = EncoderTeacher(encoder, config.teacher, layers)
        self.codebooks = OnlineCodebooks(layers, config.entries, encoder.dim)
        self.predict = nn.Linear(encoder.dim, layers * config.entries)
        self.unigram = Unigram(config.entries, layers)

    def before_update(self, encoder: Encoder, fraction: float) -> None:
        """Moves the codewords to the frames of the last update and the teacher to the encoder.

        An update that is announced again starts again: what was collected for it is forgotten.
        """
        self.codebooks.absorb(self.teacher.kept(fraction, self.config.codebook_horizon))
        self.teacher.follow_encoder(encoder, fraction)

    def draw(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """``mask`` [B, T] bool on the CPU."""
        counts, width = frame_counts(batch)
        return {"mask": span_mask(counts, self.config.mask, width=width)}

    def loss(self, encoder: Encoder, batch: SpeechBatch, *, mask: Tensor) -> Loss:
        """Cross-entropy averaged over codebooks, summed over masked frames, which are the count.

        mask [B, T] bool on the CPU. In training mode the teacher's frames are also collected for
        the codebooks, which change in ``before_update``.
        """
        device = batch.waveforms.device
        counts, _ = frame_counts(batch)
        positions = frame_positions(mask)
        count = len(positions)
        positions = to_device(positions, device)  # [M]

        frames = encoder.normalize(encoder.extract(batch.waveforms, batch.lengths))
        projected = encoder.projection(frames)  # [B, T, D]
        codes = self.codes(batch, projected, positions)  # [K, M]
        inputs = encoder.apply_mask(encoder.input_dropout(projected), to_device(mask, device))
        context = encoder.contextualize(inputs, counts, positions=positions).float()  # [M, D]
        with full_precision(context):
            logits = self.predict(context).view(count, *self.codebooks.shape).transpose(0, 1)
            errors = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none")
        total = errors.sum() / len(codes)
        return Loss(total, count, self.metrics(logits.detach(), codes, context.detach()))

    @torch.no_grad()
    def codes(self, batch: SpeechBatch, projected: Tensor, positions: Tensor) -> Tensor:
        """The codeword nearest to each masked frame of the teacher's upper layers: [K, M] int64.

        ``projected`` [B, T, D]: see ``EncoderTeacher.layer_outputs``; positions [M] on the device.
        """
        outputs = self.teacher.layer_outputs(batch, projected)
        frames = torch.stack([take_frames(output, positions) for output in outputs])  # [K, M, D]
        with full_precision(frames):
            codes = self.codebooks.nearest(frames)
            if self.training:
                self.codebooks.collect(frames, codes)
        return codes

    def metrics(
        self, logits: Tensor, codes: Tensor, context: Tensor
    ) -> dict[str, tuple[Tensor | float, float]]:
        """Sums and counts, averaged over codebooks, without gradient.

        logits [K, M, V], codes [K, M], context [M, D]. The two perplexities compare how many
        codewords the frames and the most probable guesses use.
        """
        count, entries = len(context), logits.shape[-1]
        guesses = logits.argmax(dim=-1)  # [K, M]
        means: dict[str, Tensor | float] = {
            "target_perplexity": perplexity(shares(codes, entries)).mean(),
            "prediction_perplexity": perplexity(shares(guesses, entries)).mean(),
            **variety("context", context),
            "teacher_decay": self.teacher.decay,
        }
        right = (guesses == codes).sum() / len(codes)
        trivial = self.unigram(codes).sum()
        return {
            "accuracy": (right, count),
            "loss_trivial": (trivial, count),
            **mean_metrics(means, count),
        }
