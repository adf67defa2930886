"""The convolution that makes a transformer layer a Conformer's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.models.padding import zero_padding


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
        hidden = self.depthwise(hidden).transpose(1, 2)
        return self.out(F.silu(self.inner_norm(hidden)))  # type: ignore[no-any-return]
