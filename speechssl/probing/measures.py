"""What the vectors of one layer are worth."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from speechssl.clustering import assign, fit_kmeans, purity
from speechssl.probing.vectors import Matrix, Vectors
from speechssl.significance import bootstrap, percentile_interval

PENALTY = 1.0
"""Of the squared weights, against the summed cross-entropy (scikit-learn's 1 / C)."""

MAX_ITERATIONS = 1000
"""Of L-BFGS; the report says where they were too few."""


@dataclass(frozen=True)
class Accuracy:
    """A linear probe on held-out examples."""

    accuracy: float
    """Share of examples (utterances, or frames) that are told right."""

    interval: tuple[float, float]
    """95 %, from the bootstrap over utterances."""

    converged: bool


def linear_probe(train: Matrix, test: Matrix, known: Vectors, asked: Vectors) -> Accuracy:
    """Multinomial logistic regression on ``train`` [N, D] with the labels of ``known``, tested on
    ``test`` [M, D] with those of ``asked``.

    Each dimension is brought to zero mean and unit variance over the training examples.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regression = LogisticRegression(C=1 / PENALTY, max_iter=MAX_ITERATIONS)
    probe = make_pipeline(StandardScaler(), regression)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        probe.fit(train, known.labels)
    converged = not any(issubclass(w.category, ConvergenceWarning) for w in caught)
    right = probe.predict(test) == asked.labels
    return Accuracy(float(right.mean()), accuracy_interval(right, asked.utterances), converged)


def accuracy_interval(
    right: NDArray[np.bool_], utterances: NDArray[np.int64]
) -> tuple[float, float]:
    """The 95 % interval of a share of examples [N], which utterances [N] have in common."""
    hits = np.bincount(utterances, right).astype(np.int64)
    return percentile_interval(bootstrap(hits, np.bincount(utterances)))


def majority_accuracy(known: Vectors, asked: Vectors) -> float:
    """What one gets by always saying the most frequent label of the training examples."""
    labels, counts = np.unique(known.labels, return_counts=True)
    return float((asked.labels == labels[counts.argmax()]).mean())


def cluster_purity(
    train: Matrix, test: Matrix, asked: Vectors, clusters: int, seed: int
) -> dict[str, float]:
    """Purities and PNMI (see ``speechssl.clustering.purity``) of k-means clusters.

    k-means is fitted to ``train`` [N, D]; the units are the labels of ``asked`` and the clusters
    those of ``test`` [M, D]. With M small against units times clusters, all numbers are too high,
    for each layer alike.
    """
    codebook = torch.from_numpy(fit_kmeans(train, clusters, seed))
    found = assign(torch.from_numpy(test), codebook).numpy()
    units, numbers = np.unique(asked.labels, return_inverse=True)
    counts = np.zeros((len(units), clusters), np.int64)
    np.add.at(counts, (numbers, found), 1)
    return purity(counts)
