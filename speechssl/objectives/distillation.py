"""data2vec: regress what a slowly following teacher makes of the unmasked input (Baevski et al.).

Source: arXiv 2202.03555 (2022), section 3: the teacher is a moving average of the student
(3.2), the target of a frame the mean of its top layers' normalised outputs (3.3), the loss smooth
L1 or the squared error (3.4). Several masks of a recording may share one pass of the teacher, as in
data2vec 2.0, the rest of which is in ``efficient_distillation``.

B recordings, T frames, D model size, R masks of a recording, M masked frames of the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

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
    frame_counts,
    frame_positions,
    full_precision,
    mean_metrics,
    spread,
    variety,
)
from speechssl.objectives.masking import MaskConfig, span_mask
from speechssl.objectives.teacher import (
    EncoderTeacher,
    TeacherConfig,
    normalize_over_time,
    upper_layers,
)


@dataclass
class DistillationConfig:
    """Settings of ``Distillation``; the defaults are those of the paper's base model for speech."""

    mask: MaskConfig = field(default_factory=MaskConfig)

    masks: int = 1
    """Masks of each recording (R), for which the teacher computes targets once. The student's work
    grows with them: lower ``data.forward_seconds`` to match (data2vec 2.0 takes 8 for speech)."""

    top_layers: int | None = None
    """Layers of the teacher whose outputs are averaged (K); by default the upper two thirds, which
    are the paper's 8 of 12."""

    target_norm: Literal["none", "layer", "instance"] = "none"
    """Normalisation of the average: over the channels of a frame, or over the frames of a channel.
    The layers' outputs are always normalised over frames before (instance norm)."""

    beta: float = 0.0
    """Error at which smooth L1 turns from square to linear; 0 is the squared error."""

    teacher: TeacherConfig = field(default_factory=TeacherConfig)

    def __post_init__(self) -> None:
        require(self.masks >= 1, "masks", "1 or more", self.masks)
        require(self.beta >= 0, "beta", "0 or more", self.beta)


class Distillation(Objective):
    """Context at a masked frame must be what the teacher, who sees it, makes of that frame."""

    Config = DistillationConfig

    def __init__(
        self, config: DistillationConfig, encoder: EncoderConfig, num_clusters: int | None = None
    ) -> None:
        """Raises ``ConfigError`` where the encoder has fewer layers than ``top_layers``."""
        super().__init__(config, encoder, num_clusters)
        self.config = config
        layers = upper_layers(encoder, config.top_layers)
        self.teacher = EncoderTeacher(encoder, config.teacher, layers)
        self.predict: nn.Module = nn.Linear(encoder.dim, encoder.dim)

    def before_update(self, encoder: Encoder, fraction: float) -> None:
        """Lets the teacher follow the encoder."""
        self.teacher.follow_encoder(encoder, fraction)

    def draw(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """``mask`` [B, R, T] bool on the CPU."""
        counts, width = frame_counts(batch)
        counts = counts.repeat_interleave(self.config.masks)
        mask = span_mask(counts, self.config.mask, width=width)
        return {"mask": mask.view(-1, self.config.masks, width)}

    def loss(self, encoder: Encoder, batch: SpeechBatch, *, mask: Tensor) -> Loss:
        """Errors (see ``errors``) summed over the masked frames of all masks, which are the count.

        mask [B, R, T] bool on the CPU.
        """
        device, (_, masks, width) = batch.waveforms.device, mask.shape
        counts, _ = frame_counts(batch)
        positions = frame_positions(mask)  # [M] in [B * R * T]
        originals = positions // (masks * width) * width + positions % width  # [M] in [B * T]

        frames = encoder.normalize(encoder.extract(batch.waveforms, batch.lengths))
        projected = encoder.projection(frames)  # [B, T, D]
        targets = take_frames(self.targets(batch, projected), to_device(originals, device))

        mask, counts = mask.flatten(0, 1), counts.repeat_interleave(masks)
        inputs = encoder.input_dropout(projected)
        inputs = inputs[:, None].expand(-1, masks, -1, -1).flatten(0, 1)  # [B * R, T, D]
        inputs = encoder.apply_mask(inputs, to_device(mask, device))
        predictions, context = self.student(encoder, inputs, mask, counts)
        with full_precision(predictions):
            total = self.errors(predictions, targets).sum()
            metrics = self.metrics(predictions.detach(), targets, context.detach())
        return Loss(total, len(positions), metrics)

    def student(
        self, encoder: Encoder, inputs: Tensor, mask: Tensor, counts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the student predicts at masked frames, float32 [M, D], and its context there [M, D].

        inputs [B * R, T, D], masked; mask [B * R, T] bool and counts [B * R] frames on the CPU.
        """
        positions = to_device(frame_positions(mask), inputs.device)
        context = encoder.contextualize(inputs, counts, positions=positions).float()
        with full_precision(context):
            return self.predict(context), context

    @torch.no_grad()
    def targets(self, batch: SpeechBatch, projected: Tensor) -> Tensor:
        """The teacher's view of each frame, float32 [B, T, D]; undefined behind ends.

        ``projected``: see ``EncoderTeacher.layer_outputs``.
        """
        outputs = self.teacher.layer_outputs(batch, projected)
        targets = torch.stack(outputs).mean(dim=0)
        with full_precision(targets):
            if self.config.target_norm == "layer":
                targets = F.layer_norm(targets, targets.shape[-1:])
            elif self.config.target_norm == "instance":
                targets = normalize_over_time(targets, frame_counts(batch)[0])
        return targets

    def errors(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """predictions and targets [M, D] -> [M]: smooth L1 (section 3.4), or with beta 0 the
        squared error, summed over channels and divided by the root of D as in the authors' code."""
        beta = self.config.beta
        if beta == 0.0:
            errors = (predictions - targets).square()
        else:
            errors = F.smooth_l1_loss(predictions, targets, beta=beta, reduction="none")
        return errors.sum(dim=-1) / math.sqrt(targets.shape[-1])

    def metrics(
        self, predictions: Tensor, targets: Tensor, context: Tensor
    ) -> dict[str, tuple[Tensor | float, float]]:
        """Sums and counts; all [M, D], without gradient.

        ``relative_error`` is the squared error by that of predicting the batch's mean target, whose
        loss is ``loss_trivial``: 1 means that nothing is learned.
        """
        count = len(targets)
        mean = (targets.sum(dim=0) / max(1, count)).expand_as(targets)
        trivial = (targets - mean).square().sum()
        means: dict[str, Tensor | float] = {
            "relative_error": (predictions - targets).square().sum() / trivial.clamp(min=1e-6),
            "prediction_variance": spread(predictions),
            **variety("target", targets),
            **variety("context", context),
            "teacher_decay": self.teacher.decay,
        }
        return {
            "loss_trivial": (self.errors(mean, targets).sum(), count),
            **mean_metrics(means, count),
        }
