"""Convolutions over time that tell the transformer where frames are.

B recordings, T frames, D model size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.models.grouped import grouped_convolution
from speechssl.models.padding import zero_padding


class PositionEmbedding(nn.Module):
    """A grouped convolution over time whose output is added to its input.

    Source: wav2vec 2.0, section 2: relative positions from a convolution, with weight
    normalisation over the kernel: ``weight = scale * direction / |direction|`` for each of the
    kernel's taps. The kernel is centred on its frame (an even one sees one frame more before it
    than after), or ends there if the encoder is causal.
    """

    def __init__(
        self, dim: int, kernel: int, groups: int, *, dropout: float = 0.1, causal: bool = False
    ) -> None:
        """``dropout``, that of the transformer, counts for the initial weights alone."""
        super().__init__()
        self.causal = causal
        self.direction = nn.Parameter(torch.empty(dim, dim // groups, kernel))
        nn.init.normal_(self.direction, std=math.sqrt(4 * (1 - dropout) / (kernel * dim)))
        self.scale = nn.Parameter(self.direction.detach().norm(dim=(0, 1), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, inputs: Tensor, padding: Tensor | None = None) -> Tensor:
        """inputs [B, T, D], zeros behind ends (``padding`` is not looked at) -> [B, T, D]."""
        return F.gelu(_convolve(inputs, self.weight(), self.bias, self.causal))

    def weight(self) -> Tensor:
        """The kernel with its weight normalisation: [D, D / groups, kernel]."""
        if self.direction.device.type == "cpu" and not torch.compiler.is_compiling():
            return torch._weight_norm(self.direction, self.scale, 2)  # fused: a quarter of the time
        norm = self.direction.square().sum((0, 1), keepdim=True).sqrt()  # faster than .norm()
        return self.direction * (self.scale / norm)


class PositionStack(nn.Module):
    """Grouped convolutions, each followed by layer norm without parameters and GELU.

    Source: data2vec (Baevski et al., 2022), section 4.2, which takes five of 19 frames in place of
    wav2vec 2.0's single one of 128. Kernels are centred on their frame (even ones see one frame
    more before it than after), or end there if the encoder is causal. What an earlier convolution
    gives behind a recording's end is hidden from the next one, so that padding changes nothing.
    """

    def __init__(self, dim: int, kernel: int, groups: int, layers: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.layers = nn.ModuleList(
            nn.Conv1d(dim, dim, kernel, groups=groups) for _ in range(layers)
        )

    def forward(self, inputs: Tensor, padding: Tensor | None = None) -> Tensor:
        """inputs [B, T, D], zeros behind ends; padding [B, T] bool, True there -> [B, T, D]."""
        hidden = inputs
        for number, layer in enumerate(self.layers):
            if number > 0:
                hidden = zero_padding(hidden, padding)
            # By their names: in a teacher and under adapters they are buffers, no parameters.
            weight, bias = layer.weight, layer.bias
            hidden = _convolve(hidden, weight, bias, self.causal)  # type: ignore[arg-type]
            hidden = F.gelu(F.layer_norm(hidden, hidden.shape[-1:]).to(hidden.dtype))
        return hidden


def _convolve(inputs: Tensor, weight: Tensor, bias: Tensor, causal: bool) -> Tensor:
    """inputs [B, T, D], weight [D, D / groups, kernel], bias [D] -> [B, T, D]."""
    outputs, size, kernel = weight.shape
    before = kernel - 1 if causal else kernel // 2
    in_16_bits = inputs.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    if in_16_bits and not torch.compiler.is_compiling():  # three times as fast there
        return grouped_convolution(inputs, weight, bias, before)
    padded = F.pad(inputs.transpose(1, 2), (before, kernel - 1 - before))
    return F.conv1d(padded, weight, bias, groups=outputs // size).transpose(1, 2)
