"""What the network of a case computes, counted from its dimensions.

The count is of the network, not of anybody's implementation, so that it is the same for all
systems of a case: two operations for each multiplication in a convolution or matrix product. What
is not counted: norms, activations, softmax, dropout, filter banks, and the heads of the
objectives (1 % of the tiny network, less of the base one).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from speechssl.frames import num_frames
from speechssl.models.encoder import EncoderConfig
from speechssl.models.frontend import CONV_KERNELS, CONV_STRIDES
from tools.bench.cases import VOCABULARY, Case


@dataclass(frozen=True)
class ForwardFlops:
    """Operations of one forward pass over one recording."""

    first_layer: float
    """The first convolution, whose input (the samples) needs no gradient."""
    frontend: float
    """The other convolutions."""
    body: float
    """Projection, position embedding, transformer."""


def forward_flops(config: EncoderConfig, samples: int) -> ForwardFlops:
    """Operations of an encoder's forward pass over ``samples`` samples."""
    convolutions = _convolutions(config.frontend.channels, samples)
    channels = config.frontend.channels
    if config.frontend.kind == "fbank":
        convolutions, channels = [0.0], 2 * config.frontend.mel_bins
    frames, dim = num_frames(samples), config.dim
    position = config.position_kernel * dim // config.position_groups * dim
    joined = -(-frames // config.squeeze)
    attention = 4 * dim * dim + 2 * joined * dim
    layer = attention + 2 * dim * config.ffn_dim
    if config.convolution_kernel:
        layer += 3 * dim * dim + config.convolution_kernel * dim
    squeeze = 2 * config.squeeze * dim * dim if config.squeeze > 1 else 0
    transformer = joined * (squeeze + position + config.layers * layer)
    body = 2.0 * (frames * channels * dim + transformer)
    return ForwardFlops(convolutions[0], sum(convolutions[1:]), body)


def _convolutions(channels: int, samples: int) -> list[float]:
    flops = []
    widths = [1] + [channels] * len(CONV_KERNELS)
    for (c_in, c_out), kernel, stride in zip(pairwise(widths), CONV_KERNELS, CONV_STRIDES):
        samples = (samples - kernel) // stride + 1
        flops.append(2.0 * samples * kernel * c_in * c_out)
    return flops


def step_flops(case: Case, config: EncoderConfig) -> float:
    """Operations of one step of a case with an encoder.

    The backward pass of a product is two products (for its input and its weight), of the first
    layer one. Fine-tuning keeps the frontend frozen.
    """
    total = 0.0
    for samples in case.samples:
        forward = forward_flops(config, samples)
        if case.kind == "pretrain":
            total += 2 * forward.first_layer + 3 * (forward.frontend + forward.body)
        elif case.kind == "finetune":
            head = 2.0 * num_frames(samples) * config.dim * VOCABULARY
            total += forward.first_layer + forward.frontend + 3 * (forward.body + head)
        elif case.kind == "inference":
            total += forward.first_layer + forward.frontend + forward.body
    return total
