"""data2vec 2.0: distillation in which the student sees visible frames only (Baevski et al. 2022).

Source: arXiv 2212.07525, section 3; sizes, masks and averages from the authors' configuration for
LibriSpeech. It is ``distillation`` with three savings: several masks of a recording share one pass
of the teacher ("multi-mask training"), masked frames are left out of the student's transformer, and
a convolutional decoder predicts the teacher's view of them.

Frames are left out after the position embedding is added, as in the authors' code. Where the
authors mark masked frames with noise, here is the encoder's mask embedding, and where they fill the
decoder's input with noise, a learned vector.

B recordings, T frames, D model size, R masks of a recording, N visible and M masked frames of the
batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.objectives.base import real_frames
from speechssl.objectives.decoder import DecoderConfig, MaskedDecoder
from speechssl.objectives.distillation import Distillation, DistillationConfig
from speechssl.objectives.masking import MaskConfig
from speechssl.objectives.teacher import TeacherConfig


@dataclass
class HalfMaskConfig(MaskConfig):
    """``MaskConfig`` with the paper's masks: half of the frames (0.65, less overlaps), in spans of
    100 ms."""

    span: int = 5


@dataclass
class SlowTeacherConfig(TeacherConfig):
    """``TeacherConfig`` with the paper's decay, which rises from 0.999 to 0.99999 within 75,000 of
    400,000 updates."""

    horizon_end: float = 0.25
    horizon_fraction: float = 0.1875


@dataclass
class EfficientDistillationConfig(DistillationConfig):
    """Settings of ``EfficientDistillation``; the defaults are those of the paper's base model for
    speech."""

    mask: MaskConfig = field(default_factory=HalfMaskConfig)

    masks: int = 8
    """Masks of each recording (R). Each costs the student half a recording."""

    teacher: TeacherConfig = field(default_factory=SlowTeacherConfig)

    decoder: DecoderConfig = field(default_factory=DecoderConfig)


class EfficientDistillation(Distillation):
    """From the context of visible frames, the teacher's view of the masked ones must be decoded."""

    Config = EfficientDistillationConfig

    def __init__(
        self,
        config: EfficientDistillationConfig,
        encoder: EncoderConfig,
        num_clusters: int | None = None,
    ) -> None:
        """Raises ``ConfigError`` where the encoder has fewer layers than ``top_layers``, or is one
        from which no frames can be left out."""
        super().__init__(config, encoder, num_clusters)
        self.predict = MaskedDecoder(config.decoder, encoder, encoder.dim)

    def student(
        self, encoder: Encoder, inputs: Tensor, mask: Tensor, counts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The decoder's predictions [M, D] and the context [N, D] of visible frames."""
        visible = real_frames(counts, mask.shape[1]) & ~mask
        context = encoder.contextualize_visible(inputs, counts, visible)
        return self.predict(context, mask, visible, counts), context
