"""Linear maps and strided convolutions over time as matrix products, in the layout [B, L, C].

With the stride dividing the length, ``stride`` neighbouring frames are one row of a matrix
without any copying, and a kernel that is as wide as the stride is a single product with that
matrix. What the kernel has beyond the stride is a second product with the matrix one row further.
In bf16 on a CPU this is several times faster than ``F.conv1d``, and the layout is the one that
layer norm wants.

The GELU in front of a map can be part of it: its output is then not kept for the backward pass
but computed again there, so that of each layer only what GELU was applied to stays in memory. In
the same way weights are converted to the autocast type again instead of being kept in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 512
"""Rows that a CPU applies GELU to at once, in front of a product."""


def strided_linear(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, stride: int, *, gelu: bool = False
) -> Tensor:
    """``F.conv1d`` for channels-last frames, without padding.

    inputs [B, L, C_in] with L a multiple of ``stride``; weight [C_out, C_in, kernel] with
    stride <= kernel <= 2 * stride; bias [C_out] or None. Returns [B, L / stride, C_out]. Where the
    kernel is wider than the stride, the last frame of each recording has seen the first frames of
    the next one and must not be used. ``gelu`` applies GELU to the inputs first. Computes in the
    autocast type, if autocast is on.
    """
    inputs = to_autocast_type(inputs)
    batch, length, c_in = inputs.shape
    c_out, _, kernel = weight.shape
    assert length % stride == 0
    assert stride <= kernel <= 2 * stride
    rows = inputs.reshape(batch * length // stride, stride * c_in)
    with torch.autocast(inputs.device.type, enabled=False):
        output: Tensor = _StridedLinear.apply(rows, weight, bias, gelu)  # type: ignore[no-untyped-call]
    return output.view(batch, length // stride, c_out)


def gelu_linear(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``F.linear(F.gelu(inputs), weight, bias)``. inputs [..., C_in] -> [..., C_out]."""
    if torch.compiler.is_compiling():  # the compiler decides itself what to compute again
        return F.linear(F.gelu(inputs), weight, bias)
    rows = to_autocast_type(inputs.reshape(1, -1, inputs.size(-1)))
    output = strided_linear(rows, _to_keep(weight, rows)[:, :, None], bias, stride=1, gelu=True)
    return output.view(*inputs.shape[:-1], len(weight))


def joined_linear(inputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """``F.linear`` with several weights [C_k, C_in] and biases [C_k] as one product, the outputs
    side by side. inputs [..., C_in] -> [..., sum of C_k], in the autocast type, if that is on."""
    if torch.compiler.is_compiling():
        return F.linear(inputs, torch.cat([*weights]), torch.cat([*biases]))
    rows = to_autocast_type(inputs.reshape(-1, inputs.size(-1)))
    kept = [_to_keep(weight, rows) for weight in weights]
    with torch.autocast(inputs.device.type, enabled=False):
        output: Tensor = _JoinedLinear.apply(rows, len(kept), *kept, *biases)  # type: ignore[no-untyped-call]
    return output.view(*inputs.shape[:-1], output.size(-1))


def to_autocast_type(inputs: Tensor) -> Tensor:
    """In the type that products are computed in, for a function that autocast does not know."""
    device = inputs.device.type
    if torch.is_autocast_enabled(device):
        return inputs.to(torch.get_autocast_dtype(device))
    return inputs


def _to_keep(weight: Tensor, rows: Tensor) -> Tensor:
    """A parameter as it is, for it is in memory anyway; what was computed of parameters (by an
    adapter) in the type of ``rows``, for it would be kept beside them."""
    return weight if weight.is_leaf else weight.to(rows.dtype)


class _StridedLinear(torch.autograd.Function):
    """rows [N, R], weight [C_out, C_in, kernel], bias [C_out] -> [N, C_out], in the type of the
    rows: each row times ``head`` plus the start of the next row times ``tail`` (see ``_parts``).
    Autograd converts the gradients of weight and bias to their type."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.has_bias, ctx.gelu = bias is not None, gelu
        head, tail = _parts(weight, rows)
        if bias is not None:
            bias = bias.to(rows.dtype)
        output = rows.new_empty(len(rows), len(weight))
        # What GELU gives is kept nowhere: a CPU is faster where it never leaves the caches.
        size = BLOCK if gelu and rows.device.type == "cpu" else max(1, len(rows))
        for start in range(0, len(rows), size):
            block = output[start : start + size]
            inputs = rows[start : start + size + 1]  # the last one is only another one's next
            if gelu:
                inputs = F.gelu(inputs)
            if bias is None:
                torch.mm(inputs[: len(block)], head, out=block)
            else:
                torch.addmm(bias, inputs[: len(block)], head, out=block)
            if len(tail):
                block[: len(inputs) - 1].addmm_(inputs[1:, : len(tail)], tail)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        rows, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        inputs = F.gelu(rows) if ctx.gelu else rows
        head, tail = _parts(weight, rows)
        # In the layout of the weight where the kernel is 1: autograd would copy it, and slowly.
        to_flat = gradient.t() @ inputs  # [C_out, R]
        if len(tail):
            to_tail = gradient[:-1].t() @ inputs[1:, : len(tail)]
            to_flat = torch.cat([to_flat, to_tail], 1)  # [C_out, kernel * C_in]
        del inputs
        c_out, c_in, kernel = weight.shape
        to_weight = to_flat.view(c_out, kernel, c_in).transpose(1, 2)
        to_rows = None
        if ctx.needs_input_grad[0]:
            to_rows = gradient @ head.t()
            if len(tail):
                to_rows[1:, : len(tail)].addmm_(gradient[:-1], tail.t())
            if ctx.gelu:
                torch.ops.aten.gelu_backward.grad_input(to_rows, rows, grad_input=to_rows)
        return to_rows, to_weight, gradient.sum(0) if ctx.has_bias else None, None


def _parts(weight: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The weight [C_out, C_in, kernel] in the type of ``rows`` [N, R], as a matrix
    [kernel * C_in, C_out] cut after the first R: what a row and what the next one is multiplied by.
    """
    flat = weight.to(rows.dtype).permute(2, 1, 0).reshape(-1, len(weight))
    return flat[: rows.size(1)], flat[rows.size(1) :]


class _JoinedLinear(torch.autograd.Function):
    """rows [N, C_in], the number of weights, weights [C_k, C_in], biases [C_k]
    -> [N, sum of C_k], in the type of the rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, count: int, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[:count], parameters[count:]
        ctx.save_for_backward(rows, *weights)
        return torch.addmm(_join(biases, rows), rows, _join(weights, rows).t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, *weights = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        sizes = [len(weight) for weight in weights]
        to_rows = gradient @ _join(weights, rows) if ctx.needs_input_grad[0] else None
        to_weights = torch.split(gradient.t() @ rows, sizes)
        to_biases = torch.split(gradient.sum(0), sizes)
        return to_rows, None, *to_weights, *to_biases


def _join(parts: Sequence[Tensor], rows: Tensor) -> Tensor:
    """Side by side, in the type of ``rows``."""
    converted = [part.to(rows.dtype) for part in parts]
    return torch.cat(converted) if len(converted) > 1 else converted[0]  # cat would copy it
