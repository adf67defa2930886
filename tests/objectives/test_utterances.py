"""Pooling and InfoNCE over recordings."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from speechssl.objectives.contrastive import info_nce
from speechssl.objectives.utterances import mean_over_time, number_right, other_recordings


def test_the_mean_is_of_real_frames() -> None:
    torch.manual_seed(0)
    context, counts = torch.randn(3, 7, 4), torch.tensor([7, 4, 0])
    pooled = mean_over_time(context, counts)
    torch.testing.assert_close(pooled[0], context[0].mean(dim=0))
    torch.testing.assert_close(pooled[1], context[1, :4].mean(dim=0))
    assert not pooled[2].any()


def test_the_others_are_all_but_oneself() -> None:
    for total in (1, 2, 5):
        others = other_recordings(total)
        assert others.shape == (total, total - 1)
        for row in range(total):
            assert sorted([row, *others[row].tolist()]) == list(range(total))


def test_infonce_is_cross_entropy_with_the_first_answer() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 5)
    expected = F.cross_entropy(logits, torch.zeros(6, dtype=torch.long), reduction="sum")
    torch.testing.assert_close(info_nce(logits), expected)
    assert int(number_right(logits)) == int((logits.argmax(dim=1) == 0).sum())


def test_without_negatives_nothing_is_lost_and_nothing_right() -> None:
    logits = torch.randn(3, 1, requires_grad=True)
    loss = info_nce(logits)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()
    assert int(number_right(logits)) == 0
