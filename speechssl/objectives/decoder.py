"""A small convolutional decoder, for objectives that ask more of the context than a linear map.

Source: data2vec 2.0 (Baevski et al. 2022, arXiv 2212.07525), "convolutional decoder": grouped
convolutions over time, each followed by layer norm and GELU, with residual sums. It is cheap, so
it may run over all frames where the transformer has seen few.

B recordings, T frames, D model size, N visible frames and M wanted frames of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.config import require
from speechssl.devices import to_device
from speechssl.models.attention import take_frames
from speechssl.models.dropout import Dropout
from speechssl.models.encoder import EncoderConfig
from speechssl.models.padding import padding_mask, zero_padding
from speechssl.objectives.base import frame_positions


@dataclass
class DecoderConfig:
    """Settings of ``ConvDecoder``; the defaults are data2vec 2.0's for speech."""

    layers: int = 4

    size: int = 384
    """Channels of each convolution."""

    kernel: int = 7
    """Frames that each convolution sees, an odd number."""

    groups: int = 16
    """Groups of channels that a convolution keeps apart; a divisor of ``size`` and of what comes
    in."""

    dropout: float = 0.1
    """On the decoder's input."""

    def __post_init__(self) -> None:
        for name in ("layers", "groups"):
            require(getattr(self, name) >= 1, name, "1 or more", getattr(self, name))
        divides = self.size >= 1 and self.size % self.groups == 0
        require(divides, "size", f"a multiple of groups ({self.groups})", self.size)
        require(self.kernel >= 1 and self.kernel % 2 == 1, "kernel", "odd", self.kernel)
        require(0 <= self.dropout < 1, "dropout", "from 0 to below 1", self.dropout)


class ConvDecoder(nn.Module):
    """Grouped convolutions over time and a linear map. [B, T, size_in] -> [M, size_out]."""

    def __init__(self, config: DecoderConfig, size_in: int, size_out: int) -> None:
        """Raises ``ConfigError`` where the groups do not divide ``size_in``."""
        super().__init__()
        rule = f"a divisor of the size that comes in ({size_in})"
        require(size_in % config.groups == 0, "decoder.groups", rule, config.groups)
        widths = [size_in] + [config.size] * config.layers
        self.dropout = Dropout(config.dropout)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, config.kernel, padding="same", groups=config.groups)
            for before, after in pairwise(widths)
        )
        self.predict = nn.Linear(config.size, size_out)

    def forward(self, inputs: Tensor, counts: Tensor, positions: Tensor) -> Tensor:
        """inputs [B, T, size_in], counts [B] frames on the CPU, positions [M] int64 on the device,
        the frames of [B * T] that are wanted -> [M, size_out]."""
        padding = padding_mask(counts, inputs.shape[1], inputs.device)
        hidden = zero_padding(self.dropout(inputs), padding)
        for convolution in self.convolutions:
            update = convolution(hidden.transpose(1, 2)).transpose(1, 2)
            update = F.gelu(F.layer_norm(update, update.shape[-1:]))
            hidden = update + hidden if update.shape == hidden.shape else update
            hidden = zero_padding(hidden, padding)
        return self.predict(take_frames(hidden, positions))  # type: ignore[no-any-return]


_FRAMES_APART = {"squeeze": 1, "convolution_kernel": 0, "relative_buckets": 0}
"""What an encoder must be for frames to be left out: its layers know no neighbours or distances."""


class MaskedDecoder(nn.Module):
    """``ConvDecoder`` from the context of visible frames to predictions at masked ones.

    A learned vector stands where the context is missing (data2vec 2.0 puts noise there).
    """

    def __init__(self, config: DecoderConfig, encoder: EncoderConfig, size_out: int) -> None:
        """Raises ``ConfigError`` for an encoder from which no frames can be left out."""
        super().__init__()
        for name, plain in _FRAMES_APART.items():
            value = getattr(encoder, name)
            rule = f"{plain} where masked frames are left out, for it looks at their places"
            require(value == plain, f"model.{name}", rule, value)
        self.decoder = ConvDecoder(config, encoder.dim, size_out)
        self.filler = nn.Parameter(torch.empty(encoder.dim).normal_(std=0.02))

    def forward(self, context: Tensor, mask: Tensor, visible: Tensor, counts: Tensor) -> Tensor:
        """context [N, D] of the visible frames; mask and visible [B, T] bool, counts [B] frames,
        all three on the CPU -> float32 [M, size_out] at the masked frames."""
        device = context.device
        known, wanted = (to_device(frame_positions(of), device) for of in (visible, mask))
        filler = self.filler.to(context.dtype).expand(visible.numel(), -1)
        inputs = filler.index_copy(0, known, context).view(*visible.shape, -1)
        predictions: Tensor = self.decoder(inputs, counts, wanted)
        return predictions.float()
