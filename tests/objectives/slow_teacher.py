"""What a teacher looks at, computed layer by layer in the open."""

from __future__ import annotations

import torch
from torch import Tensor

from speechssl.data.batch import SpeechBatch
from speechssl.models.encoder import Encoder


def feed_forward_outputs(encoder: Encoder, batch: SpeechBatch) -> list[Tensor]:
    """The output of each layer's feed-forward before the residual sum, [1, T, D] each, for a batch
    of one recording without masks; ``encoder`` is in evaluation mode."""
    assert len(batch.lengths) == 1
    assert not encoder.training
    frames = encoder.normalize(encoder.extract(batch.waveforms, batch.lengths))
    inputs = encoder.projection(frames)
    hidden = inputs + encoder.position(inputs)
    if encoder.config.norm == "post":
        hidden = encoder.norm(hidden)
    outputs = []
    for layer in encoder.layers:
        if encoder.config.norm == "pre":
            hidden = hidden + layer.attention(layer.attention_norm(hidden), None)
            output = layer.feed_forward(layer.feed_forward_norm(hidden))
            hidden = hidden + output
        else:
            hidden = layer.attention_norm(hidden + layer.attention(hidden, None))
            output = layer.feed_forward(hidden)
            hidden = layer.feed_forward_norm(hidden + output)
        outputs.append(output)
    return outputs


def normed_over_time(values: Tensor) -> Tensor:
    """values [T, D] -> the same with mean 0 and variance 1 of each channel."""
    return (values - values.mean(dim=0)) / torch.sqrt(values.var(dim=0, correction=0) + 1e-5)
