from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from speechssl.probing.measures import (
    accuracy_interval,
    cluster_purity,
    linear_probe,
    majority_accuracy,
)
from speechssl.probing.vectors import Vectors


def examples(labels: NDArray[np.str_], frames_per_utterance: int = 1) -> Vectors:
    numbers = np.arange(len(labels))
    return Vectors(labels, numbers // frames_per_utterance, [], numbers)


def clouds(count: int, seed: int) -> tuple[NDArray[np.str_], NDArray[np.float32]]:
    """Three labels, one more frequent, and vectors that tell them in the first of four numbers,
    which is smaller than the others by far."""
    rng = np.random.default_rng(seed)
    labels = np.array(["a", "b", "c", "c"])[np.arange(count) % 4]
    vectors = rng.standard_normal((count, 4)) + 5
    vectors[:, 0] = 1e-4 * np.unique(labels, return_inverse=True)[1]
    vectors[:, 0] += 1e-5 * rng.standard_normal(count)
    return labels, vectors.astype(np.float32)


def test_a_probe_finds_what_is_linearly_there_and_nothing_else() -> None:
    labels, train = clouds(200, seed=0)
    asked, test = clouds(120, seed=1)
    found = linear_probe(train, test, examples(labels), examples(asked))
    assert found.converged
    assert found.accuracy > 0.97
    assert found.interval[0] <= found.accuracy <= found.interval[1]
    nothing = linear_probe(train[:, 1:], test[:, 1:], examples(labels), examples(asked))
    assert nothing.accuracy < 0.65
    assert majority_accuracy(examples(labels), examples(asked)) == 0.5


def test_the_probe_is_that_of_the_formula() -> None:
    """Against torch: the summed cross-entropy and half of the squared weights are least."""
    rng = np.random.default_rng(0)
    labels = np.array(["a", "b", "c"])[rng.integers(0, 3, 500)]
    vectors = rng.standard_normal((500, 30)).astype(np.float32)
    vectors[:, :3] += 0.7 * (labels[:, None] == np.array(["a", "b", "c"]))
    train, test = vectors[:60], vectors[60:]
    found = linear_probe(train, test, examples(labels[:60]), examples(labels[60:]))
    mean, deviation = train.mean(0), train.std(0)
    seen, asked = (torch.from_numpy((part - mean) / deviation) for part in (train, test))
    numbers = torch.from_numpy(np.unique(labels, return_inverse=True)[1])
    weights, bias = torch.zeros(30, 3, requires_grad=True), torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=100)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        scores = seen @ weights + bias
        entropy = torch.nn.functional.cross_entropy(scores, numbers[:60], reduction="sum")
        total = entropy + 0.5 * weights.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    right = (asked @ weights + bias).argmax(1) == numbers[60:]
    assert found.accuracy == pytest.approx(right.double().mean().item(), abs=1 / 440)


def test_the_most_frequent_label_is_that_of_the_training_examples() -> None:
    known, asked = np.array(["a", "a", "b"]), np.array(["b", "b", "b", "a"])
    assert majority_accuracy(examples(known), examples(asked)) == 0.25


def test_the_interval_knows_that_frames_of_an_utterance_are_alike() -> None:
    right = np.repeat(np.arange(100) % 2 == 0, 20)
    alone = accuracy_interval(right, np.arange(2000))
    together = accuracy_interval(right, np.arange(2000) // 20)
    assert alone == pytest.approx((0.5 - 1.96 * 0.5 / np.sqrt(2000), 0.5 + 0.0219), abs=0.002)
    assert together == pytest.approx((0.5 - 0.098, 0.5 + 0.098), abs=0.012)


def test_clusters_of_clouds_are_pure_and_of_noise_are_not() -> None:
    _, train = clouds(200, seed=0)
    asked, test = clouds(120, seed=1)
    pure = cluster_purity(1e4 * train[:, :1], 1e4 * test[:, :1], examples(asked), 3, seed=0)
    assert pure["pnmi"] > 0.95
    assert pure["phone_purity"] > 0.98
    assert pure["aligned_frames"] == 120
    noise = cluster_purity(train[:, 1:].copy(), test[:, 1:].copy(), examples(asked), 3, seed=0)
    assert noise["pnmi"] < 0.1
    once, again, other = (
        cluster_purity(train[:, 1:].copy(), test[:, 1:].copy(), examples(asked), 3, seed=seed)
        for seed in (0, 0, 1)
    )
    assert once == again != other


def test_clusters_are_those_of_the_training_examples() -> None:
    rng = np.random.default_rng(0)
    places = np.repeat([0.0, 10.0, 20.0], 40) + 0.1 * rng.standard_normal(120)
    test = 0.1 * np.arange(-10, 10)  # all of them in one cluster, whatever their labels
    asked = examples(np.where(test < 0, "low", "high"))
    train = places[:, None].astype(np.float32)
    found = cluster_purity(train, test[:, None].astype(np.float32), asked, 3, seed=0)
    assert (found["pnmi"], found["phone_purity"]) == (pytest.approx(0), 0.5)
