"""HuBERT: predict the cluster of each masked frame (Hsu et al. 2021).

Source: arXiv 2106.07447, equations 1 to 3, section II. With ``mixing`` it is WavLM's denoising
(Chen et al. 2022, arXiv 2110.13900, section III): noise or another recording is mixed in, and the
clusters to name are still those of the clean recording.

B recordings, T frames, D model size, K clusters, M frames that count, Q size of the space in
which context and clusters are compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.config import require
from speechssl.data.batch import PADDING_TARGET, SpeechBatch
from speechssl.devices import to_device
from speechssl.errors import ConfigError, TargetsError
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.objectives.base import (
    Loss,
    Objective,
    Unigram,
    encode,
    feature_penalty,
    frame_counts,
    frame_positions,
    full_precision,
    mean_metrics,
    perplexity,
    real_frames,
    shares,
    variety,
)
from speechssl.objectives.masking import MaskConfig, span_mask
from speechssl.objectives.mixing import MixingConfig, draw_mixing, mix


@dataclass
class ClustersMaskConfig(MaskConfig):
    """``MaskConfig`` with HuBERT's denser spans."""

    probability: float = 0.8


@dataclass
class ClustersConfig:
    """Settings of ``Clusters``; the defaults are those of the paper's base model."""

    mask: ClustersMaskConfig = field(default_factory=ClustersMaskConfig)

    masked_weight: float = 1.0
    """Weight of the masked frames (alpha in equation 2)."""

    unmasked_weight: float = 0.0
    """Weight of the frames that are not masked (1 - alpha in equation 2)."""

    similarity_temperature: float = 0.1
    """What the cosine similarities are divided by (tau in equation 3)."""

    projection_size: int = 256
    """Size of the space in which context and clusters are compared (Q)."""

    penalty_weight: float = 10.0
    """Weight of the mean square of the frontend's output."""

    mixing: MixingConfig = field(default_factory=MixingConfig)
    """What is mixed into the recordings in training; by default nothing."""

    def __post_init__(self) -> None:
        for name in ("masked_weight", "unmasked_weight", "penalty_weight"):
            require(getattr(self, name) >= 0, name, "0 or more", getattr(self, name))
        weight = self.masked_weight + self.unmasked_weight
        require(weight > 0, "masked_weight + unmasked_weight", "more than 0", weight)
        temperature = self.similarity_temperature
        require(temperature > 0, "similarity_temperature", "more than 0", temperature)
        require(self.projection_size >= 1, "projection_size", "1 or more", self.projection_size)


