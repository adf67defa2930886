"""Inference in 8 bits: each quantized part and whole recognisers against full precision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from speechssl.devices import multiplies_int8
from speechssl.models import quantization
from speechssl.models.attention import SelfAttention
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.models.frontend import ConvLayer, FrontendConfig
from speechssl.models.quantization import (
    QuantizedAttention,
    QuantizedConvLayer,
    QuantizedLinear,
    quantize,
    quantize_rows,
)
from tests.models.reference import randomize

pytestmark = pytest.mark.skipif(
    not multiplies_int8(torch.device("cpu")),
    reason="this processor does not multiply 8-bit integers",
)

SIZES = {"dim": 32, "layers": 2, "heads": 2, "ffn_dim": 64, "position_kernel": 8}

ENCODERS = {
    "waveform": EncoderConfig(**SIZES, frontend=FrontendConfig(channels=32)),
    "waveform, layer norm": EncoderConfig(
        **SIZES, norm="pre", frontend=FrontendConfig(channels=32, norm="layer", bias=True)
    ),
    "Conformer on filter banks": EncoderConfig(
        **SIZES, squeeze=2, convolution_kernel=5, frontend=FrontendConfig(kind="fbank")
    ),
    "WavLM": EncoderConfig(**SIZES, relative_buckets=8, frontend=FrontendConfig(channels=32)),
}


def error(rough: Tensor, exact: Tensor) -> float:
    """The norm of the difference, relative to that of what is exact."""
    return float((rough - exact).norm() / exact.norm())


def recogniser(config: EncoderConfig) -> CTCModel:
    """With random weights, norms and biases too."""
    torch.manual_seed(0)
    model = CTCModel(Encoder(config), 10).eval()
    randomize(model)
    nn.init.normal_(model.head.weight)
    return model


# --- parts -----------------------------------------------------------------------------------


def test_weights_are_at_most_half_a_step_away() -> None:
    torch.manual_seed(0)
    weight = torch.randn(7, 20) * torch.logspace(-6, 3, 7)[:, None]
    weight[3] = 0.0
    integers, scales = quantize_rows(weight)
    assert integers.dtype == torch.int8
    assert integers.abs().amax(1).tolist() == [127, 127, 127, 0, 127, 127, 127]
    steps = (weight - integers * scales[:, None]).abs() / scales[:, None]
    assert 0.3 < float(steps.max()) <= 0.5 + 1e-4


def test_a_product_is_that_of_the_rounded_values() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(40, 24)
    inputs = torch.randn(3, 5, 40) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    inputs[0, 0] = 0.0
    rows, row_scales = quantize_rows(inputs.view(15, 40))
    weight, scales = quantize_rows(linear.weight)
    exact = (rows.double() @ weight.double().t()) * (row_scales[:, None] * scales)
    expected = (exact + linear.bias).float().view(3, 5, 24)
    with torch.no_grad():
        torch.testing.assert_close(QuantizedLinear(linear)(inputs), expected)
        assert error(QuantizedLinear(linear)(inputs), linear(inputs)) < 0.01


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize(("kernel", "norm"), [(3, False), (2, True)])
def test_a_convolution_is_close_and_the_same_in_any_blocks(
    kernel: int, norm: bool, gelu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer = ConvLayer(16, 24, kernel, 2, norm=norm, bias=True)
    randomize(layer)
    inputs = torch.randn(3, 12, 16)
    with torch.no_grad():
        exact, quantized = layer(inputs, gelu=gelu), QuantizedConvLayer(layer)
        whole = quantized(inputs, gelu=gelu)
        monkeypatch.setattr(quantization, "BLOCK", 5)
        torch.testing.assert_close(quantized(inputs, gelu=gelu), whole)
    assert whole.shape == exact.shape
    assert error(whole, exact) < 0.02


def test_attention_is_close() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(32, 4, dropout=0.0)
    inputs = torch.randn(2, 9, 32)
    padding = torch.arange(9) >= torch.tensor([[9], [6]])
    with torch.no_grad():
        exact = attention(inputs, padding)
        assert error(QuantizedAttention(attention)(inputs, padding), exact) < 0.02


# --- recognisers -----------------------------------------------------------------------------


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kind", ENCODERS)
def test_log_probabilities_are_close(kind: str, bf16: bool) -> None:
    """The probabilities differ by less than 0.01 on average."""
    exact = recogniser(ENCODERS[kind])
    rough = copy.deepcopy(exact)
    quantize(rough.encoder)
    waveforms, lengths = torch.randn(2, 8000), torch.tensor([8000, 6000])
    with torch.no_grad():
        expected, frames = exact(waveforms, lengths)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found, _ = rough(waveforms, lengths)
            again, _ = rough(waveforms, lengths)
    assert found.dtype == torch.float32
    for row, other, count in zip(found, expected, frames.tolist()):
        assert 0 < (row.exp() - other.exp())[:count].abs().mean() < 0.01
    torch.testing.assert_close(again, found, rtol=0, atol=0)


def test_all_large_products_are_quantized_and_the_head_is_not() -> None:
    model = recogniser(ENCODERS["Conformer on filter banks"])
    quantize(model.encoder)
    left = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert left == ["head"]
    assert not any(module.training for module in model.modules())

    model = recogniser(ENCODERS["WavLM"])
    quantize(model.encoder)
    convolutions = list(model.encoder.frontend.layers)
    assert [type(layer) for layer in convolutions] == [ConvLayer] + 6 * [QuantizedConvLayer]
    left = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert left == [f"encoder.layers.{layer}.attention.gate.linear" for layer in (0, 1)] + ["head"]


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_recording_alone_is_what_it_is_among_others(kind: str) -> None:
    """A louder one beside it and padding behind it change nothing."""
    model = recogniser(ENCODERS[kind])
    quantize(model.encoder)
    waveform = torch.randn(1, 6000)
    batch = torch.cat([torch.nn.functional.pad(waveform, (0, 2000)), 100 * torch.randn(1, 8000)])
    with torch.no_grad():
        alone, [count] = model(waveform, torch.tensor([6000]))
        together, _ = model(batch, torch.tensor([6000, 8000]))
    difference = (together[0, :count].exp() - alone[0].exp()).abs()
    assert difference.mean() < 1e-3
