import torch

from speechssl.models.padding import padding_mask, zero_padding


def test_true_behind_ends() -> None:
    mask = padding_mask(torch.tensor([3, 0, 1]), 3)
    assert mask is not None
    assert mask.tolist() == [[False] * 3, [True] * 3, [False, True, True]]


def test_no_mask_without_padding() -> None:
    assert padding_mask(torch.tensor([3, 4]), 3) is None
    values = torch.randn(2, 3, 4)
    assert zero_padding(values, None) is values


def test_zeroes_behind_ends_whatever_stood_there() -> None:
    values = torch.full((2, 3, 4), float("nan"))
    values[0], values[1, 0] = 1.0, 1.0
    zeroed = zero_padding(values, padding_mask(torch.tensor([3, 1]), 3))
    assert zeroed.sum(2).tolist() == [[4, 4, 4], [4, 0, 0]]
