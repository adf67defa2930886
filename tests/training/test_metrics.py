"""Sums and counts over batches and processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing
from torcheval.metrics.toolkit import sync_and_compute_collection

from speechssl.training.metrics import MetricSums


def test_means_are_sums_over_counts_and_counts_of_0_give_the_sum() -> None:
    metric = MetricSums()
    metric.update({"loss": (torch.tensor(6.0), 2), "correct": (torch.tensor(1), 4)})
    metric.update({"loss": (torch.tensor(3.0), 1), "seconds": (2.5, 0)})
    metric.update({"seconds": (1.5, 0)})
    assert metric.compute() == {"loss": 3.0, "correct": 0.25, "seconds": 4.0}
    assert metric.compute() == {"loss": 3.0, "correct": 0.25, "seconds": 4.0}, (
        "reading adds nothing"
    )
    metric.reset()
    assert metric.compute() == {}


def test_sums_are_exact_where_float32_is_not() -> None:
    metric = MetricSums()
    for _ in range(1000):
        metric.update({"loss": (torch.tensor(16777217.0 / 3), 1)})
    assert metric.compute()["loss"] == pytest.approx(float(torch.tensor(16777217.0 / 3)), rel=1e-12)


def test_a_saved_metric_goes_on() -> None:
    first, second = MetricSums(), MetricSums()
    first.update({"loss": (torch.tensor(1.0), 2)})
    second.load_state_dict(first.state_dict())
    second.update({"loss": (torch.tensor(5.0), 1)})
    assert second.compute() == {"loss": 2.0}


def test_processes_are_merged() -> None:
    one, other = MetricSums(), MetricSums()
    one.update({"loss": (torch.tensor(1.0), 2)})
    arrived = MetricSums()
    other.update({"loss": (torch.tensor(5.0), 1), "wer": (1.0, 10)})
    arrived.load_state_dict(other.state_dict())
    assert one.merge_state([arrived]).compute() == {"loss": 2.0, "wer": 0.1}


NOTED = (
    {"context_rank": (8.0, 4), "loss": (6.0, 2), "wer": (1.0, 1)},
    {"loss": (3.0, 1), "wer": (0.0, 1)},
    {},
)
"""What each of three processes has seen: all of it, too few frames for a rank, no batch at all."""


def read_together(rank: int, folder: Path) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=len(NOTED)
    )
    metric = MetricSums()
    metric.update(NOTED[rank])
    for _ in range(2):  # reading changes nothing
        found = sync_and_compute_collection({"means": metric}, distributed.group.WORLD)
        assert found["means"] == {"context_rank": 2.0, "loss": 3.0, "wer": 0.5}
    distributed.destroy_process_group()


def test_a_metric_that_one_process_lacks_takes_no_other_name(tmp_path: Path) -> None:
    multiprocessing.spawn(read_together, (tmp_path,), nprocs=len(NOTED))
