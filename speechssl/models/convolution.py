"""The convolution that makes a transformer layer a Conformer's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from speechssl.models.padding import zero_padding
from speechssl.models.strided import to_autocast_type


class ConvolutionModule(nn.Module):
    """What a Conformer has beyond a transformer: a depthwise convolution over time.

    Source: Conformer (Gulati et al. 2020, arXiv 2005.08100, figure 2), with layer norm in place of
    batch norm, so that a recording's output does not depend on its batch.
    """

    def __init__(self, dim: int, kernel: int, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.norm = nn.LayerNorm(dim)
        self.gate = nn.Linear(dim, 2 * dim)
        self.depthwise = nn.Conv1d(dim, dim, kernel, groups=dim)
        self.inner_norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, inputs: Tensor, padding: Tensor | None) -> Tensor:
        """inputs [B, T, D], padding [B, T] bool or None -> [B, T, D]."""
        hidden = zero_padding(F.glu(self.gate(self.norm(inputs)), dim=-1), padding)
        reach = self.depthwise.kernel_size[0] - 1
        before = reach if self.causal else reach // 2
        hidden = F.pad(hidden.transpose(1, 2), (before, reach - before))
        hidden = depthwise_convolution(hidden, self.depthwise).transpose(1, 2)
        return self.out(F.silu(self.inner_norm(hidden)))  # type: ignore[no-any-return]


def depthwise_convolution(inputs: Tensor, convolution: nn.Conv1d) -> Tensor:
    """``convolution(inputs)`` of stride 1 with a group for each channel. [B, D, T] -> [B, D, T - K
    + 1], in the autocast type, if autocast is on."""
    device = inputs.device.type
    weight, bias = convolution.weight, convolution.bias
    if device != "cpu" or torch.compiler.is_compiling() or bias is None:
        return convolution(inputs)  # type: ignore[no-any-return]
    inputs = to_autocast_type(inputs)
    with torch.autocast(device, enabled=False):
        output: Tensor = _Depthwise.apply(inputs, weight, bias)  # type: ignore[no-untyped-call]
    return output


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution whose weight gets its gradient tap by tap: on a CPU that takes less
    than half the time of torch's own."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        weight, bias = weight.to(inputs.dtype), bias.to(inputs.dtype)
        return F.conv1d(inputs, weight, bias, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        inputs, weight = ctx.saved_tensors
        taps, frames = weight.size(-1), gradients[0].size(2)
        to_inputs = None
        if ctx.needs_input_grad[0]:
            flipped = weight.to(inputs.dtype).flip(2)
            padded = F.pad(gradients[0], (taps - 1, taps - 1))
            to_inputs = F.conv1d(padded, flipped, groups=len(weight))
        wide = torch.promote_types(inputs.dtype, torch.float32)
        gradient = gradients[0].transpose(1, 2).to(wide).contiguous()  # [B, T, D]
        seen = inputs.transpose(1, 2).to(wide).contiguous()
        products, to_weight = torch.empty_like(gradient), gradient.new_empty(taps, len(weight))
        for tap in range(taps):
            torch.mul(gradient, seen[:, tap : tap + frames], out=products)
            torch.sum(products, (0, 1), out=to_weight[tap])
        return to_inputs, to_weight.t()[:, None], gradient.sum((0, 1))
