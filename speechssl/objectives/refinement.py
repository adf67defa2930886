"""Pseudo-labels that get better while BEST-RQ trains: what moves its projections and codebooks.

Source: Xu et al. 2026, "Enhancing BEST-RQ Pseudo-Label Quality through Online Refinement"
(arXiv 2606.30671). Its abstract names the three changes; how they are made is taken from the public
experiments of its authors' group (github.com/rwth-i6/i6_experiments, users/jxu/experiments/ssl):

1. PCA projection: the principal components of the frames take the place of random projections.
   They are estimated in the first epoch and stay from then on.
2. Iterative codebook refinement: from time to time each codeword becomes the mean of the frames
   that fell to it since the last time; itself it counts as one of them.
3. Codebook distillation: one more codebook gives targets. A copy of it is trained by gradients so
   that the codewords of two frames are as similar as a layer of the encoder finds the frames, and
   stay near the frames that they stand for; from time to time the codebook becomes its copy.

Our reading, where the source is silent or differs: the components are found by orthogonal
iteration, which turns random projections into them smoothly and needs no number on the host (the
authors' incremental SVD comes to the same). Means are means of directions (spherical k-means,
Dhillon and Modha 2001), because the quantizer looks at directions alone. The frames looked at are
the masked ones, a random sample. The layer's channels are normalised over each recording, without
which all its frames are alike. The error of similarities is absolute (the experiments offer
several). A codeword keeps its number, where the authors match old and new ones by distance.

B recordings, T frames, C channels of a log-mel frame, D model size, M masked frames of the batch,
N codebooks (a distilled one is the last), V entries of a codebook, E size of a codeword.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.config import require
from speechssl.devices import to_device
from speechssl.models.encoder import EncoderConfig
from speechssl.objectives.base import RunClock, full_precision, real_frames, sum_over_processes
from speechssl.objectives.teacher import normalize_over_time


@dataclass
class RefinementConfig:
    """What is refined, and when; the defaults are all three changes of the paper, once in an epoch
    as in the experiments, whose 25 epochs are a share of 0.04 of the run each."""

    pca_until: float = 0.04
    """Share of the run in which the principal components are estimated; 0 keeps projections
    random. Codebooks are refined after it."""

    every: float = 0.04
    """Share of the run between two refinements of the codebooks. It should bring some dozens of
    masked frames for each entry."""

    distill: bool = True
    """Whether there is one more codebook, which is distilled from the encoder."""

    layer: int | None = None
    """The layer whose similarities are distilled, from 1 on; by default the one half way up (6 of
    12, which HuBERT's second iteration clusters)."""

    anchor: float = 1.0
    """Weight of the distance from frames to their codewords against the error of similarities. The
    distilled codebook is free to leave the frames where it is 0."""

    def __post_init__(self) -> None:
        require(0 <= self.pca_until <= 1, "pca_until", "from 0 to 1", self.pca_until)
        require(0 < self.every <= 1, "every", "above 0 and at most 1", self.every)
        require(self.anchor >= 0, "anchor", "0 or more", self.anchor)

    def distilled_layer(self, encoder: EncoderConfig) -> int | None:
        """The number of the layer to distil from; None where nothing is distilled.

        Raises ``ConfigError`` where the encoder has no such layer.
        """
        if not self.distill:
            return None
        layer = max(1, encoder.layers // 2) if self.layer is None else self.layer
        rule = f"from 1 to the encoder's layers ({encoder.layers})"
        require(1 <= layer <= encoder.layers, "layer", rule, layer)
        return layer


class Quantizer(Protocol):
    """What is refined (``best_rq.RandomProjectionQuantizer``)."""

    projections: Tensor
    """[N, C, E]."""

    codebooks: Tensor
    """[N, V, E], entries of length 1."""


class Refinement(RunClock, nn.Module):
    """Collects what a quantizer's frames say, and moves the quantizer between updates.

    What has been collected is saved, and is the same on all processes.
    """

    products: Tensor
    """[C, C]: sum of the outer products of frames, whose eigenvectors are their components. (Frames
    are log-mels with a mean of 0 in each recording.)"""

    sums: Tensor
    """[N, V, E]: sum of the directions that fell to each entry since the last refinement. What
    falls to a distilled codebook is not looked at."""

    new_products: Tensor
    new_sums: Tensor
    """The same of the update under way, which may have to be made again."""

    words: nn.Parameter
    """[V, E]: the copy of the distilled codebook that is trained; rows of any length."""

    copied: Tensor
    """[V, E]: its directions in the last forward pass of training, where the weights of a sharded
    model are whole."""

    ITERATIONS = 4
    """Steps of orthogonal iteration per update. Each brings the projections nearer to the first E
    components by the ratio of eigenvalues E and E + 1: 0.9 for log-mels and 16 of 160."""

    def __init__(self, config: RefinementConfig, quantizer: Quantizer) -> None:
        """Raises ``ConfigError`` where a frame has fewer components than a codeword values."""
        super().__init__()
        self.config = config
        _, channels, size = quantizer.projections.shape
        if config.pca_until > 0:
            rule = f"at most the channels of a frame ({channels}), which are its components"
            require(size <= channels, "codeword_size", rule, size)
        for name in ("products", "new_products"):
            self.register_buffer(name, torch.zeros(channels, channels))
        for name in ("sums", "new_sums"):
            self.register_buffer(name, torch.zeros_like(quantizer.codebooks))
        if config.distill:
            self.words = nn.Parameter(quantizer.codebooks[-1].clone())
            self.register_buffer("copied", quantizer.codebooks[-1].clone())

    def advance(self, quantizer: Quantizer, fraction: float) -> None:
        """Moves ``quantizer`` to what the updates before ``fraction`` of the run have collected.

        An update that is announced again starts again: what was collected for it is forgotten.
        """
        last, self.fraction = self.fraction, fraction
        if last is not None and last != fraction:
            self.products += self.new_products
            self.sums += self.new_sums
            if last < self.config.pca_until:
                self.turn_projections(quantizer)
            elif int(last / self.config.every) != int(fraction / self.config.every):
                self.refine_codebooks(quantizer)
        self.new_products.zero_()
        self.new_sums.zero_()

    @torch.no_grad()
    def collect(self, quantizer: Quantizer, frames: Tensor, codes: Tensor) -> None:
        """Remembers frames [M, C] and their codes [M, N] until ``advance``, for the projections
        first and then for the codebooks; those of all processes are added up at once."""
        if self.fraction is None or self.fraction < self.config.pca_until:
            self.new_products += sum_over_processes(frames.T @ frames)
            return
        entries = torch.arange(quantizer.codebooks.shape[1], device=codes.device)
        chosen = (codes.T[:, None] == entries[:, None]).to(frames.dtype)  # [N, V, M]
        seen = torch.bmm(chosen, directions(frames @ quantizer.projections))
        self.new_sums += sum_over_processes(seen)

    @torch.no_grad()
    def turn_projections(self, quantizer: Quantizer) -> None:
        """Turns projections towards the principal components of all frames collected.

        Orthogonal iteration (Golub and Van Loan, Matrix Computations, section 8.2.4). It moves
        every codebook's own projection, so codes change little from one update to the next.
        """
        with full_precision(self.products):
            # Where no frame said anything, directions stay.
            matrix = self.products + 1e-6 * torch.eye(
                len(self.products), device=self.products.device
            )
            turned = quantizer.projections
            for _ in range(self.ITERATIONS):
                turned, triangle = torch.linalg.qr(matrix @ turned)
                signs = torch.where(triangle.diagonal(dim1=1, dim2=2) < 0, -1.0, 1.0)
                turned = turned * signs[:, None]
            quantizer.projections.copy_(turned)

    @torch.no_grad()
    def refine_codebooks(self, quantizer: Quantizer) -> None:
        """Moves entries to the mean direction of themselves and of what fell to them; an entry to
        which nothing fell stays. A distilled codebook becomes its trained copy instead."""
        refined = directions(quantizer.codebooks + self.sums)
        if self.config.distill:
            refined[-1] = self.copied
        quantizer.codebooks.copy_(refined)
        self.sums.zero_()

    def distillation(
        self, quantizer: Quantizer, mels: Tensor, states: Tensor, counts: Tensor, masked: Tensor
    ) -> Tensor:
        """How far the trained copy of the distilled codebook is from what the encoder finds.

        mels [B, T, C], zeros behind ends; states [B, T, D], a layer's output; counts [B] frames of
        each recording and masked [B] how many of them are masked, both on the CPU. Returns a
        scalar: the error of a recording, a mean over its pairs of frames and over its frames, sums
        up over its masked frames. Its gradient reaches the copy alone.
        """
        words = directions(self.words)
        if self.training:
            self.copied.copy_(words.detach())
        device = mels.device
        real = to_device(real_frames(counts, mels.shape[1]).to(mels.dtype), device)  # [B, T]
        frames = to_device(counts.clamp(min=1).to(mels.dtype), device)  # [B]
        inputs = directions(mels.detach() @ quantizer.projections[-1])  # [B, T, E]
        chosen = F.embedding((inputs @ words.detach().T).argmax(dim=-1), words)  # [B, T, E]
        layer = directions(normalize_over_time(states.detach().float(), counts))  # [B, T, D]

        errors = (similarities(chosen) - similarities(layer)).abs()  # [B, T, T]
        pairs = torch.einsum("bs,bst,bt->b", real, errors, real) / frames.square()
        distances = 1.0 - (chosen * inputs).sum(dim=-1)  # [B, T]
        near = (real * distances).sum(dim=1) / frames
        weights = to_device(masked.to(mels.dtype), device)
        return (weights * (pairs + self.config.anchor * near)).sum()


def directions(vectors: Tensor) -> Tensor:
    """vectors [..., E] with length 1; those of length 0 stay."""
    return F.normalize(vectors, dim=-1)


def similarities(vectors: Tensor) -> Tensor:
    """vectors [B, T, E] of length 1 -> the cosines of each recording's pairs, [B, T, T]."""
    return torch.bmm(vectors, vectors.transpose(1, 2))
