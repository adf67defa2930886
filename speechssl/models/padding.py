"""Which frames of a padded batch are padding, and keeping what lies there out of sight."""

from __future__ import annotations

import torch
from torch import Tensor

from speechssl.devices import to_device


def padding_mask(lengths: Tensor, size: int, device: torch.device | None = None) -> Tensor | None:
    """True behind each recording's end. lengths [B] -> [B, size] bool on ``device``.

    None when there is provably no padding, so that nobody works for nothing. That is only looked
    up when ``lengths`` is on the CPU: elsewhere it would make the host wait for the device.
    """
    if lengths.device.type == "cpu" and int(lengths.min()) >= size:
        return None
    positions = torch.arange(size, device=lengths.device)
    mask = positions[None, :] >= lengths[:, None]
    return mask if device is None else to_device(mask, device)


def zero_padding(values: Tensor, padding: Tensor | None) -> Tensor:
    """``values`` [B, T, C] with zeros where ``padding`` [B, T] is True."""
    if padding is None:
        return values
    return values.masked_fill(padding[:, :, None], 0.0)
