"""BEST-RQ: name the random-projection codes of masked frames (Chiu et al. 2022).

Source: arXiv 2202.01855, section 3, for one codebook. Several codebooks, each with a projection
of its own and a softmax of its own, the loss being their mean: USM (Zhang et al. 2023,
arXiv 2303.01037). Where the paper puts noise in place of masked frames, the encoder puts its mask
embedding. The quantizer is random and stays so unless ``refinement`` is asked for (Xu et al. 2026,
arXiv 2606.30671; ``objectives/refinement.py``).

B recordings, T frames, C channels of a log-mel frame, D model size, M masked frames of the batch,
N codebooks, V entries of a codebook, E size of a codeword.
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
    encode,
    frame_counts,
    frame_positions,
    full_precision,
    mean_metrics,
    perplexity,
    shares,
    variety,
)
from speechssl.objectives.log_mels import LogMels
from speechssl.objectives.masking import MaskConfig, span_mask
from speechssl.objectives.refinement import Refinement, RefinementConfig


@dataclass
class BestRQMaskConfig(MaskConfig):
    """``MaskConfig`` with the paper's spans: 400 ms, begun at 1 % of the 10 ms frames."""

    probability: float = 0.4
    span: int = 20


@dataclass
class BestRQConfig:
    """Settings of ``BestRQ``; the defaults are those of the paper, but for ``codebooks``."""

    mask: BestRQMaskConfig = field(default_factory=BestRQMaskConfig)

    codebooks: int = 4
    """Codebooks, each with its own projection (N); the paper has one, USM several."""

    entries: int = 8192
    """Entries of each codebook (V)."""

    codeword_size: int = 16
    """Size of the projected frames and of the codebooks' entries (E)."""

    refinement: RefinementConfig | None = None
    """How projections and codebooks are refined during training; None: never, as in BEST-RQ. A
    distilled codebook comes on top of ``codebooks``."""

    def __post_init__(self) -> None:
        require(self.codebooks >= 1, "codebooks", "1 or more", self.codebooks)
        require(self.entries >= 2, "entries", "2 or more", self.entries)
        require(self.codeword_size >= 1, "codeword_size", "1 or more", self.codeword_size)


class RandomProjectionQuantizer(nn.Module):
    """Names the entry of each codebook that is nearest to the projected frame (section 3.1).

    Projections and codebooks are drawn once and never trained (what ``Refinement`` does to them
    aside); they are saved with the weights.
    """

    projections: Tensor
    codebooks: Tensor

    def __init__(self, channels: int, codebooks: int, entries: int, codeword_size: int) -> None:
        super().__init__()
        projections = torch.empty(codebooks, channels, codeword_size)
        for projection in projections:
            nn.init.xavier_uniform_(projection)
        self.register_buffer("projections", projections)
        words = F.normalize(torch.randn(codebooks, entries, codeword_size), dim=-1)
        self.register_buffer("codebooks", words)

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        """frames [M, C] float32, normalised -> codes [M, N] int64.

        The nearest of unit vectors to the normalised projection is the one with the greatest
        product with it, and the length of the projection does not change which that is.
        """
        projected = frames @ self.projections  # [N, M, E]
        return (projected @ self.codebooks.transpose(1, 2)).argmax(dim=-1).T


class BestRQ(Objective):
    """Context at a masked frame must name the codes of that frame's log-mels."""

    Config = BestRQConfig

    def __init__(
        self, config: BestRQConfig, encoder: EncoderConfig, num_clusters: int | None = None
    ) -> None:
        """Raises ``ConfigError`` where the refinement does not suit the encoder."""
        super().__init__(config, encoder, num_clusters)
        self.config = config
        self.log_mels = LogMels(encoder)
        refined = config.refinement
        self.distilled_layer = None if refined is None else refined.distilled_layer(encoder)
        books = config.codebooks + (self.distilled_layer is not None)
        self.quantizer = RandomProjectionQuantizer(
            self.log_mels.channels, books, config.entries, config.codeword_size
        )
        self.refinement = None if refined is None else Refinement(refined, self.quantizer)
        self.classify = nn.Linear(encoder.dim, books * config.entries)
        self.unigram = Unigram(config.entries, books)

    def before_update(self, encoder: Encoder, fraction: float) -> None:
        """Refines the quantizer, if that is asked for, by what the updates before saw."""
        if self.refinement is not None:
            self.refinement.advance(self.quantizer, fraction)

    def draw(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """``mask`` [B, T] bool on the CPU."""
        counts, width = frame_counts(batch)
        return {"mask": span_mask(counts, self.config.mask, width=width)}

    def loss(self, encoder: Encoder, batch: SpeechBatch, *, mask: Tensor) -> Loss:
        """Cross-entropy, averaged over codebooks and summed over masked frames, which are the
        count, and the error of a distilled codebook. mask [B, T] bool on the CPU.

        In training mode the frames are also collected for the refinement, which changes the
        quantizer in ``before_update``.
        """
        positions = to_device(frame_positions(mask), batch.waveforms.device)  # [M]
        count = len(positions)
        frames, context, states = self.encode(encoder, batch, mask, positions)
        context = context.float()  # [M, D]
        with full_precision(context):
            mels = self.log_mels(batch, frames)
            targets = self.targets(take_frames(mels, positions))  # [M, N]
            logits = self.logits(context)  # [M, N, V]
            total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
            total = total / targets.shape[1]
            trivial = self.unigram(targets.T).sum()
            metrics: dict[str, tuple[Tensor | float, float]] = {}
            if self.refinement is not None and states is not None:
                counts, _ = frame_counts(batch)
                masked = mask.sum(dim=1)
                error = self.refinement.distillation(self.quantizer, mels, states, counts, masked)
                total, trivial = total + error, trivial + error.detach()
                metrics["loss_distillation"] = (error.detach(), count)
        guesses = logits.detach().argmax(dim=-1)  # [M, N]
        means = {
            "target_perplexity": perplexity(shares(targets.T, self.config.entries)).mean(),
            "prediction_perplexity": perplexity(shares(guesses.T, self.config.entries)).mean(),
            **variety("context", context),
        }
        right = (guesses == targets).sum() / targets.shape[1]
        metrics["accuracy"] = (right, count)
        metrics["loss_trivial"] = (trivial, count)
        return Loss(total, count, {**metrics, **mean_metrics(means, count)})

    def encode(
        self, encoder: Encoder, batch: SpeechBatch, mask: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Frames [B, T, C], context [M, D] and, if there is something to distil, the output
        [B, T, D] of the layer that it is distilled from. positions [M] on the device."""
        if self.distilled_layer is None:
            frames, _, context = encode(encoder, batch, mask, positions)
            return frames, context, None
        counts, _ = frame_counts(batch)
        frames = encoder.extract(batch.waveforms, batch.lengths)
        inputs = encoder.project(encoder.normalize(frames))
        inputs = encoder.apply_mask(inputs, to_device(mask, frames.device))
        context, states = encoder.contextualize(inputs, counts, layers=True)
        return frames, take_frames(context, positions), states[self.distilled_layer]

    def targets(self, frames: Tensor) -> Tensor:
        """The codes of masked log-mels: frames [M, C] -> [M, N] int64."""
        codes: Tensor = self.quantizer(frames)
        if self.refinement is not None and self.training:
            self.refinement.collect(self.quantizer, frames, codes)
        return codes

    def logits(self, context: Tensor) -> Tensor:
        """context [M, D] -> [M, N, V]: a softmax layer for each codebook."""
        return self.classify(context).unflatten(-1, (-1, self.config.entries))  # type: ignore[no-any-return]
