"""The units that fairseq2's trainer and evaluator call for each batch.

One unit serves every objective: it asks the model for a ``Loss`` (sum and count) and hands both to
the engine, which divides the gradients by the count over all processes and accumulated batches.
"""

from __future__ import annotations

import time
from collections.abc import MutableMapping
from typing import Any, Protocol

import fairseq2.recipe  # noqa: F401 - before fairseq2.evaluator, which imports it in a circle
import torch
from fairseq2.evaluator import EvalUnit
from fairseq2.metrics import MetricBag
from fairseq2.trainer import TrainUnit
from torch import Tensor, nn
from torch.export import register_dataclass

from speechssl.data.batch import SpeechBatch
from speechssl.objectives.base import Loss
from speechssl.training.metrics import MetricPairs, MetricSums, loss_metrics, silent_recordings
from speechssl.training.reader import TrainReader


class Trainable(Protocol):
    """What the unit asks of a model under training (an ``nn.Module``)."""

    def __call__(self, batch: SpeechBatch) -> Loss:
        """The loss of a batch, in training mode."""

    def set_progress(self, fraction: float) -> None:
        """Called before each update with the share of the run that is done, 0 to 1; may be
        called twice with the same value."""

    def evaluate(self, batch: SpeechBatch) -> MetricPairs:
        """Validation metrics of a batch as ``{name: (sum, count)}``, in evaluation mode."""


NOTHING = 1e-9
"""The count of a batch without a term, whose sum is 0: the engine divides by the counts' total."""

# Lets FSDP find the tensors in what a model returns, whose gradients start its backward pass.
register_dataclass(Loss)


class Unit(TrainUnit[SpeechBatch]):  # type: ignore[type-var]
    """Computes the loss of one batch, whatever the objective."""

    def __init__(
        self, model: Any, parallel_model: nn.Module, reader: TrainReader, updates: int
    ) -> None:
        self._model: Trainable = model
        self._parallel_model = parallel_model
        self._reader = reader
        self._updates = updates
        self._started: float | None = None

    def prepare_metric_bag(self, metric_bag: MetricBag) -> None:
        metric_bag.add("means", MetricSums())
        metric_bag.add("total_seen", MetricSums())

    def set_step_nr(self, step_nr: int) -> None:
        self._started = self._started or time.monotonic()
        self._model.set_progress((step_nr - 1) / self._updates)

    def process_batch(self, batch: SpeechBatch, metric_bag: MetricBag) -> tuple[Tensor, Any]:
        torch.manual_seed(batch.seed)  # masks and dropout belong to the batch, not the process
        loss: Loss = self._parallel_model(batch)
        seconds = batch.audio_seconds
        metric_bag.get("means", MetricSums).update(
            {
                **loss_metrics(loss),
                "padding_share": (batch.padding_share, 1),
                "silence_share": silent_recordings(batch),
                "audio_seconds": (seconds, 0),
            }
        )
        metric_bag.get("total_seen", MetricSums).update({"total_audio_hours": (seconds / 3600, 0)})
        return loss.sum, max(float(loss.count), NOTHING)

    def process_metric_values(self, values: MutableMapping[str, object]) -> None:
        means = _pop_sums(values, "means")
        elapsed = time.monotonic() - (self._started or time.monotonic())
        self._started = None  # validation and checkpoints do not count
        means["audio_seconds_per_second"] = means.pop("audio_seconds") / max(elapsed, 1e-9)
        values.update(means)
        values.update(_pop_sums(values, "total_seen"))
        values["epoch"] = self._reader.epoch


def _pop_sums(values: MutableMapping[str, object], name: str) -> dict[str, float]:
    sums = values.pop(name)
    assert isinstance(sums, dict)
    return sums


class ValidationUnit(EvalUnit[SpeechBatch]):  # type: ignore[type-var]
    """Computes the model's validation metrics on every development batch."""

    def __init__(self, model: Any) -> None:
        self._model: Trainable = model

    def prepare_metric_bag(self, metric_bag: MetricBag) -> None:
        metric_bag.add("means", MetricSums())

    def process_batch(self, batch: SpeechBatch, metric_bag: MetricBag) -> None:
        torch.manual_seed(batch.seed)
        metric_bag.get("means", MetricSums).update(self._model.evaluate(batch))

    def process_metric_values(self, values: MutableMapping[str, object]) -> None:
        values.update(_pop_sums(values, "means"))
