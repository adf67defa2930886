"""What every objective reports about its health, under the same names (``Objective``)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from speechssl.models.encoder import Encoder
from speechssl.objectives import objective_names
from speechssl.objectives.base import Unigram, effective_rank, spread, variety
from tests.contracts.toys import toy_batch, toy_encoder, toy_objective

every_objective = pytest.mark.parametrize("kind", objective_names())


@every_objective
def test_the_shared_metrics_are_there_and_sane(kind: str) -> None:
    torch.manual_seed(0)
    config = toy_encoder(kind=kind)
    encoder, objective = Encoder(config), toy_objective(kind, config)
    objective.before_update(encoder, 0.0)
    loss = objective(encoder, toy_batch())
    means = {name: float(total) / count for name, (total, count) in loss.metrics.items()}
    assert loss.metrics["loss_trivial"][1] == loss.count, "comparable with the loss"
    assert means["loss_trivial"] > 0
    assert float(loss.sum.detach()) / loss.count < 10 * means["loss_trivial"], "of the same kind"
    assert 0 <= means["context_variance"] <= 1
    assert 0 <= means.get("context_rank", 0.0) <= config.dim
    for name in ("target", "prediction"):
        assert means.get(f"{name}_perplexity", 1.0) >= 1 - 1e-3


@pytest.mark.parametrize("shape", [(7, 20), (40, 6)])
def test_effective_rank_is_the_participation_ratio_of_the_eigenvalues(
    shape: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    vectors = torch.randn(shape) + 1.0
    directions = (vectors / vectors.norm(dim=1, keepdim=True)).double()
    values = torch.linalg.eigvalsh(directions.T.cov(correction=0))
    expected = float(values.sum().square() / values.square().sum())
    assert float(effective_rank(vectors)) == pytest.approx(expected, rel=1e-4)
    assert float(spread(vectors)) == pytest.approx(float(values.sum()), rel=1e-4)


def test_effective_rank_counts_dimensions() -> None:
    assert float(effective_rank(torch.eye(5).repeat(3, 1))) == pytest.approx(4.0, rel=1e-5)
    line = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert float(effective_rank(line)) == pytest.approx(1.0)
    for same in (torch.ones(6, 3), torch.zeros(6, 3), torch.ones(0, 3)):
        assert float(effective_rank(same)) == pytest.approx(0.0, abs=1e-3)
    assert set(variety("x", line)) == {"x_variance"}, "three vectors have no rank worth telling"
    assert set(variety("x", torch.eye(40))) == {"x_variance", "x_rank"}


def test_a_unigram_guess_costs_what_the_past_says() -> None:
    guess = Unigram(4, codebooks=2).train()
    first = torch.tensor([[0, 0, 1], [3, 3, 3]])
    assert guess(first).tolist() == pytest.approx([math.log(4)] * 3), "nothing seen yet"
    expected = [-(math.log(share) + math.log(4 / 7)) / 2 for share in (3 / 7, 3 / 7, 2 / 7)]
    assert guess.eval()(first).tolist() == pytest.approx(expected)
    assert guess(first).tolist() == pytest.approx(expected), "evaluation counts nothing"
    assert guess(torch.zeros(2, 0, dtype=torch.long)).shape == (0,)
    assert not guess.state_dict()


def test_a_unigram_guess_comes_to_cost_the_entropy_of_the_targets() -> None:
    torch.manual_seed(0)
    shares = torch.tensor([0.7, 0.2, 0.1])
    guess = Unigram(3).train()

    def draw() -> Tensor:
        return shares.multinomial(200, replacement=True)

    costs = [float(guess(draw()).mean()) for _ in range(100)]
    entropy = -float((shares * shares.log()).sum())
    assert sum(costs[50:]) / 50 == pytest.approx(entropy, rel=0.03)
