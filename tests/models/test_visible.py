"""Frames left out of the transformer, against giving it the visible frames alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.models.visible import gather_visible
from tests.models.reference import randomize
from tests.objectives.small import FBANK


def test_visible_frames_are_moved_together_in_their_order() -> None:
    values = torch.arange(12.0).view(2, 6, 1)
    visible = torch.tensor([[0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 1, 0]], dtype=torch.bool)
    gathered, padding, positions = gather_visible(values, visible)
    assert gathered[0, :, 0].tolist() == [1.0, 3.0, 4.0]
    assert float(gathered[1, 0, 0]) == 10.0
    assert padding is not None
    assert padding.tolist() == [[False, False, False], [False, True, True]]
    assert positions.tolist() == [0, 1, 2, 3]
    assert torch.equal(gathered.flatten(0, 1)[positions], values[visible])


def test_nothing_is_padding_where_all_recordings_show_as_much() -> None:
    visible = torch.tensor([[True, False, True], [False, True, True]])
    assert gather_visible(torch.zeros(2, 3, 1), visible)[1] is None


@pytest.mark.parametrize("layout", [FBANK, replace(FBANK, norm="post")], ids=["pre", "post"])
def test_the_transformer_sees_visible_frames_and_nothing_else(layout: EncoderConfig) -> None:
    """Layer by layer, one recording at a time."""
    torch.manual_seed(0)
    encoder = Encoder(layout)
    randomize(encoder)
    inputs, counts = torch.randn(2, 9, 32), torch.tensor([9, 6])
    visible = torch.rand(2, 9) < 0.5
    visible[:, 0], visible[1, 6:] = True, False
    context = encoder.contextualize_visible(inputs, counts, visible)
    expected = []
    for row, count in enumerate(counts.tolist()):
        alone = inputs[row : row + 1, :count]
        hidden = alone + encoder.position(alone)
        if layout.norm == "post":
            hidden = encoder.norm(hidden)
        hidden = hidden[:, visible[row, :count]]
        for layer in encoder.layers:
            hidden = layer(hidden, None)
        expected.append(encoder.norm(hidden)[0] if layout.norm == "pre" else hidden[0])
    torch.testing.assert_close(context, torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_where_all_is_visible_it_is_the_ordinary_context() -> None:
    torch.manual_seed(0)
    encoder = Encoder(FBANK)
    inputs, counts = torch.randn(2, 9, 32), torch.tensor([9, 9])
    visible = torch.ones(2, 9, dtype=torch.bool)
    context = encoder.contextualize_visible(inputs, counts, visible)
    torch.testing.assert_close(context, encoder.contextualize(inputs, counts).flatten(0, 1))
