"""Leaving masked frames out, so that the transformer spends nothing on them.

B recordings, T frames, D model size, V most visible frames of one recording, N visible frames of
the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from speechssl.devices import to_device
from speechssl.models.padding import padding_mask


def gather_visible(values: Tensor, visible: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """Moves the visible frames of each recording together, in their order.

    values [B, T, D], visible [B, T] bool on the CPU -> values [B, V, D], padding [B, V] bool (see
    ``padding_mask``), and where the visible frames are in the flattened [B * V]: [N] int64.
    """
    counts = visible.sum(dim=1)
    most = max(1, int(counts.max()))
    frames = visible.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    rows = torch.arange(len(visible))[:, None]
    places = to_device((rows * visible.shape[1] + frames).flatten(), values.device)
    gathered = values.flatten(0, 1).index_select(0, places).view(len(visible), most, -1)
    filled = torch.arange(most) < counts[:, None]  # [B, V]
    positions = to_device(filled.flatten().nonzero()[:, 0], values.device)
    return gathered, padding_mask(counts, most, values.device), positions
