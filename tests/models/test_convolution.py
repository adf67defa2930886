import pytest
import torch

from speechssl.models.convolution import ConvolutionModule, depthwise_convolution
from tests.models.reference import randomize


@torch.no_grad()
@pytest.mark.parametrize("causal", [False, True])
def test_convolution_module_is_that_of_the_conformer(causal: bool) -> None:
    """Figure 2 of arXiv 2005.08100, frame by frame, with layer norm for batch norm."""
    torch.manual_seed(0)
    module = ConvolutionModule(48, 5, causal).double()
    randomize(module)
    inputs = torch.randn(2, 9, 48, dtype=torch.float64)
    padding = torch.arange(9) >= torch.tensor([9, 6])[:, None]
    output = module(inputs, padding)
    kernel = module.depthwise.weight[:, 0]  # [48, 5]
    for row, frames in enumerate([9, 6]):
        halves = module.gate(module.norm(inputs[row, :frames]))
        gated = halves[:, :48] * halves[:, 48:].sigmoid()
        for frame in range(frames):
            first = frame - (4 if causal else 2)
            seen = [(tap, first + tap) for tap in range(5) if 0 <= first + tap < frames]
            mixed = sum(kernel[:, tap] * gated[place] for tap, place in seen)
            hidden = module.inner_norm(mixed + module.depthwise.bias)
            expected = module.out(hidden * hidden.sigmoid())
            torch.testing.assert_close(output[row, frame], expected)


@pytest.mark.parametrize(("frames", "kernel"), [(1, 1), (5, 5), (40, 15)])
def test_depthwise_convolution_is_that_of_torch(frames: int, kernel: int) -> None:
    torch.manual_seed(0)
    convolution = torch.nn.Conv1d(6, 6, kernel, groups=6).double()
    inputs = torch.randn(3, 6, frames + kernel - 1, dtype=torch.float64, requires_grad=True)
    expected, actual = convolution(inputs), depthwise_convolution(inputs, convolution)
    torch.testing.assert_close(actual, expected)
    leaves = [inputs, convolution.weight, convolution.bias]
    upstream = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, leaves, upstream),
        torch.autograd.grad(expected, leaves, upstream),
    )
