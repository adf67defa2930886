"""Identities that change the gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return inputs.view_as(inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


class Skip(torch.autograd.Function):
    """The identity, for a skipped layer whose parameters get zero gradients.

    Zero instead of none: an optimizer then treats a step alike whether the layer was skipped on
    this process, on another, or in another of the step's batches, and DDP waits for nobody.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return inputs.view_as(inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[1:]
        zeros = (torch.zeros_like(p) if w else None for p, w in zip(ctx.saved_tensors, wanted))
        return (gradients[0], *zeros)
