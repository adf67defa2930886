"""Inference in 8 bits: the products that take most of the time, computed with integers.

The product of ``x`` [N, K] and ``W`` [M, K] is ``s_n t_m (q_n . r_m)`` with the integers ``q_n =
round(x_n / s_n)`` and ``r_m = round(W_m / t_m)`` from -127 to 127, which is symmetric quantization
(Jacob et al. 2018, arXiv 1712.05877). The weights have a scale for each output, found once, and
the inputs a scale for each row, found when it comes (Dettmers et al. 2022, arXiv 2208.07339,
section 2.1). A row is a frame, or the frames that a convolution sees at once, so no recording's
result depends on the others of its batch, or on its padding, more than it does without.

Processors that multiply 8-bit integers (AVX-512 VNNI) do such products about twice as fast as
those of bfloat16. Others would be slow or saturate: see ``speechssl.devices.choose_precision``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.models.attention import SelfAttention
from speechssl.models.encoder import Encoder, FeedForward
from speechssl.models.frontend import ConvLayer

LARGEST = 127
"""The largest integer; the smallest is its negative."""

ZERO = 128
"""What is added to the integers of inputs: the kernels want those without a sign."""

BLOCK = 1024
"""Rows computed at once where they are long or many, so that they stay in the caches."""


def quantize(encoder: Encoder) -> None:
    """Has ``encoder`` compute its linear maps and strided convolutions in 8 bits, in place.

    What is sensitive or small stays as it is: filter banks, the convolution on the samples, the
    position embedding, depthwise convolutions, norms, attention's products and softmax. They
    follow autocast as before. Afterwards the encoder is for inference on the CPU only: the weights
    that were replaced are in neither its parameters nor its ``state_dict()``.
    """
    _quantize_parts(encoder)
    encoder.train(encoder.training)


def _quantize_parts(module: nn.Module) -> None:
    for name, part in module.named_children():
        for kind, quantized in _QUANTIZED.items():
            if isinstance(part, kind) and not _on_samples(part):
                setattr(module, name, quantized(part))
                break
        else:
            _quantize_parts(part)


def _on_samples(module: nn.Module) -> bool:
    return isinstance(module, ConvLayer) and module.weight.size(1) == 1


class QuantizedProduct(nn.Module):
    """``F.linear`` with a weight and bias of its own, in 8 bits."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """weight [M, K], bias [M] or None, both float32 on the CPU."""
        super().__init__()
        integers, self.scales = quantize_rows(weight.detach())
        self.packed = torch.ops.onednn.qlinear_prepack(integers, None)
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)
        self.bias = None if bias is None else bias.detach().clone()

    def forward(self, rows: Tensor, sizes: Tensor) -> Tensor:
        """rows [N, K] float32 with the largest absolute value of each, ``sizes`` [N]
        -> [N, M] float32."""
        scales = _scales(sizes)[:, None]
        shifted = torch.quantize_per_tensor(rows * scales.reciprocal(), 1.0, ZERO, torch.quint8)
        # The same memory as plain integers, which int_repr() would copy, and slowly.
        integers = torch.empty(0, dtype=torch.uint8)
        integers.set_(shifted.untyped_storage(), 0, shifted.shape, shifted.stride())
        output: Tensor = torch.ops.onednn.qlinear_pointwise(
            qx=integers,
            x_scale=1.0,
            x_zero_point=ZERO,
            qw=self.packed,
            w_scale=self.scales,
            w_zero_point=self.zeros,
            bias=None,  # comes after the scales of the rows
            output_scale=1.0,
            output_zero_point=0,
            output_dtype=torch.float32,
            post_op_name="none",
            post_op_args=[],
            post_op_algorithm="",
        )
        output *= scales
        return output if self.bias is None else output.add_(self.bias)


class QuantizedLinear(nn.Module):
    """``nn.Linear`` in 8 bits. [..., K] -> [..., M] float32."""

    def __init__(self, *linears: nn.Linear) -> None:
        """Of several, the outputs stand side by side."""
        super().__init__()
        self.in_features = linears[0].in_features
        weight = torch.cat([linear.weight for linear in linears])
        self.product = QuantizedProduct(weight, torch.cat([linear.bias for linear in linears]))

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.reshape(-1, self.in_features).float()
        return self.product(rows, largest(rows)).view(*inputs.shape[:-1], -1)  # type: ignore[no-any-return]


class QuantizedConvLayer(nn.Module):
    """``ConvLayer`` in 8 bits."""

    def __init__(self, layer: ConvLayer) -> None:
        super().__init__()
        self.channels, _, self.kernel = layer.weight.shape
        self.stride, self.norm = layer.stride, layer.norm
        weight = layer.weight.transpose(1, 2).reshape(self.channels, -1)  # as frames lie in memory
        self.product = QuantizedProduct(weight, layer.bias)

    def forward(self, inputs: Tensor, gelu: bool) -> Tensor:
        """``gelu`` applies GELU to ``inputs`` [B, L, C_in] first. -> [B, L / stride, C_out]."""
        batch, length, c_in = inputs.shape
        frames = inputs.reshape(-1, c_in)
        output = inputs.new_empty(len(frames) // self.stride, self.channels)
        for start in range(0, len(output), BLOCK):
            rows = output[start : start + BLOCK]
            rows.copy_(self._convolve(frames[start * self.stride :], len(rows), gelu))
        return output.view(batch, length // self.stride, -1)

    def _convolve(self, frames: Tensor, count: int, gelu: bool) -> Tensor:
        """The first ``count`` outputs of [L, C_in], zeros behind them -> [count, C_out]."""
        width = (count - 1) * self.stride + self.kernel
        frames = frames[:width].float()
        frames = F.pad(F.gelu(frames) if gelu else frames, (0, 0, 0, width - len(frames)))
        step = self.stride * frames.size(1)
        rows = frames.as_strided((count, self.kernel * frames.size(1)), (step, 1))
        sizes = largest(frames).unfold(0, self.kernel, self.stride).amax(1)
        hidden: Tensor = self.product(rows, sizes)
        return hidden if self.norm is None else self.norm(hidden)


class QuantizedAttention(SelfAttention):
    """``SelfAttention`` with its four linear maps in 8 bits."""

    def __init__(self, attention: SelfAttention) -> None:
        nn.Module.__init__(self)
        self.heads, self.dropout, self.causal = attention.heads, attention.dropout, attention.causal
        self.gate = attention.gate
        self.projection = QuantizedLinear(attention.query, attention.key, attention.value)
        self.out = QuantizedLinear(attention.out)  # type: ignore[assignment]

    def project(self, inputs: Tensor) -> Tensor:
        return self.projection(inputs)  # type: ignore[no-any-return]


class QuantizedFeedForward(nn.Module):
    """``FeedForward`` in 8 bits."""

    def __init__(self, feed_forward: FeedForward) -> None:
        super().__init__()
        self.expand = QuantizedLinear(feed_forward.expand)
        self.contract = QuantizedLinear(feed_forward.contract)

    def forward(self, inputs: Tensor) -> Tensor:
        blocks = torch.split(inputs.reshape(-1, inputs.size(-1)), BLOCK)
        output = torch.cat([self.contract(F.gelu(self.expand(block))) for block in blocks])
        return output.view(inputs.shape)


_QUANTIZED = {
    ConvLayer: QuantizedConvLayer,
    SelfAttention: QuantizedAttention,
    FeedForward: QuantizedFeedForward,
    nn.Linear: QuantizedLinear,
}


def quantize_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """values [N, K] -> integers [N, K] int8 and scales [N], which multiplied are near to them."""
    scales = _scales(largest(values))
    return (values / scales[:, None]).round().to(torch.int8), scales


def largest(rows: Tensor) -> Tensor:
    """The largest absolute value of each row. [N, K] -> [N]."""
    return torch.maximum(rows.amax(1), -rows.amin(1))  # faster than abs().amax() and aminmax()


def _scales(sizes: Tensor) -> Tensor:
    """What 1 stands for where the largest absolute values are ``sizes``; 0 has some scale too."""
    return (sizes / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
