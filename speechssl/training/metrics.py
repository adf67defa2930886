"""Metrics as sums and counts, the one line that a person reads, and the doctor who reads along."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from fairseq2.metrics.recorders import MetricRecorder
from torch import Tensor, distributed
from torcheval.metrics import Metric

from speechssl.data.batch import SpeechBatch
from speechssl.devices import to_device
from speechssl.errors import CollapseError
from speechssl.objectives.base import Loss, real_frames
from speechssl.training.curves import read_metrics
from speechssl.training.doctor import Doctor, run_settings
from speechssl.training.run_folder import RunFolder

LINE_METRICS = ("loss", "accuracy", "wer", "cer", "blank_share", "codebook_perplexity", "grad_norm")
"""Metrics that the console line shows, where a run has them; the rest is in metrics/ and tb/."""


MetricPairs = Mapping[str, tuple[Tensor | float, float]]
"""Metrics by name, each as (sum, count). A sum may be a scalar on the device."""


class MetricSums(Metric[dict[str, float]]):
    """Any number of named means, each kept as a sum and a count over batches and processes.

    A metric whose counts are 0 is a plain sum. ``update`` only notes its numbers; they are added up
    when the metric is read or saved, so that a batch costs nothing and no device is waited for.
    """

    def __init__(self, *, device: torch.device | None = None) -> None:
        super().__init__(device=device)
        self._add_state("sums", {})
        self._add_state("counts", {})
        self.sums: dict[str, Tensor]
        self.counts: dict[str, Tensor]
        self._noted: dict[str, list[tuple[Tensor | float, float]]] = {}

    @torch.inference_mode()
    def update(self, metrics: MetricPairs) -> MetricSums:
        """Notes ``{name: (sum, count)}``; sums that are tensors have no gradient."""
        for name, pair in metrics.items():
            self._noted.setdefault(name, []).append(pair)
        return self

    @torch.inference_mode()
    def compute(self) -> dict[str, float]:
        """The mean of each metric; the plain sum where the counts are 0."""
        self._add_noted()
        return {
            name: float(total) / (float(self.counts[name]) or 1.0)
            for name, total in self.sums.items()
        }

    @torch.inference_mode()
    def _prepare_for_merge_state(self) -> None:
        """Gives all processes the same names, with 0 where one has had no batch with the metric.

        torcheval (0.0.7) calls this before it exchanges states. It sends what a dictionary holds in
        the order of the names, without the names: if they differed, values would change places.
        """
        self._add_noted()
        names: list[list[str]] = [[] for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(names, list(self.sums))
        for name in {name for others in names for name in others} - set(self.sums):
            zero = torch.zeros((), dtype=torch.float64, device=self.device)
            self._add(name, zero, zero)

    @torch.inference_mode()
    def merge_state(self, metrics: Iterable[MetricSums]) -> MetricSums:
        """Adds the states of other processes, which ``state_dict`` has brought up to date."""
        self._add_noted()
        for metric in metrics:
            for name in metric.sums:
                self._add(name, metric.sums[name], metric.counts[name])
        return self

    def reset(self) -> MetricSums:
        self._noted = {}
        return super().reset()

    def state_dict(self) -> dict[str, Any]:
        self._add_noted()
        return super().state_dict()

    @torch.inference_mode()
    def _add_noted(self) -> None:
        for name, pairs in self._noted.items():
            numbers = [total for total, _ in pairs if not isinstance(total, Tensor)]
            tensors = [total for total, _ in pairs if isinstance(total, Tensor)]
            total = torch.tensor(float(sum(numbers)), dtype=torch.float64, device=self.device)
            if tensors:
                total += torch.stack(tensors).double().sum()
            count = float(sum(count for _, count in pairs))
            self._add(name, total, torch.tensor(count, dtype=torch.float64, device=self.device))
        self._noted = {}

    def _add(self, name: str, total: Tensor, count: Tensor) -> None:
        seen = name in self.sums
        self.sums[name] = self.sums[name] + total if seen else total
        self.counts[name] = self.counts[name] + count if seen else count


def loss_metrics(loss: Loss) -> dict[str, tuple[Tensor | float, float]]:
    """The loss and its metrics, all as (sum, count)."""
    return {"loss": (loss.sum.detach(), loss.count), **loss.metrics}


SILENCE = 1e-4
"""Root mean square below which a recording is silent: -80 dB of full scale, 3 steps of 16 bits."""


def silent_recordings(batch: SpeechBatch) -> tuple[Tensor, int]:
    """(recordings of the batch that are silent or constant, recordings); waits for no device."""
    lengths = to_device(batch.lengths, batch.waveforms.device)
    real = real_frames(lengths, batch.waveforms.shape[1])  # [B, S]
    samples = lengths.clamp(min=1)
    mean = batch.waveforms.sum(dim=1) / samples  # [B]; zeros behind ends
    centred = (batch.waveforms - mean[:, None]) * real
    power = centred.square().sum(dim=1) / samples
    return (power < SILENCE**2).sum(), len(lengths)


OnCollapse = Literal["stop", "warn"]
"""What the doctor does when a run has failed."""


class DoctorRecorder(MetricRecorder):
    """Shows each report to the doctor (``training/doctor.py``), and says in one line what
    is wrong: once for each symptom, or with ``on_collapse`` "stop" as the end of the run. A run
    whose weights are lost ends in any case, before a checkpoint of them takes the place of the
    last good one."""

    def __init__(self, exp: Path, on_collapse: OnCollapse, echo: Callable[[str], None]) -> None:
        """``exp`` is the folder of the run, whose earlier reports count after a resume."""
        self._exp = exp
        self._doctor = Doctor(run_settings(exp))
        self._earlier = read_metrics(exp, "train")
        self._on_collapse = on_collapse
        self._echo = echo
        self._said: set[str] = set()

    def record_metric_values(
        self, category: str, values: Mapping[str, object], step_nr: int | None = None
    ) -> None:
        """Raises ``CollapseError`` where the run is to stop."""
        if step_nr is None:
            return
        for row in self._earlier:
            if row["Step"] < step_nr:
                self._doctor.see(row)
        self._earlier = []
        numbers = {k: float(v) for k, v in values.items() if isinstance(v, (int, float, Tensor))}
        see = self._doctor.see if category == "train" else self._doctor.see_validation
        finding = see({"Step": step_nr, **numbers})
        if finding is None:
            return
        line = f"doctor: update {step_nr}: {finding.message}"
        if finding.rule.ends_run:
            raise CollapseError(f"{line} {self._last_good(step_nr)}")
        if self._on_collapse == "stop":
            raise CollapseError(line)
        if finding.rule.symptom not in self._said:
            self._said.add(finding.rule.symptom)
            self._echo(line)

    def close(self) -> None:
        pass

    def _last_good(self, update: int) -> str:
        """What is left of a run whose weights were lost at ``update``."""
        steps = [step for step in RunFolder(self._exp).steps() if step < update]
        if not steps:
            return "There is no checkpoint of before; start again in a new folder."
        return (
            f"The last good checkpoint: speechssl export {self._exp} MODEL --checkpoint "
            f"{steps[-1]}, to start from it (--init MODEL) in a new folder."
        )


class ConsoleRecorder(MetricRecorder):
    """Prints one short line per report: update, loss, accuracy, speed, time left."""

    def __init__(self, total_updates: int, echo: Callable[[str], None]) -> None:
        self._total = total_updates
        self._echo = echo
        self._first: tuple[int, float] | None = None

    def record_metric_values(
        self, category: str, values: Mapping[str, object], step_nr: int | None = None
    ) -> None:
        step = step_nr or 0
        words = [f"{'valid' if category.startswith('valid') else 'train'} {step:>6}/{self._total}"]
        for name in LINE_METRICS:
            value = values.get(name)
            if isinstance(value, (int, float, Tensor)):
                words.append(f"{name} {_short(name, float(value))}")
        if category == "train":
            speed = values.get("audio_seconds_per_second")
            if isinstance(speed, float):
                words.append(f"{speed:.0f} s audio/s")
            words.append(f"left {self._time_left(step)}")
        self._echo("  ".join(words))

    def close(self) -> None:
        pass

    def _time_left(self, step: int) -> str:
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
            return "?"
        first_step, start = self._first
        seconds = (now - start) / max(1, step - first_step) * (self._total - step)
        minutes, seconds = divmod(int(seconds), 60)
        return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _short(name: str, value: float) -> str:
    if name in ("accuracy", "wer", "cer", "blank_share"):
        return f"{100 * value:.1f} %"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
