"""VQ-VAE and VAE: restore each frame's log-mels from a bottleneck on its context.

Sources: VQ-VAE (van den Oord et al. 2017, arXiv 1711.00937), equations 1 to 3 and appendix A.1: the
latent is the nearest codeword, gradients pass straight through, the codewords are moving averages
of the latents nearest to them, and a commitment loss keeps latents near. On speech frames, with
jitter in time, Chorowski et al. 2019 (arXiv 1901.08810, sections II and IV). The variational
autoencoder: Kingma and Welling 2014 (arXiv 1312.6114), equation 10 and appendix B.

Chorowski's decoder is a WaveNet that is told the speaker; this one is a stack of convolutions
(``speechssl.objectives.decoder``) that sees the bottleneck alone. Nothing is masked, so whatever
the context adds must help to describe a frame in few bits. The encoder may be causal.

B recordings, T frames, C channels of a log-mel frame, D model size, F frames of the batch, V
codewords, Q size of a latent.
"""

from __future__ import annotations

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
    RunClock,
    encode,
    frame_counts,
    frame_positions,
    full_precision,
    mean_metrics,
    perplexity,
    real_frames,
    shares,
    variety,
)
from speechssl.objectives.codebooks import OnlineCodebooks
from speechssl.objectives.decoder import ConvDecoder, DecoderConfig
from speechssl.objectives.log_mels import LogMels


@dataclass
class VQVAEConfig:
    """Settings of ``VQVAE``."""

    bottleneck: Literal["codebook", "gaussian"] = "codebook"
    """The nearest codeword (VQ-VAE), or a normal distribution (VAE)."""

    latent_size: int = 64
    """Values of a latent (Q)."""

    entries: int = 512
    """Codewords (V)."""

    commitment: float = 0.25
    """Weight of the squared distance from the latent to its codeword (beta in equation 3)."""

    codebook_horizon: float = 0.001
    """How far back a codeword's average reaches, as a share of the run (see ``online_clusters``).
    It must hold some dozens of frames for each codeword."""

    kl_weight: float = 0.1
    """``gaussian``: weight of the divergence from the standard normal, which is the variance of the
    decoder's error that the evidence lower bound assumes."""

    jitter: float = 0.12
    """Probability that a frame's latent is replaced by that of a neighbour in training."""

    decoder: DecoderConfig = field(default_factory=DecoderConfig)

    def __post_init__(self) -> None:
        require(self.latent_size >= 1, "latent_size", "1 or more", self.latent_size)
        require(self.entries >= 2, "entries", "2 or more", self.entries)
        for name in ("commitment", "kl_weight"):
            require(getattr(self, name) >= 0, name, "0 or more", getattr(self, name))
        horizon = self.codebook_horizon
        require(horizon > 0, "codebook_horizon", "more than 0", horizon)
        require(0 <= self.jitter < 1, "jitter", "from 0 to below 1", self.jitter)


