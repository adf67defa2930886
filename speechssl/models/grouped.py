"""Grouped convolutions over time as matrix products, for CPUs, in the layout [B, T, D].

A group's outputs are few (48 in wav2vec 2.0's position embedding), which makes for thin products
that use a fraction of a processor. So each product computes ``block`` neighbouring frames at once:
the inputs that they see lie side by side in memory, and the weight has the kernel once for each of
them, one frame further down each time (a Toeplitz matrix). That is ``block - 1`` more frames in the
products than the kernel needs, and several times faster than ``F.conv1d``.

B recordings, T frames, D channels, d = D / groups of each group, K taps of the kernel.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from speechssl.models.strided import to_autocast_type

OUTPUTS = 192
"""A product has up to so many outputs."""


def grouped_convolution(inputs: Tensor, weight: Tensor, bias: Tensor, before: int) -> Tensor:
    """``F.conv1d`` in groups, of stride 1, for channels-last frames.

    inputs [B, T, D], weight [D, d, K], bias [D] -> [B, T, D]. A frame sees ``before`` frames before
    it and K - 1 - ``before`` after it; beyond the ends there are zeros. Computes in the autocast
    type, if autocast is on.
    """
    inputs = to_autocast_type(inputs)
    with torch.autocast(inputs.device.type, enabled=False):
        output: Tensor = _GroupedConvolution.apply(inputs, weight, bias, before)  # type: ignore[no-untyped-call]
    return output


class _GroupedConvolution(torch.autograd.Function):
    """inputs [B, T, D], weight [D, d, K], bias [D], frames seen before each -> [B, T, D], in the
    type of the inputs. Autograd converts the gradients of weight and bias to their type."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, before: int) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.before = before
        return _convolve(inputs, _kernels(weight, inputs), before).add_(bias.to(inputs.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        inputs, weight = ctx.saved_tensors
        kernels = _kernels(weight, inputs)
        gradient = gradients[0]
        to_inputs = None
        if ctx.needs_input_grad[0]:
            after = kernels.size(-1) - 1 - ctx.before
            to_inputs = _convolve(gradient, kernels.transpose(1, 2).flip(3), after)
        to_weight = _gradient_of_kernels(inputs, gradient, kernels, ctx.before).view(weight.shape)
        return to_inputs, to_weight, gradient.sum((0, 1)), None


def _kernels(weight: Tensor, like: Tensor) -> Tensor:
    """weight [D, d, K] -> kernels [G, d out, d in, K], in the type of ``like``."""
    size = weight.size(1)
    return weight.to(like.dtype).view(-1, size, *weight.shape[1:])


def _convolve(inputs: Tensor, kernels: Tensor, before: int) -> Tensor:
    """inputs [B, T, D], kernels [G, d out, d in, K] -> [B, T, D]."""
    batch, frames, width = inputs.shape
    groups, size, _, taps = kernels.shape
    block = _block(kernels)
    seen = _seen(inputs, kernels, before)  # [G, B, n, d in, L]
    output = inputs.new_empty(batch, seen.size(2), block, groups, size)
    toeplitz = inputs.new_zeros(block, size, size, seen.size(-1))
    for group, kernel in enumerate(kernels):
        for frame in range(block):
            toeplitz[frame, :, :, frame : frame + taps] = kernel
        product = seen[group].flatten(2) @ toeplitz.view(block * size, -1).t()
        output[..., group, :] = product.view(batch, -1, block, size)
    return output.view(batch, -1, width)[:, :frames].contiguous()


def _gradient_of_kernels(inputs: Tensor, gradient: Tensor, kernels: Tensor, before: int) -> Tensor:
    """inputs and gradient of the outputs [B, T, D] -> that of the kernels [G, d out, d in, K]."""
    groups, size, _, taps = kernels.shape
    block = _block(kernels)
    seen = _seen(inputs, kernels, before)  # [G, B, n, d in, L]
    padding = seen.size(2) * block - inputs.size(1)
    gradient = F.pad(gradient, (0, 0, 0, padding)).reshape(-1, block, groups, size)  # [B n, ...]
    to_kernels = torch.empty_like(kernels)
    length = seen.size(-1)
    for group in range(groups):
        rows = seen[group].flatten(0, 1).flatten(1)  # [B n, d in L]
        to_toeplitz = gradient[:, :, group].flatten(1).t() @ rows  # [block d out, d in L]
        # What has become of the kernel's copies, each one frame further down.
        strides = (size * size * length + 1, size * length, length, 1)
        copies = to_toeplitz.as_strided((block, size, size, taps), strides)
        torch.sum(copies, 0, out=to_kernels[group])
    return to_kernels


def _block(kernels: Tensor) -> int:
    """Frames that a product computes at once: few beside the kernel, as each makes it longer."""
    return max(1, min(OUTPUTS // kernels.size(1), kernels.size(-1) // 8))


def _seen(inputs: Tensor, kernels: Tensor, before: int) -> Tensor:
    """What each of n blocks of output frames sees of the inputs, L = K + block - 1 frames.

    inputs [B, T, D], kernels [G, d out, d in, K] -> [G, B, n, d in, L], where neighbours share
    memory.
    """
    batch, frames, _ = inputs.shape
    groups, size, _, taps = kernels.shape
    block = _block(kernels)
    after = -frames % block + taps - 1 - before
    padded = F.pad(inputs, (0, 0, before, after)).view(batch, -1, groups, size)
    channels = padded.permute(2, 0, 3, 1).contiguous()  # [G, B, d, length]
    return channels.unfold(3, taps + block - 1, block).transpose(2, 3)
