"""SimCLR and MoCo: tell the other view of a recording from views of other recordings.

Sources: SimCLR (Chen et al. 2020, arXiv 2002.05709), equation 1 and figure 2: both views of all
other images of the batch are negatives. MoCo (He et al. 2020, arXiv 1911.05722), equations 1 and 2:
a queue of earlier keys gives more negatives, and keys come from a moving average of the student, so
that they are comparable although the batch is small.

One vector per recording, the mean of its context, is compared. It learns what makes recordings
differ: speaker, channel and words alike. The negatives are the other recordings of the same forward
pass (of ``data.forward_seconds`` of audio on each process, which for SimCLR should be much), and
the queue. MoCo has the queue alone, of images drawn at random; here the recordings of a batch are
about as long as each other, and one answer for all of them would tell the batch from the queue.

B recordings, S samples, T frames, D model size, Q size of a projection, K keys of the queue,
N negatives.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from speechssl.config import require
from speechssl.data.batch import SpeechBatch
from speechssl.devices import to_device
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.objectives.base import (
    Loss,
    Objective,
    encode,
    frame_counts,
    full_precision,
    mean_metrics,
    variety,
)
from speechssl.objectives.contrastive import info_nce
from speechssl.objectives.masking import MaskConfig
from speechssl.objectives.teacher import Teacher
from speechssl.objectives.utterances import mean_over_time, number_right, other_recordings
from speechssl.objectives.views import Branch, ViewsConfig, draw_views, perceptron, two_views

KEYS_PER_PASS = 64
"""Keys of one forward pass of one process that enter the queue at most. A fixed number, so that
processes exchange keys without first telling each other how many they have."""


@dataclass
class LightMaskConfig(MaskConfig):
    """``MaskConfig`` with a tenth of the frames: what is masked is missing in the mean, which must
    still tell recordings apart."""

    probability: float = 0.1
    span: int = 5
    min_spans: int = 0


@dataclass
class UtteranceContrastiveConfig(ViewsConfig):
    """Settings of ``UtteranceContrastive``."""

    mask: MaskConfig = field(default_factory=LightMaskConfig)
    """Of each view."""

    queue: int = 0
    """Keys of earlier recordings that are negatives besides the others of the forward pass (K; for
    1.3 million images MoCo has 65,536). Well below the number of recordings, or a recording's own
    keys are among them. 0: none (SimCLR)."""

    horizon: float = 0.001
    """With a queue: how far back the teacher's average reaches, as a share of the run (see
    ``speechssl.objectives.teacher``). MoCo's 0.999 is 1,000 of 1,000,000 updates."""

    temperature: float = 0.1
    """What the cosine similarities are divided by (tau; SimCLR: 0.1, MoCo: 0.07)."""

    hidden_size: int = 1024
    """Width of the hidden layer of the projector."""

    projection_size: int = 128
    """Size of the space in which views are compared (Q)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.queue >= 0, "queue", "0 or more", self.queue)
        for name in ("horizon", "temperature"):
            require(getattr(self, name) > 0, name, "more than 0", getattr(self, name))
        for name in ("hidden_size", "projection_size"):
            require(getattr(self, name) >= 1, name, "1 or more", getattr(self, name))


class UtteranceContrastive(Objective):
    """The projection of a view must single out that of the other view of the same recording."""

    Config = UtteranceContrastiveConfig

    def __init__(
        self,
        config: UtteranceContrastiveConfig,
        encoder: EncoderConfig,
        num_clusters: int | None = None,
    ) -> None:
        super().__init__(config, encoder, num_clusters)
        self.config = config
        self.project = perceptron(encoder.dim, config.hidden_size, config.projection_size)
        self.decay = 0.0
        """The teacher's decay in the last update; 0 without a queue."""
        if config.queue > 0:
            self.queue = KeyQueue(config.queue, config.projection_size)
            self.teacher = Teacher(Branch(Encoder(encoder), copy.deepcopy(self.project)))

    def before_update(self, encoder: Encoder, fraction: float) -> None:
        """Where there is a queue, moves it on and lets the teacher follow.

        An update that is announced again starts again: what was collected for it is forgotten.
        """
        if self.config.queue == 0:
            return
        new = self.teacher.elapsed(fraction) > 0.0
        self.queue.absorb(keep=new)
        if new:
            student = Branch(encoder, self.project)
            self.decay = self.teacher.follow(student, fraction, 1 / self.config.horizon)

    def draw(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """``mask``, ``gain`` and ``noise`` (see ``draw_views``), and ``others`` [B, B - 1] int64,
        the recordings of the batch that are negatives for each; all on the CPU."""
        others = other_recordings(len(batch.lengths))
        return {**draw_views(batch, self.config), "others": others}

    def loss(
        self,
        encoder: Encoder,
        batch: SpeechBatch,
        *,
        mask: Tensor,
        gain: Tensor,
        noise: Tensor,
        others: Tensor,
    ) -> Loss:
        """SimCLR's equation 1, with a queue MoCo's keys among the negatives too, summed over both
        views of all recordings.

        The count is 2 B; 0 where there are no negatives. In training mode the keys of first views
        are also collected for the queue, which changes in ``before_update``.
        """
        views = two_views(batch, gain, noise)  # of 2 B recordings: both views of the first, ...
        masks = mask.flatten(0, 1)  # [2 B, T]
        context = mean_over_time(encode(encoder, views, masks, None)[2], frame_counts(views)[0])
        with full_precision(context):
            anchors = F.normalize(self.project(context), dim=-1)  # [2 B, Q]
            keys = self.teacher_keys(views, masks) if self.config.queue > 0 else anchors
            answers = to_device(candidates(others), anchors.device)
            logits = (anchors @ keys.T).gather(1, answers)  # [2 B, 1 + 2 N]
            if self.config.queue > 0:
                logits = torch.cat([logits, anchors @ self.queue.keys.T], dim=1)  # ... + K
                if self.training:
                    self.queue.collect(keys[::2])
            logits = logits / self.config.temperature
            total = info_nce(logits)
        count = len(logits) if logits.shape[1] > 1 else 0
        means: dict[str, Tensor | float] = {
            "loss_trivial": math.log(logits.shape[1]),
            **variety("target", keys),
            **variety("context", context),
        }
        if self.config.queue > 0:
            means["teacher_decay"] = self.decay
        metrics = mean_metrics(means, count)
        return Loss(total, count, {"accuracy": (number_right(logits), count), **metrics})

    @torch.no_grad()
    def teacher_keys(self, views: SpeechBatch, masks: Tensor) -> Tensor:
        """The teacher's projections of the views, of length 1: [2 B, Q].

        masks [2 B, T] bool on the CPU.
        """
        branch = self.teacher.model
        assert isinstance(branch, Branch)
        context = encode(branch.encoder, views, masks, None)[2]
        with full_precision(context):
            pooled = mean_over_time(context, frame_counts(views)[0])
            return F.normalize(branch.project(pooled), dim=-1)


class KeyQueue(nn.Module):
    """The last K keys, newest first (MoCo, section 3.2)."""

    keys: Tensor
    """[K, Q]: vectors of length 1, at first random ones."""

    collected: Tensor
    """[K, Q]: those collected since the last ``absorb`` by all processes, then rows of zeros."""

    def __init__(self, size: int, projection_size: int) -> None:
        super().__init__()
        keys = F.normalize(torch.randn(size, projection_size), dim=-1)
        self.register_buffer("keys", keys)
        self.register_buffer("collected", torch.zeros_like(keys))

    def collect(self, keys: Tensor) -> None:
        """Remembers keys [B, Q] of this process, and those of the others, until ``absorb``."""
        keys = F.pad(keys[:KEYS_PER_PASS], (0, 0, 0, max(0, KEYS_PER_PASS - len(keys))))
        gathered = [keys]
        if distributed.is_available() and distributed.is_initialized():
            gathered = [torch.empty_like(keys) for _ in range(distributed.get_world_size())]
            distributed.all_gather(gathered, keys.contiguous())
        self.collected.copy_(_newest(torch.cat([*gathered, self.collected]), len(self.keys)))

    def absorb(self, keep: bool) -> None:
        """Puts what was collected into the queue, in place of the oldest keys, unless ``keep`` is
        False; forgets it."""
        if keep:
            self.keys.copy_(_newest(torch.cat([self.collected, self.keys]), len(self.keys)))
        self.collected.zero_()


def _newest(rows: Tensor, size: int) -> Tensor:
    """The first ``size`` of rows [R, Q] that are not zeros, then rows of zeros; no row is looked at
    by the host."""
    empty = rows.square().sum(dim=-1) == 0.0
    return rows.index_select(0, empty.byte().argsort(stable=True)[:size])


def candidates(others: Tensor) -> Tensor:
    """The views among which each view must find its partner: the partner, then both views of the
    others. others [B, N] int64 recordings -> [2 B, 1 + 2 N] int64 views, on the CPU."""
    views = torch.arange(2 * len(others))
    negatives = 2 * others.repeat_interleave(2, dim=0)  # [2 B, N]
    return torch.cat([(views ^ 1)[:, None], negatives, negatives + 1], dim=1)
