"""Low-rank adapters: fine-tuning a large encoder by small changes of its matrices.

Source: LoRA (Hu et al. 2021, arXiv 2106.09685), section 4.1. A matrix ``W`` [out, in] stays as it
is and ``W + scale * up @ down`` is used in its place; ``up`` [out, rank] and ``down`` [rank, in]
are trained. ``up`` starts at zero, so that nothing changes at first. Gradients and the optimizer's
state shrink to a hundredth; time per update stays about the same.

Not with peft: it puts modules of its own in the place of linear ones, and their ``weight`` is the
frozen one. Attention here reads the weights of query, key and value to compute all three as one
product, and the feed-forward reads that of its second map, so such adapters would do nothing there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from speechssl.models.encoder import Encoder


class LowRank(nn.Module):
    """What is added to a matrix [out, in]."""

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        rows, columns = weight.shape
        self.down = nn.Parameter(torch.randn(rank, columns) * columns**-0.5)
        self.up = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """weight [out, in] -> the same with the change added."""
        return torch.addmm(weight, self.up, self.down, alpha=self.scale)


def add_adapters(encoder: Encoder, rank: int, scale: float) -> None:
    """Freezes the encoder and gives each linear map of its transformer an adapter, in place.

    What is frozen becomes buffers under the same names: saved and loaded as before, but nobody can
    train it (the training engine would make parameters trainable again).
    """
    for module in encoder.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach())
    for linear in _linear_maps(encoder):
        parametrize.register_parametrization(linear, "weight", LowRank(linear.weight, rank, scale))


def merge_adapters(encoder: Encoder) -> None:
    """Makes what the adapters add part of the plain weights, in place; none are left."""
    for linear in _linear_maps(encoder):
        if parametrize.is_parametrized(linear):
            parametrize.remove_parametrizations(linear, "weight", leave_parametrized=True)


def _linear_maps(encoder: Encoder) -> list[nn.Linear]:
    return [module for module in encoder.layers.modules() if isinstance(module, nn.Linear)]
