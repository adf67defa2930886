"""wav2vec 2.0: tell the true quantized frame from distractors (Baevski et al. 2020).

Source: arXiv 2006.11477, equations 1 to 4, sections 3 and 4.

B recordings, T frames, C frontend channels, D model size, M masked frames of the batch,
P most masked frames of one recording, N distractors, G groups, V entries of a group,
E size of a codeword, Q size of the space in which context and targets are compared.
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
from speechssl.models.dropout import Dropout
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.objectives.base import (
    Loss,
    Objective,
    encode,
    feature_penalty,
    frame_counts,
    frame_positions,
    full_precision,
    mean_metrics,
    perplexity,
    shares,
    variety,
)
from speechssl.objectives.masking import MaskConfig, span_mask


@dataclass
class ContrastiveConfig:
    """Settings of ``Contrastive``; the defaults are those of the paper's base model."""

    mask: MaskConfig = field(default_factory=MaskConfig)

    distractors: int = 100
    """Wrong answers per masked frame, drawn from the other masked frames of the recording."""

    similarity_temperature: float = 0.1
    """What the cosine similarities are divided by (kappa in equation 3)."""

    groups: int = 2
    """Codebooks of the quantizer (G)."""

    entries: int = 320
    """Entries of each codebook (V)."""

    codeword_size: int = 256
    """Values of a quantized frame, all groups together (E)."""

    projection_size: int = 256
    """Size of the space in which context and quantized frames are compared (Q)."""

    quantizer_dropout: float = 0.1
    """Dropout on the frames that go to the quantizer."""

    temperature_start: float = 2.0
    """Gumbel temperature when training starts."""

    temperature_end: float = 0.5
    """Gumbel temperature from ``temperature_fraction`` of training on."""

    temperature_fraction: float = 0.7
    """Share of training in which the temperature falls, by the same factor every update."""

    diversity_weight: float = 0.1
    """Weight of the unused share of the codebooks (alpha in equation 2)."""

    penalty_weight: float = 10.0
    """Weight of the mean square of the frontend's output."""

    def __post_init__(self) -> None:
        for name in ("distractors", "groups", "projection_size"):
            require(getattr(self, name) >= 1, name, "1 or more", getattr(self, name))
        require(self.entries >= 2, "entries", "2 or more", self.entries)
        divides = self.codeword_size >= 1 and self.codeword_size % self.groups == 0
        require(divides, "codeword_size", "a multiple of groups", self.codeword_size)
        for name in ("similarity_temperature", "temperature_start", "temperature_end"):
            require(getattr(self, name) > 0, name, "more than 0", getattr(self, name))
        for name in ("diversity_weight", "penalty_weight"):
            require(getattr(self, name) >= 0, name, "0 or more", getattr(self, name))
        dropout, fraction = self.quantizer_dropout, self.temperature_fraction
        require(0 <= dropout < 1, "quantizer_dropout", "from 0 to below 1", dropout)
        require(0 < fraction <= 1, "temperature_fraction", "above 0 and at most 1", fraction)


