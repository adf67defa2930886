"""CPC and wav2vec: tell the frames to come from distractors (van den Oord et al. 2018).

Source: arXiv 1807.03748, equations 3 and 4 (the log-bilinear score and InfoNCE); from wav2vec
(Schneider et al. 2019, arXiv 1904.05862, section 2.2) a prediction with a bias for each step and
distractors from the same recording, which a frame keeps for all steps. Scores are divided by the
square root of their length, as in attention, so that training starts near chance.

B recordings, T frames, C frontend channels, D model size, F frames of the batch, N distractors.
"""

from __future__ import annotations

import math
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
from speechssl.objectives.contrastive import info_nce, singled_out


@dataclass
class FutureConfig:
    """Settings of ``Future``; the defaults are wav2vec's."""

    steps: int = 12
    """The farthest frame predicted, in frames of 20 ms after the last one seen (K)."""

    distractors: int = 10
    """Wrong answers per frame, drawn from the other frames of the recording."""

    def __post_init__(self) -> None:
        for name in ("steps", "distractors"):
            require(getattr(self, name) >= 1, name, "1 or more", getattr(self, name))


class Future(Objective):
    """Context at a frame must single out each of the next frames."""

    Config = FutureConfig
    needs_causal = True

    def __init__(
        self, config: FutureConfig, encoder: EncoderConfig, num_clusters: int | None = None
    ) -> None:
        super().__init__(config, encoder, num_clusters)
        self.config = config
        channels = encoder.frontend.frame_channels
        self.predict = nn.ModuleList(nn.Linear(encoder.dim, channels) for _ in range(config.steps))

    def draw(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """``distractors`` [F, N] int64: for each frame others of its recording.

        Uniform, with repetition, never the frame itself unless it is the only one.
        """
        counts, width = frame_counts(batch)
        place = real_frames(counts, width).nonzero()[:, 1:]  # [F, 1]
        of_own = counts.repeat_interleave(counts)[:, None]  # [F, 1] frames in the recording
        away = 1 + (torch.rand(len(place), self.config.distractors) * (of_own - 1)).long()
        return {"distractors": (place + away) % of_own}

    def loss(self, encoder: Encoder, batch: SpeechBatch, *, distractors: Tensor) -> Loss:
        """InfoNCE (equation 4), summed over steps and over the frames that have a frame so many
        steps later. The count is the number of these pairs. distractors [F, N] on the CPU.
        """
        counts, width = frame_counts(batch)
        device = batch.waveforms.device
        real = real_frames(counts, width)  # [B, T]
        answers = torch.zeros(len(counts), width, 1 + self.config.distractors, dtype=torch.long)
        answers[..., 0] = torch.arange(width)
        answers[:, :, 1:][real] = distractors
        places = [frame_positions(real[:, step:]) for step in range(1, self.config.steps + 1)]

        _, normed, context = encode(encoder, batch, torch.zeros_like(real), None)
        context, targets = context.float(), normed.float()  # [B, T, D], [B, T, C]
        answers = to_device(answers, device)
        with full_precision(context):
            logits = torch.cat(
                [
                    self.logits(step, context, targets, answers, to_device(pairs, device))
                    for step, pairs in enumerate(places, start=1)
                ]
            )  # [pairs of all steps, 1 + N]
            total = info_nce(logits)
        count = len(logits)
        own = to_device(frame_positions(real), device)  # [F]
        means: dict[str, Tensor | float] = {
            "loss_trivial": math.log(1 + self.config.distractors),
            **variety("target", take_frames(targets, own)),
            **variety("context", take_frames(context, own)),
        }
        right = singled_out(logits.detach()).sum()
        return Loss(total, count, {"accuracy": (right, count), **mean_metrics(means, count)})

    def logits(
        self, step: int, context: Tensor, targets: Tensor, answers: Tensor, pairs: Tensor
    ) -> Tensor:
        """Scores [P, 1 + N] of the true frame (first) and the distractors, ``step`` frames ahead.

        context [B, T, D], targets [B, T, C], answers [B, T, 1 + N] the frames of the recording to
        choose from, pairs [P] the frames to predict, in the flattened [B * (T - step)] that begins
        with frame ``step``. All frames of a recording are scored at once, which is cheaper than
        collecting N distractors for each.
        """
        predictions = self.predict[step - 1](context[:, :-step]) / targets.shape[-1] ** 0.5
        scores = torch.bmm(predictions, targets.transpose(1, 2))  # [B, T - step, T]
        chosen = scores.gather(2, answers[:, step:])  # [B, T - step, 1 + N]
        return take_frames(chosen, pairs)
