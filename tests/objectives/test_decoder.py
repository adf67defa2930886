"""The convolutional decoder against a slow one, and what may not be left out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from speechssl.errors import ConfigError
from speechssl.objectives.decoder import ConvDecoder, DecoderConfig, MaskedDecoder
from tests.objectives.small import FBANK

SMALL = DecoderConfig(layers=3, size=24, kernel=3, groups=4, dropout=0.0)


def slow_decoder(decoder: ConvDecoder, inputs: Tensor) -> Tensor:
    """One recording, tap by tap and group by group: inputs [T, size_in] -> [T, size_out]."""
    hidden = inputs
    for convolution in decoder.convolutions:
        kernel, groups = convolution.kernel_size[0], convolution.groups
        padded = F.pad(hidden, (0, 0, kernel // 2, kernel // 2))
        parts = []
        for group, weight in enumerate(convolution.weight.chunk(groups)):  # [out, in, kernel]
            size = weight.shape[1]
            own = padded[:, group * size : (group + 1) * size]
            taps = [own[tap : tap + len(hidden)] @ weight[:, :, tap].T for tap in range(kernel)]
            parts.append(sum(taps))
        update = torch.cat(parts, dim=1) + convolution.bias
        centred = update - update.mean(dim=1, keepdim=True)
        update = F.gelu(centred / (update.var(dim=1, correction=0, keepdim=True) + 1e-5).sqrt())
        hidden = update + hidden if update.shape == hidden.shape else update
    return decoder.predict(hidden)


def test_it_is_the_papers_stack_for_each_recording_alone() -> None:
    torch.manual_seed(0)
    decoder = ConvDecoder(SMALL, 8, 5)
    inputs, counts = torch.randn(2, 11, 8), torch.tensor([11, 7])
    positions = torch.tensor([0, 3, 10, 11, 17])  # the last two in the second recording
    outputs = decoder(inputs, counts, positions)
    first, second = slow_decoder(decoder, inputs[0]), slow_decoder(decoder, inputs[1, :7])
    expected = torch.cat([first[[0, 3, 10]], second[[0, 6]]])
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)


def test_what_is_hidden_is_filled_with_one_vector() -> None:
    torch.manual_seed(0)
    decoder = MaskedDecoder(replace(SMALL, groups=4), FBANK, 5)
    counts = torch.tensor([6, 4])
    mask = torch.tensor([[0, 1, 1, 0, 1, 0], [1, 0, 0, 1, 0, 0]], dtype=torch.bool)
    visible = torch.tensor([[1, 0, 0, 1, 0, 1], [0, 1, 1, 0, 0, 0]], dtype=torch.bool)
    context = torch.randn(5, 32)
    outputs = decoder(context, mask, visible, counts)
    token = decoder.filler
    one = torch.stack([context[0], token, token, context[1], token, context[2]])
    two = torch.stack([token, context[3], context[4], token])
    whole = [slow_decoder(decoder.decoder, inputs) for inputs in (one, two)]
    expected = torch.cat([whole[0][[1, 2, 4]], whole[1][[0, 3]]])
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"), [("squeeze", 2), ("convolution_kernel", 3), ("relative_buckets", 8)]
)
def test_frames_that_look_at_their_neighbours_cannot_be_left_out(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.{name} must be"):
        MaskedDecoder(DecoderConfig(), replace(FBANK, **{name: value}), 5)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"layers": 0}, "layers"),
        ({"groups": 0}, "groups"),
        ({"size": 100}, "size"),
        ({"kernel": 4}, "kernel"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_a_value_out_of_range_is_named(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field} must be"):
        DecoderConfig(**values)


def test_groups_must_divide_what_comes_in() -> None:
    with pytest.raises(ConfigError, match=r"^decoder\.groups must be a divisor"):
        ConvDecoder(SMALL, 10, 5)