class GumbelQuantizer(nn.Module):
    """Product quantizer with straight-through Gumbel softmax (section 2, equation 1)."""

    def __init__(self, channels: int, groups: int, entries: int, codeword_size: int) -> None:
        super().__init__()
        self.logits = nn.Linear(channels, groups * entries)
        self.codebooks = nn.Parameter(torch.rand(groups, entries, codeword_size // groups))
        self.temperature = 1.0
        nn.init.normal_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)

    def forward(self, frames: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """frames [M, C], Gumbel noise [M, G, V] -> (codewords [M, E], codes [M, G], probabilities).

        Without noise each group takes its most probable entry. ``probabilities`` [M, G, V] are
        those of the entries before noise and temperature. Gradients reach the logits as if the
        choice were the softmax (with noise) at the present temperature.
        """
        groups, entries, _ = self.codebooks.shape
        logits = self.logits(frames).view(len(frames), groups, entries)
        noisy = logits if noise is None else logits + noise
        soft = (noisy / self.temperature).softmax(dim=-1)
        codes = noisy.argmax(dim=-1)
        hard = F.one_hot(codes, entries).to(soft.dtype)
        choice = hard - soft.detach() + soft
        codewords = torch.einsum("mgv,gve->mge", choice, self.codebooks).flatten(1)
        return codewords, codes, logits.softmax(dim=-1)


class Contrastive(Objective):
    """Context at a masked frame must single out that frame's quantized content."""

    Config = ContrastiveConfig

    def __init__(
        self, config: ContrastiveConfig, encoder: EncoderConfig, num_clusters: int | None = None
    ) -> None:
        super().__init__(config, encoder, num_clusters)
        self.config = config
        self.quantizer_dropout = Dropout(config.quantizer_dropout)
        channels = encoder.frontend.frame_channels
        self.quantizer = GumbelQuantizer(
            channels, config.groups, config.entries, config.codeword_size
        )
        self.project_context = nn.Linear(encoder.dim, config.projection_size)
        self.project_target = nn.Linear(config.codeword_size, config.projection_size)
        self.set_progress(0.0)

    def set_progress(self, fraction: float) -> None:
        """Sets the Gumbel temperature, which falls geometrically from its start to its end."""
        start, end = self.config.temperature_start, self.config.temperature_end
        share = min(1.0, fraction / self.config.temperature_fraction)
        self.quantizer.temperature = start * (end / start) ** share

    def draw(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """``mask`` [B, T] bool, ``distractors`` [M, N] int64 and in training ``noise`` [M, G, V].

        A distractor is the position among the recording's masked frames, counted from 0. A
        recording with a single masked frame has no distractors: its mask is taken away. The noise
        is drawn on the device of the batch, as dropout is; the others are on the CPU.
        """
        counts, width = frame_counts(batch)
        mask = span_mask(counts, self.config.mask, width=width)
        mask &= mask.sum(dim=1, keepdim=True) >= 2
        draws = {"mask": mask, "distractors": _distractors(mask, self.config.distractors)}
        if self.training:
            shape = (int(mask.sum()), self.config.groups, self.config.entries)
            draws["noise"] = gumbel_noise(shape, batch.waveforms.device)
        return draws

    def loss(
        self,
        encoder: Encoder,
        batch: SpeechBatch,
        *,
        mask: Tensor,
        distractors: Tensor,
        noise: Tensor | None = None,
    ) -> Loss:
        """Equation 2, summed over masked frames, for the draws that ``draw`` describes.

        The diversity loss and the feature penalty are means over the batch times its masked
        frames. Every recording has no masked frame or at least two.
        """
        positions = to_device(frame_positions(mask), batch.waveforms.device)  # [M]
        count = len(positions)
        frames, normed, context = encode(encoder, batch, mask, positions)
        hidden = self.quantizer_dropout(take_frames(normed, positions))  # [M, C]
        context = context.float()  # [M, D]
        with full_precision(context):
            codewords, codes, probabilities = self.quantizer(hidden.float(), noise)
            targets = self.project_target(codewords)  # [M, Q]
            predictions = self.project_context(context)  # [M, Q]
            logits = self.logits(predictions, targets, codes, mask, distractors)  # [M, 1 + N]
            contrastive = info_nce(logits)
            diversity = self.diversity(probabilities)
            penalty = feature_penalty(encoder, frames, frame_counts(batch)[0])
        total = contrastive + count * (
            self.config.diversity_weight * diversity + self.config.penalty_weight * penalty
        )
        used = codebook_perplexity(probabilities)
        means: dict[str, Tensor | float] = {
            "loss_diversity": diversity,
            "feature_penalty": penalty,
            "codebook_perplexity": used,
            "target_perplexity": used / self.config.groups,
            **variety("target", targets),
            **variety("context", context),
            "temperature": self.quantizer.temperature,
        }
        metrics = mean_metrics(means, count)
        # A guess has an even chance with each candidate; those with the true codes are none.
        guess = logits.detach().isfinite().sum(dim=1).clamp(min=1).log().sum()
        metrics["loss_contrastive"] = (contrastive.detach(), count)
        metrics["loss_trivial"] = (guess + (total - contrastive).detach(), count)
        metrics["accuracy"] = (singled_out(logits.detach()).sum(), count)
        return Loss(total, count, metrics)

    def logits(
        self, predictions: Tensor, targets: Tensor, codes: Tensor, mask: Tensor, distractors: Tensor
    ) -> Tensor:
        """Equation 3: cosine similarities / temperature [M, 1 + N], the true target's first.

        predictions and targets [M, Q], codes [M, G]; mask [B, T], distractors [M, N] on the CPU. A
        distractor with the codes of the true target is no wrong answer and gets -inf. All pairs
        within a recording are compared at once, which is cheaper than collecting N distractors
        for each.
        """
        device, (masked, size) = predictions.device, predictions.shape
        counts = mask.sum(dim=1)  # [B]
        row = torch.arange(len(mask)).repeat_interleave(counts)  # [M] each frame's recording
        first = (counts.cumsum(dim=0) - counts)[row]  # [M] that recording's first masked frame
        place = torch.arange(masked) - first  # [M]
        most = int(counts.max())  # P

        slots = to_device(row * most + place, device)  # [M] places in [B * P]
        empty = predictions.new_zeros(len(mask) * most, size)
        left = empty.index_copy(0, slots, F.normalize(predictions, dim=-1))
        right = empty.index_copy(0, slots, F.normalize(targets, dim=-1))
        left, right = (side.view(len(mask), most, size) for side in (left, right))
        similarity = torch.bmm(left, right.transpose(1, 2))  # [B, P, P]
        similarity = similarity.flatten(0, 1).index_select(0, slots)  # [M, P]

        answers = torch.cat([place[:, None], distractors], dim=1)  # [M, 1 + N]
        logits = similarity.gather(1, to_device(answers, device))
        rivals = to_device((first[:, None] + distractors).flatten(), device)  # [M * N]
        rival_codes = codes.index_select(0, rivals).view(*distractors.shape, codes.shape[1])
        same = (rival_codes == codes[:, None]).all(dim=-1)  # [M, N]
        logits = logits / self.config.similarity_temperature
        return logits.masked_fill(F.pad(same, (1, 0), value=False), -torch.inf)

    def diversity(self, probabilities: Tensor) -> Tensor:
        """Equation 4 as fairseq computes it: the unused share of the codebooks, 0 to 1.

        probabilities [M, G, V] -> scalar: (GV - sum of the groups' perplexities) / GV, where a
        perplexity is that of the probabilities averaged over the batch.
        """
        total = self.config.groups * self.config.entries
        average = probabilities.sum(dim=0) / max(1, len(probabilities))  # [G, V]
        return (total - perplexity(average).sum()) / total


def info_nce(logits: Tensor) -> Tensor:
    """-log of the softmax at the true answer, summed: logits [M, 1 + N], the true one's first ->
    scalar. InfoNCE (van den Oord et al. 2018, arXiv 1807.03748, equation 4). 0 without negatives.
    """
    return -logits.log_softmax(dim=-1)[:, 0].sum()


def singled_out(logits: Tensor) -> Tensor:
    """logits [M, 1 + N], the true target's first -> [M] bool: it alone is the largest.

    Where all distractors are -inf (they share the true target's codes) nothing was told apart,
    so this is False: collapsed codebooks show as an accuracy of 0, not of 1.
    """
    rival = logits[:, 1:].amax(dim=1)
    return (logits[:, 0] > rival) & rival.isfinite()


def codebook_perplexity(probabilities: Tensor) -> Tensor:
    """How many entries win: [M, G, V] -> scalar from G to GV (0 for no frames).

    The sum over groups of the perplexity of the most probable entries.
    """
    winners = probabilities.argmax(dim=-1).T  # [G, M]
    return perplexity(shares(winners, probabilities.shape[-1])).sum()


def gumbel_noise(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Standard Gumbel noise, -log(-log u) with u uniform in [0, 1): -inf where u is 0.

    On a CPU a sixth of the time of ``exponential_``, which does not use vector instructions.
    """
    return torch.rand(shape, device=device).log_().neg_().log_().neg_()


def _distractors(mask: Tensor, number: int) -> Tensor:
    """mask [B, T] -> [M, N] int64: for each masked frame, others of the same recording.

    Uniform, with repetition, never the frame itself; counted among the recording's masked frames.
    """
    counts = mask.sum(dim=1)
    of_own = counts.repeat_interleave(counts)[:, None]  # [M, 1]
    position = (mask.cumsum(dim=1) - 1)[mask][:, None]  # [M, 1]
    drawn = (torch.rand(len(position), number) * (of_own - 1)).long()
    return drawn + (drawn >= position)
