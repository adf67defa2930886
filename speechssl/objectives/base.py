"""What every objective is: a module that turns an encoder and a batch into a loss.

B recordings, S samples, T frames, C frontend channels, D model size, M masked frames of the batch.

An objective is one file in this folder with one subclass of ``Objective``. It owns its heads,
quantizer or teacher; the encoder does not know it. Everything random happens in ``draw``
(dropout aside), so that ``loss`` is a plain function of weights, batch and draws, which a test
can compare with other implementations.

Host and device: which frames count is known on the CPU, where lengths, targets and masks are. An
objective computes positions and counts there and sends positions to the device, so that the host
never waits for a device to tell a number or a shape. ``tests/contracts`` checks this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from speechssl.data.batch import SpeechBatch
from speechssl.devices import to_device
from speechssl.errors import ConfigError
from speechssl.frames import num_frames
from speechssl.models.encoder import Encoder, EncoderConfig


@dataclass
class Loss:
    """A loss not yet divided: the trainer adds sums and counts over ranks and micro-batches."""

    sum: Tensor
    """Scalar float32 on the device, differentiable. Adds over what ``count`` counts."""

    count: float
    """How many terms (mostly masked frames) ``sum`` adds up; a plain number, known to the host. May
    be 0, and then ``sum`` is 0 too, but still reaches every parameter (with gradients of 0)."""

    metrics: dict[str, tuple[Tensor | float, float]] = field(default_factory=dict)
    """Name to (sum, count): the metric's mean is sum / count. A sum that depends on weights is a
    detached scalar on the device, to be read when metrics are reported. ``Objective`` says which
    names all objectives share."""


class Objective(nn.Module):
    """One pretext task.

    Subclasses set ``Config`` (a dataclass, checked when built) and ``needs_targets``, and write
    ``draw`` and ``loss``.

    Every loss reports, under names that are the same for all objectives (``training/doctor.py``
    watches them and knows no objective):

    - ``loss_trivial``: what the loss would be for the best answer that ignores the audio: the
      frequency of each target (``Unigram``), the mean of regressed targets, log(candidates) where
      one of several is to be chosen; penalties and the like as they are. Same count as the loss.
    - ``context_variance`` and ``context_rank`` (``variety``); where targets are computed vectors
      ``target_variance`` and ``target_rank``.
    - where there are classes, ``target_perplexity`` and ``prediction_perplexity``, the mean over
      codebooks of how many entries a batch uses; where there is a right answer, ``accuracy``.
    - ``teacher_decay`` where there is a teacher.
    """

    Config: ClassVar[type[Any]]
    """The dataclass of settings; the recipe's ``objective`` section without ``kind``."""

    needs_targets: ClassVar[bool] = False
    """Whether ``batch.targets`` must hold the cluster of each frame."""

    needs_causal: ClassVar[bool] = False
    """Whether the encoder must be causal, so that the future is not in what predicts it."""

    loss: Callable[..., Loss]
    """``loss(encoder, batch, **draws) -> Loss``, the draws by their names. Computed in float32
    also under autocast. Adding padding to the batch does not change it, and a batch
    concatenated with itself (draws alike) has twice the sum and twice the count."""

    def __init__(
        self, config: Any, encoder: EncoderConfig, num_clusters: int | None = None
    ) -> None:
        """``config`` is a ``Config``; ``encoder`` tells the widths that the heads must fit.

        ``num_clusters`` is the size of the codebook behind ``batch.targets``, for objectives
        that need targets. Raises ``ConfigError`` where a causal encoder is needed and is not.
        """
        super().__init__()
        if self.needs_causal and not encoder.causal:
            raise ConfigError(
                f"objective {type(self).__module__.rpartition('.')[2]} predicts the future, which "
                "the encoder must not see: causal must be true; set model.causal: true."
            )

    def set_progress(self, fraction: float) -> None:
        """Tells how far training is: updates done / updates in all, 0 to 1.

        Called before each update (before the first of its micro-batches), and again with the
        same value after a resume, so it sets state by ``fraction`` alone and never advances a
        counter (``before_update`` may). Schedules are stated in fractions: a short run is a scaled
        long run. The default does nothing.
        """

    def before_update(self, encoder: Encoder, fraction: float) -> None:
        """Called before each update, with the weights that the one before left in ``encoder``.

        The default calls ``set_progress(fraction)``. Overridden where more than a schedule
        changes from update to update, as a teacher that follows the encoder. May be called again
        with the same fraction (an update that is tried again), which must then change nothing
        more. What it changes is in the state dict, and the same on all processes.
        """
        self.set_progress(fraction)

    def draw(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """Draws everything random about the loss of ``batch`` from torch's global generators.

        Masks and indices are drawn on the CPU and stay there, so that a seed means the same on
        every device and ``loss`` can count masked frames. The first dimension of each tensor runs
        over the recordings, or over the masked frames recording by recording: concatenated
        batches have concatenated draws.
        """
        raise NotImplementedError

    def forward(self, encoder: Encoder, batch: SpeechBatch) -> Loss:
        """The loss of ``batch`` under fresh draws. Raises what ``loss`` raises."""
        return self.loss(encoder, batch, **self.draw(batch))


EXTRA_STATE = "_extra_state"
"""How the names of what modules save beside parameters and buffers end, in torch."""


class RunClock:
    """Mixed into an ``nn.Module`` that changes from update to update; saved with its weights.

    An update that is announced twice takes no time the second time, and so changes nothing more.
    """

    fraction: float | None = None
    """Share of the run that was done at the last change; None before the first."""

    def elapsed(self, fraction: float) -> float:
        """Share of the run since then: 0 where ``fraction`` was announced before, infinite before
        the first change."""
        return math.inf if self.fraction is None else max(0.0, fraction - self.fraction)

    def kept(self, fraction: float, horizon: float) -> float:
        """The share of itself that an average that reaches back ``horizon`` of the run keeps
        since then: 1 where ``fraction`` was announced before, and before the first change, when
        what has been collected for it is of another run (continued pretraining)."""
        return 1.0 if self.fraction is None else math.exp(-self.elapsed(fraction) / horizon)

    def get_extra_state(self) -> Tensor:
        """``fraction``; NaN for None."""
        fraction = math.nan if self.fraction is None else self.fraction
        return torch.tensor(fraction, dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Takes what ``get_extra_state`` gave."""
        fraction = float(state)
        self.fraction = None if math.isnan(fraction) else fraction


def frame_counts(batch: SpeechBatch) -> tuple[Tensor, int]:
    """([B] int64 on the CPU, frames of each recording; T frames of the padded batch)."""
    return num_frames(batch.lengths), num_frames(batch.waveforms.shape[1])


def transformer_of(config: EncoderConfig) -> Encoder:
    """An encoder without what stands before its position embedding: for ``contextualize`` alone."""
    body = Encoder(config)
    for name in ("frontend", "feature_norm", "projection", "mask_embedding"):
        delattr(body, name)
    return body


def encode(
    encoder: Encoder, batch: SpeechBatch, mask: Tensor, positions: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Frames, normalised frames (both [B, T, C]), and context [M, D] of masked input.

    mask [B, T] bool on the CPU. The frames themselves are not masked; only what the transformer
    sees is. A mask that is nowhere True masks nothing; the mask embedding then gets a gradient of
    0, as every parameter must get one. positions [M] int64 on the device: the frames of [B * T]
    whose context is computed; where it is None all are, and the context is [B, T, D].
    """
    counts, _ = frame_counts(batch)
    frames = encoder.extract(batch.waveforms, batch.lengths)
    normed = encoder.normalize(frames)
    inputs = encoder.apply_mask(encoder.project(normed), to_device(mask, frames.device))
    context = encoder.contextualize(inputs, counts, positions=positions)
    return frames, normed, context


def frame_positions(mask: Tensor) -> Tensor:
    """[B, T] bool on the CPU -> [M] int64 on the CPU: where the True are in [B * T], ascending."""
    return mask.flatten().nonzero()[:, 0]


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of ``values`` over all processes, in place; each gets the same."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(values)
    return values


def full_precision(tensor: Tensor) -> torch.autocast:
    """Switches autocast off on the device of ``tensor``: losses are computed in float32."""
    return torch.autocast(tensor.device.type, enabled=False)


def real_frames(counts: Tensor, width: int) -> Tensor:
    """[B] frames of each recording -> [B, width] bool, True where there is a frame."""
    return torch.arange(width, device=counts.device) < counts[:, None]


def feature_penalty(encoder: Encoder, frames: Tensor, counts: Tensor) -> Tensor:
    """Mean square of the frontend's frames, over real frames and channels; a scalar.

    frames [B, T, C], zeros behind ends; counts [B] on the CPU. The penalty of wav2vec 2.0 and
    HuBERT (``features_pen`` in fairseq), which keeps the frontend from growing its output. 0 where
    the frontend has nothing to learn (filter banks, or frozen by ``frontend_gradient``).
    """
    learns = any(True for _ in encoder.frontend.parameters())
    if not learns or encoder.config.frontend_gradient == 0:
        return frames.new_zeros((), dtype=torch.float32)
    values = max(1, int(counts.sum())) * frames.shape[-1]
    return frames.float().square().sum() / values


def mean_metrics(
    means: Mapping[str, Tensor | float], count: float
) -> dict[str, tuple[Tensor | float, float]]:
    """Means over the ``count`` terms of a batch, as the (sum, count) of ``Loss.metrics``."""
    return {
        name: ((value.detach() if isinstance(value, Tensor) else value) * count, count)
        for name, value in means.items()
    }


def spread(vectors: Tensor) -> Tensor:
    """Variance of the directions of vectors [M, D]: ``1 - |mean of v / |v||^2``, 0 to 1.

    0 when all point the same way (collapse). A scalar without gradient; 0 for no vectors.
    """
    directions = F.normalize(vectors.detach().float(), dim=-1)
    mean = directions.sum(dim=0) / max(1, len(vectors))
    return 1.0 - mean.square().sum() if len(vectors) else mean.sum()


def effective_rank(vectors: Tensor) -> Tensor:
    """In how many dimensions the directions of vectors [M, D] vary, from 0 to min(M - 1, D).

    The participation ratio ``(trace C)^2 / trace(C^2)`` of their covariance C: n where n of its
    eigenvalues are equal and the others 0. It needs no eigenvalues, for which a host would wait for
    its device. A scalar without gradient; 0 where nothing varies.
    """
    with full_precision(vectors):
        directions = F.normalize(vectors.detach().float(), dim=-1)
        centred = directions - directions.sum(dim=0) / max(1, len(vectors))
        wide = centred.shape[0] < centred.shape[1]  # [M, M] has the same traces as [D, D]
        products = centred @ centred.T if wide else centred.T @ centred
        trace = centred.square().sum()
        rounding = 1e-9 * max(1, len(vectors))  # a trace below this is none
        return trace.square() / products.square().sum().clamp(min=rounding**2)


ENOUGH_VECTORS = 32
"""The fewest vectors whose effective rank is reported."""


def variety(name: str, vectors: Tensor) -> dict[str, Tensor]:
    """How much vectors [M, D] differ, as means for ``mean_metrics``: ``<name>_variance`` (see
    ``spread``) and ``<name>_rank`` (see ``effective_rank``), which is left out where it would say
    more about M than about the vectors."""
    variance = {f"{name}_variance": spread(vectors)}
    if len(vectors) < ENOUGH_VECTORS:
        return variance
    return {**variance, f"{name}_rank": effective_rank(vectors)}


class Unigram(nn.Module):
    """A guess that ignores the audio: how often each target came in the batches before.

    N codebooks of V entries (one for plain targets). A loss no better than this guess has learned
    nothing else. The memory (``DECAY``) is a hundred batches long; it is not saved and, among
    several processes, each has its own: it is a measure, and trains nothing.
    """

    DECAY = 0.99
    counts: Tensor

    def __init__(self, entries: int, codebooks: int = 1) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(codebooks, entries), persistent=False)

    @torch.no_grad()
    def forward(self, codes: Tensor) -> Tensor:
        """Codes [N, M] (or [M] for one codebook) int64 -> cross-entropy of this guess with each
        of the M, averaged over codebooks, [M] float32. In training mode it then counts them."""
        codes = codes.view(len(self.counts), -1)
        smooth = self.counts + 1.0  # what never came may still come
        surprise = smooth.sum(dim=-1, keepdim=True).log() - smooth.log()  # [N, V]
        costs = surprise.gather(1, codes).mean(dim=0)
        if self.training:
            ones = torch.ones_like(codes, dtype=self.counts.dtype)
            self.counts.mul_(self.DECAY).scatter_add_(1, codes, ones)
        return costs


def perplexity(probabilities: Tensor) -> Tensor:
    """exp(entropy) over the last dimension [..., V] -> [...]: how many entries are in use.

    log(p + 1e-7), as in fairseq and transformers, keeps the gradient finite at p = 0.
    """
    return torch.exp(-(probabilities * torch.log(probabilities + 1e-7)).sum(dim=-1))


def shares(codes: Tensor, entries: int) -> Tensor:
    """codes [..., M] int64 -> [..., V] float32: the share of the M that each entry has, or 0."""
    total = codes.new_zeros(*codes.shape[:-1], entries, dtype=torch.float32)
    ones = torch.ones_like(codes, dtype=torch.float32)
    return total.scatter_add(-1, codes, ones) / max(1, codes.shape[-1])
