"""Inference in bfloat16: weights that are kept in the type in which they are multiplied."""

from __future__ import annotations

import torch
from torch import nn

from speechssl.models.frontend import ConvLayer


def keep_products_in_bfloat16(model: nn.Module) -> None:
    """Converts the weights of linear maps and strided convolutions, in place.

    Autocast to bfloat16 would convert them for each batch, with the same outcome; the rest of the
    model stays as it is and needs autocast as before. The convolution on the samples is left out:
    it is computed in float32 where it is followed by group norm.
    """
    for module in model.modules():
        linear = isinstance(module, nn.Linear)
        if linear or (isinstance(module, ConvLayer) and module.weight.size(1) > 1):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(torch.bfloat16)
