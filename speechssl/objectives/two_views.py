"""BYOL and SimSiam: of two views of a recording, one must predict the other; no negatives.

Sources: BYOL (Grill et al. 2020, arXiv 2006.07733), equations 1 and 2, section 3: the target comes
from a moving average of the student. SimSiam (Chen and He 2021, arXiv 2011.10566), equations 1 to
4: it comes from the student itself, through which no gradient flows.

A view is the recording with noise, another gain, and a mask of its own. Both papers compare one
vector per image. Here one per frame is compared, because a recogniser needs to know what is said
when: a vector per recording may keep the speaker and forget the words. Both views have the same
clock, so the frames correspond. Those count that one view masks and the other shows: where both
show the frame, the noise alone would have to be undone, which the frontend could do; where both
mask it, the target would be a guess.

Both papers have batch norm in projector and predictor, which makes the loss of an image depend on
the others of its process, and without which they do badly or collapse. Here the two have layer
norm, and each channel of the targets is normalised over its recording's frames, as data2vec's are:
a target that is the same everywhere is then zero, and predicting it gains nothing. Without this,
the toy of tests/contracts collapses within five updates. It does not keep the channels from all
saying the same, such as when somebody speaks; ``decorrelation``, the second half of Barlow Twins'
loss (Zbontar et al. 2021, arXiv 2103.03230, equation 1), does.

B recordings, S samples, T frames, D model size, M frames that count, Q size of a projection.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from speechssl.config import require
from speechssl.data.batch import SpeechBatch
from speechssl.devices import to_device
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.objectives.base import (
    Loss,
    Objective,
    encode,
    frame_positions,
    full_precision,
    mean_metrics,
    spread,
    variety,
)
from speechssl.objectives.teacher import Teacher
from speechssl.objectives.views import Branch, ViewsConfig, draw_views, perceptron, two_views


@dataclass
class TwoViewsConfig(ViewsConfig):
    """Settings of ``TwoViews``. The sizes are ours; the papers are about images."""

    target: Literal["teacher", "stop_gradient"] = "teacher"
    """Who says what to predict: a moving average of encoder and projector (BYOL), or the student
    itself (SimSiam), which costs half as much."""

    horizon: float = 0.0008
    """How far back the teacher's average reaches when training starts, as a share of the run (see
    ``speechssl.objectives.teacher``). 1 / horizon falls to 0 like a half cosine, so that the
    teacher stands still at the end. BYOL's 0.996 is 250 of 312,000 updates."""

    hidden_size: int = 1024
    """Width of the hidden layer of projector and predictor."""

    projection_size: int = 256
    """Size of the space in which views are compared (Q)."""

    decorrelation: float = 0.0
    """Weight of the mean squared correlation between two channels of the projections (see
    ``correlation``), which is 1 where all channels say the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.horizon > 0, "horizon", "more than 0", self.horizon)
        require(self.decorrelation >= 0, "decorrelation", "0 or more", self.decorrelation)
        for name in ("hidden_size", "projection_size"):
            require(getattr(self, name) >= 1, name, "1 or more", getattr(self, name))


class TwoViews(Objective):
    """The projection of a frame that a view masks must predict that of the view that shows it."""

    Config = TwoViewsConfig

    def __init__(
        self, config: TwoViewsConfig, encoder: EncoderConfig, num_clusters: int | None = None
    ) -> None:
        super().__init__(config, encoder, num_clusters)
        self.config = config
        hidden, size = config.hidden_size, config.projection_size
        self.project = perceptron(encoder.dim, hidden, size)
        self.predict = perceptron(size, hidden, size)
        self.decay = 0.0
        """The teacher's decay in the last update; 0 where the student is its own teacher."""
        if config.target == "teacher":
            twin = Branch(Encoder(encoder), copy.deepcopy(self.project))
            self.teacher = Teacher(twin)

    def before_update(self, encoder: Encoder, fraction: float) -> None:
        """Lets the teacher, where there is one, follow encoder and projector."""
        if self.config.target == "teacher" and self.teacher.elapsed(fraction) > 0.0:
            rate = (1 + math.cos(math.pi * fraction)) / 2 / self.config.horizon
            self.decay = self.teacher.follow(Branch(encoder, self.project), fraction, rate)

    def draw(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """``mask`` [B, 2, T], ``gain`` [B, 2] and ``noise`` [B, 2, S]: see ``draw_views``."""
        return draw_views(batch, self.config)

    def loss(
        self, encoder: Encoder, batch: SpeechBatch, *, mask: Tensor, gain: Tensor, noise: Tensor
    ) -> Loss:
        """BYOL's equation 2 for each frame, ``2 - 2 cos(prediction, target)``, summed over the
        frames that one view masks and the other shows, which are the count. That is twice
        SimSiam's negative cosine plus a constant. Targets that say nothing give 2.

        mask [B, 2, T] bool, gain [B, 2], noise [B, 2, S] on the CPU.
        """
        device, width = batch.waveforms.device, mask.shape[-1]
        views = two_views(batch, gain, noise)  # of 2 B recordings: both views of the first, ...
        positions = frame_positions(mask & ~mask.flip(1))  # [M] in [2 B * T]
        row, frame = positions // width, positions % width
        partners = (row ^ 1) * width + frame  # [M] the same frames in the other views
        count = len(positions)
        masks = mask.flatten(0, 1)  # [2 B, T]
        if self.config.target == "teacher":
            context = encode(encoder, views, masks, to_device(positions, device))[2].float()
            projections = self.teacher_projections(views, masks, to_device(partners, device))
        else:
            both = to_device(torch.cat([positions, partners]), device)
            context = encode(encoder, views, masks, both)[2].float()  # [2 M, D]
            with torch.no_grad(), full_precision(context):
                projections = self.project(context[count:])
            context = context[:count]
        with full_precision(context):
            targets = normalize_within(projections.detach(), row, rows=len(masks))
            own = self.project(context)  # [M, Q]
            predictions = self.predict(own)
            total = (2 - 2 * F.cosine_similarity(predictions, targets, dim=-1)).sum()
            redundancy = correlation(normalize_within(own, row, rows=len(masks)))
            total = total + self.config.decorrelation * count * redundancy
        means: dict[str, Tensor | float] = {
            "prediction_variance": spread(predictions),
            "correlation": redundancy.detach(),
            **variety("target", targets),
            **variety("context", context),
        }
        if self.config.target == "teacher":
            means["teacher_decay"] = self.decay
        # The best constant prediction points where the sum of the targets' directions does.
        trivial = 2 * (count - F.normalize(targets, dim=-1).sum(dim=0).norm())
        return Loss(total, count, {"loss_trivial": (trivial, count), **mean_metrics(means, count)})

    @torch.no_grad()
    def teacher_projections(self, views: SpeechBatch, masks: Tensor, positions: Tensor) -> Tensor:
        """The teacher's projections of the frames at ``positions`` [M] of [2 B * T]: [M, Q].

        masks [2 B, T] bool on the CPU.
        """
        branch = self.teacher.model
        assert isinstance(branch, Branch)
        context = encode(branch.encoder, views, masks, positions)[2].float()
        with full_precision(context):
            projections: Tensor = branch.project(context)
        return projections


def normalize_within(values: Tensor, row: Tensor, rows: int) -> Tensor:
    """Each channel of each recording to mean 0 and variance 1 over its frames.

    values [M, Q]; row [M] int64 on the CPU, the recording of each frame, of ``rows``. -> [M, Q].
    """
    counts = torch.bincount(row, minlength=rows).clamp(min=1).to(values.dtype)
    counts, row = to_device(counts[:, None], values.device), to_device(row, values.device)

    def mean(of: Tensor) -> Tensor:
        totals = of.new_zeros(rows, of.shape[1]).index_add(0, row, of)
        return (totals / counts).index_select(0, row)

    centred = values - mean(values)
    return centred * torch.rsqrt(mean(centred.square()) + 1e-5)


def correlation(values: Tensor) -> Tensor:
    """The mean over pairs of channels of their squared correlation, from 0 to 1.

    ``values`` [M, Q] have mean 0 and variance 1 in each channel. Barlow Twins (arXiv 2103.03230,
    equation 1) has the sum of it as its redundancy reduction, between two views.
    """
    size = values.shape[1]
    if size < 2:
        return values.new_zeros(())
    matrix = values.T @ values / max(1, len(values))  # [Q, Q]
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / (size * (size - 1))
