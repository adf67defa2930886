"""Comparing all gradients of a model with those of another implementation of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def weights_become_gradients(model: nn.Module) -> None:
    """Puts each parameter's gradient in the parameter's place, to be copied as weights are."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.grad)  # type: ignore[arg-type]


def assert_gradients_are(model: nn.Module, expected: nn.Module) -> None:
    """The gradients of ``model`` are the weights of ``expected``, within 1e-4 of its norm.

    A gradient that is zero but for rounding (a bias of the attention keys) need only be small.
    """
    for (name, parameter), gradient in zip(model.named_parameters(), expected.parameters()):
        assert parameter.grad is not None, f"{name} has no gradient"
        difference = float((parameter.grad - gradient).detach().norm())
        assert difference < 1e-4 * float(gradient.detach().norm()) + 1e-5, name


def assert_same_gradients(ours: Tensor, theirs: Tensor, *models: nn.Module) -> None:
    """Two losses have the same gradients, within 1e-3, for every parameter of ``models``."""
    named = dict(pair for model in models for pair in model.named_parameters())
    parameters = [parameter for model in models for parameter in model.parameters()]
    ones = torch.autograd.grad(ours, parameters)
    others = torch.autograd.grad(theirs, parameters, allow_unused=True)
    for name, one, other in zip(named, ones, others, strict=True):
        expected = torch.zeros_like(one) if other is None else other
        assert float((one - expected).norm()) < 1e-3 * float(expected.norm()) + 1e-3, name