class Clusters(Objective):
    """Context at a masked frame must name the cluster that the frame was put in."""

    Config = ClustersConfig
    needs_targets = True

    def __init__(
        self, config: ClustersConfig, encoder: EncoderConfig, num_clusters: int | None = None
    ) -> None:
        """``num_clusters`` (K) is needed. Raises ``ConfigError`` where it is missing or below 2."""
        super().__init__(config, encoder, num_clusters)
        if num_clusters is None or num_clusters < 2:
            raise ConfigError(
                "objective clusters needs cluster targets with 2 clusters or more, "
                f"but got {num_clusters or 'none'}; make them with speechssl label."
            )
        self.config = config
        self.project_context = nn.Linear(encoder.dim, config.projection_size)
        self.cluster_embeddings = nn.Parameter(torch.rand(num_clusters, config.projection_size))
        self.unigram = Unigram(num_clusters)

    def draw(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """``mask`` [B, T] bool on the CPU, and in training what is mixed in (``draw_mixing``)."""
        counts, width = frame_counts(batch)
        draws = {"mask": span_mask(counts, self.config.mask, width=width)}
        if self.training and self.config.mixing.probability > 0:
            draws |= draw_mixing(batch, self.config.mixing)
        return draws

    def loss(self, encoder: Encoder, batch: SpeechBatch, *, mask: Tensor, **mixing: Tensor) -> Loss:
        """Cross-entropy of equation 3 summed over frames, weighted by equation 2.

        mask [B, T] bool on the CPU, and the draws of ``draw_mixing`` or none. The count is the
        number of masked frames; where unmasked frames have a weight, or masked ones another than
        1, the sum of the weights. The feature penalty is a mean over the batch times the count.
        Raises ``TargetsError`` where ``batch.targets`` does not give one of the K clusters for each
        frame.
        """
        targets = self.checked_targets(batch)
        counts, width = frame_counts(batch)
        positions = frame_positions(mask)
        masked, unmasked = len(positions), 0  # the M frames that count: masked ones first
        if self.config.unmasked_weight > 0:
            others = frame_positions(real_frames(counts, width) & ~mask)
            positions, unmasked = torch.cat([positions, others]), len(others)
        count = self.config.masked_weight * masked + self.config.unmasked_weight * unmasked

        device = batch.waveforms.device
        targets = to_device(targets.flatten()[positions], device)  # [M]
        heard = mix(batch, **mixing) if mixing else batch
        frames, _, context = encode(encoder, heard, mask, to_device(positions, device))
        context = context.float()  # [M, D]
        with full_precision(context):
            logits = self.logits(context)  # [M, K]
            errors = F.cross_entropy(logits, targets, reduction="none")
            penalty = feature_penalty(encoder, frames, counts)
        total = self.weigh(errors, masked) + count * self.config.penalty_weight * penalty
        trivial = self.weigh(self.unigram(targets), masked)
        trivial = trivial + count * self.config.penalty_weight * penalty.detach()

        metrics = self.metrics(logits[:masked], targets[:masked], context[:masked])
        metrics["loss_masked"] = (errors[:masked].detach().sum(), masked)
        metrics["loss_trivial"] = (trivial, count)
        metrics["feature_penalty"] = (penalty.detach() * count, count)
        return Loss(total, count, metrics)

    def weigh(self, errors: Tensor, masked: int) -> Tensor:
        """Equation 2: the weighted sum of errors [M], of which the first ``masked`` are those of
        masked frames."""
        config = self.config
        unmasked = config.unmasked_weight * errors[masked:].sum()
        return config.masked_weight * errors[:masked].sum() + unmasked

    def logits(self, context: Tensor) -> Tensor:
        """Equation 3: context [M, D] -> cosine similarities with clusters / temperature [M, K]."""
        predictions = F.normalize(self.project_context(context), dim=-1)
        clusters = F.normalize(self.cluster_embeddings, dim=-1)
        return predictions @ clusters.T / self.config.similarity_temperature

    def metrics(
        self, logits: Tensor, targets: Tensor, context: Tensor
    ) -> dict[str, tuple[Tensor | float, float]]:
        """Sums and counts over the M masked frames, all without gradient.

        logits [M, K], targets [M], context [M, D]. The two perplexities compare how many clusters
        the targets and the most probable guesses use.
        """
        count, clusters = logits.shape
        guesses = logits.detach().argmax(dim=-1)
        means = {
            "target_perplexity": perplexity(shares(targets, clusters)),
            "prediction_perplexity": perplexity(shares(guesses, clusters)),
            **variety("context", context),
        }
        return {
            "accuracy": ((guesses == targets).sum(), count),
            **mean_metrics(means, count),
        }

    def checked_targets(self, batch: SpeechBatch) -> Tensor:
        """``batch.targets`` [B, T] where they fit the batch; raises ``TargetsError`` otherwise.

        They are on the CPU, so looking at them costs no wait for the device.
        """
        counts, width = frame_counts(batch)
        targets, clusters = batch.targets, len(self.cluster_embeddings)
        if targets is None:
            raise _error(batch, 0, "has no cluster targets")
        if targets.shape != (len(counts), width):
            shape = tuple(targets.shape)
            problem = f"its batch has targets of shape {shape}, not {(len(counts), width)}"
            raise _error(batch, 0, problem)
        wrong = (targets != PADDING_TARGET) != real_frames(counts, width)
        foreign = (targets < PADDING_TARGET) | (targets >= clusters)
        bad = (wrong | foreign).any(dim=1).nonzero()[:, 0].tolist()
        if not bad:
            return targets
        row = bad[0]
        found, wanted = int((targets[row] != PADDING_TARGET).sum()), int(counts[row])
        if found != wanted:
            raise _error(batch, row, f"has targets for {found} frames, its audio gives {wanted}")
        raise _error(batch, row, f"has a target outside 0 to {clusters - 1}")


def _error(batch: SpeechBatch, row: int, problem: str) -> TargetsError:
    name = batch.ids[row] if batch.ids else f"number {row} of the batch"
    return TargetsError(f"cut {name}: {problem}; label the cuts again with speechssl label.")