class VQVAE(RunClock, Objective):
    """What passes the bottleneck must suffice to decode the log-mels."""

    Config = VQVAEConfig

    def __init__(
        self, config: VQVAEConfig, encoder: EncoderConfig, num_clusters: int | None = None
    ) -> None:
        """Raises ``ConfigError`` where the decoder's groups do not divide ``latent_size``."""
        super().__init__(config, encoder, num_clusters)
        self.config = config
        self.log_mels = LogMels(encoder)
        size = config.latent_size
        if config.bottleneck == "codebook":
            self.bottleneck: Codebook | Gaussian = Codebook(encoder.dim, size, config.entries)
        else:
            self.bottleneck = Gaussian(encoder.dim, size)
        self.decoder = ConvDecoder(config.decoder, size, self.log_mels.channels)

    def before_update(self, encoder: Encoder, fraction: float) -> None:
        """Moves the codewords to the latents of the last update.

        An update that is announced again starts again: what was collected for it is forgotten.
        """
        if isinstance(self.bottleneck, Codebook):
            kept = self.kept(fraction, self.config.codebook_horizon)
            self.bottleneck.codebook.absorb(kept)
        self.fraction = fraction

    def draw(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """In training mode ``jitter`` [F] int64, how many frames away (-1, 0 or 1) the latent that
        a frame gets is, and for the ``gaussian`` bottleneck ``noise`` [F, Q]; on the CPU."""
        if not self.training:
            return {}
        frames = int(frame_counts(batch)[0].sum())
        chance, share = torch.rand(frames), self.config.jitter
        draws = {"jitter": (chance < share).long() - 2 * (chance < share / 2).long()}
        if self.config.bottleneck == "gaussian":
            draws["noise"] = torch.randn(frames, self.config.latent_size)
        return draws

    def loss(
        self,
        encoder: Encoder,
        batch: SpeechBatch,
        *,
        jitter: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Loss:
        """Squared error, averaged over channels, and the bottleneck's own loss; both summed over
        frames, which are the count.

        jitter [F] int64 and noise [F, Q] on the CPU; without noise the latent is the mean.
        ``loss_trivial`` is the error of 0, the mean of each band, as the prediction.
        """
        device, (counts, width) = batch.waveforms.device, frame_counts(batch)
        real = real_frames(counts, width)
        positions = to_device(frame_positions(real), device)  # [F] in [B * T]
        count = len(positions)

        frames, _, context = encode(encoder, batch, torch.zeros_like(real), positions)
        context = context.float()  # [F, D]
        with full_precision(context):
            drawn = None if noise is None else to_device(noise, device)
            latents, cost, means = self.bottleneck(context, drawn)
            if jitter is not None:
                latents = latents.index_select(0, to_device(neighbours(counts, jitter), device))
            inputs = latents.new_zeros(real.numel(), latents.shape[1])
            inputs = inputs.index_copy(0, positions, latents).view(*real.shape, -1)
        predictions = self.decoder(inputs, counts, positions).float()
        with full_precision(context):
            targets = take_frames(self.log_mels(batch, frames), positions).float()  # [F, C]
            error = (predictions - targets).square().mean(dim=-1).sum()
            weight = self.config.commitment
            if self.config.bottleneck == "gaussian":  # of the bound, times 2 / C as the error is
                weight = 2 * self.config.kl_weight / targets.shape[1]
            total = error + weight * cost
            trivial = targets.square().mean(dim=-1).sum()
        metrics = mean_metrics({**means, **variety("context", context)}, count)
        metrics["loss_reconstruction"] = (error.detach(), count)
        metrics["loss_trivial"] = (trivial, count)
        return Loss(total, count, metrics)


class Codebook(nn.Module):
    """The codeword nearest to a frame's latent (equations 1 and 2).

    Latents have length sqrt(Q) (layer norm), as the first codewords do: the nearest is then a
    matter of direction, and not the shortest for all.
    """

    def __init__(self, dim: int, size: int, entries: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, size)
        self.codebook = OnlineCodebooks(1, entries, size)

    def forward(
        self, context: Tensor, _noise: Tensor | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """context [F, D] -> latents [F, Q], the commitment loss (mean over Q, sum over F) and
        metrics, which are means over F."""
        latents = F.layer_norm(self.project(context), (self.project.out_features,))
        with torch.no_grad():
            codes = self.codebook.nearest(latents[None])  # [1, F]
            words = self.codebook.codewords()[0].index_select(0, codes[0])
            if self.training:
                self.codebook.collect(latents[None], codes)
            used = perplexity(shares(codes, self.codebook.shape[1])).mean()
        cost = (latents - words).square().mean(dim=-1).sum()
        straight_through = latents + (words - latents).detach()
        return straight_through, cost, {"target_perplexity": used}


class Gaussian(nn.Module):
    """A normal distribution for each frame, from which the latent is drawn (reparametrised)."""

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, 2 * size)

    def forward(
        self, context: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """context [F, D], noise [F, Q] -> latents [F, Q], the divergence from the standard normal
        (sum over Q and F) and metrics, which are means over F."""
        mean, log_variance = self.project(context).chunk(2, dim=-1)
        latents = mean if noise is None else mean + (log_variance / 2).exp() * noise
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2
        return latents, divergence, {"divergence": divergence.detach() / max(1, len(mean))}


def neighbours(counts: Tensor, jitter: Tensor) -> Tensor:
    """Which of the F frames each gets its latent from: itself or, within its recording, a
    neighbour. counts [B], jitter [F] -> [F] int64, all on the CPU."""
    own = torch.arange(len(jitter))
    ends = counts.cumsum(dim=0)
    first, last = ends - counts, ends - 1
    row = torch.arange(len(counts)).repeat_interleave(counts)
    return (own + jitter).maximum(first[row]).minimum(last[row])
