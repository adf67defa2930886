"""Starts the systems of a case, each in a process of its own, and lets them take turns.

All systems of a case and precision are started together. Then, one at a time, each warms up on a
small batch and takes its timed steps in rounds, so that whatever else the machine does meets all
alike. The first whole step also touches new memory: it counts only where time allows no other.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from speechssl.devices import multiplies_int8
from tools.bench.cases import EIGHT_BIT, PEERS, Case, is_peer
from tools.bench.machine import available_memory_gb
from tools.bench.report import Row
from tools.bench.systems import weights_file

ROOT = Path(__file__).parents[2]

CEILING = "matmul"
"""The worker that multiplies plain matrices beside each step of a system."""

SECOND_PRECISION = 1.5
"""What a case takes in fp32, about, as a multiple of bf16."""

WEIGHTS_TOLERANCE = 0.02
"""How far the numbers of encoder weights may differ: fairseq2 has no projection where frames and
transformer are equally wide, 1 % of the tiny encoder."""


@dataclass(frozen=True)
class Options:
    """What the whole run shares."""

    device: str
    threads: int
    quick: bool
    compile: bool
    step_limit: float
    """Seconds after which a worker that does not answer has failed."""
    compile_limit: float
    """The same where it builds, compiles and warms up with torch.compile."""
    folder: Path
    """What the run prepares for its workers."""
    log: Path
    """What the workers print."""


class WorkerFailed(Exception):
    """A worker ended, gave an error or took too long; the message says which."""


class Worker:
    """A process of ``worker.py``, and what it has answered."""

    def __init__(self, case: Case, system: str, dtype: str, options: Options, **more: Any) -> None:
        """``more`` goes into the worker's first message: ``compile`` or ``reference``."""
        self.system = system
        self.label = f"{case.name}, {system} {dtype}".strip()
        self.limit = options.step_limit
        self.facts: dict[str, Any] = {}
        self.steps: list[dict[str, Any]] = []
        """What the timed steps reported."""
        on_device = case.kind in ("pretrain", "finetune", "inference")
        self._log = open(options.log, "ab")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tools.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(options.threads)},
        )
        self._send(
            {
                "case": case.name,
                "seconds": case.seconds,
                "quick": options.quick,
                "system": system,
                "dtype": dtype,
                "device": options.device if on_device else "cpu",
                "threads": options.threads,
                "folder": str(options.folder),
                "compile": False,
                "reference": False,
                **more,
            }
        )

    def wait_until_built(self) -> None:
        """Raises ``WorkerFailed`` where the system cannot do the case."""
        self.facts = self._receive()

    def warm_up(self) -> None:
        """Has it do what comes before the first step, once. Raises ``WorkerFailed``."""
        self._do("warm-up")

    def step(self) -> dict[str, Any]:
        """Takes a step; returns what it reports. Raises ``WorkerFailed``."""
        return self._do("step")

    def trim(self) -> None:
        """Has unused memory given back. Raises ``WorkerFailed``."""
        self._do("trim")

    @property
    def alive(self) -> bool:
        """Whether it may be asked anything."""
        return self._process.poll() is None

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()

    def _do(self, request: str) -> dict[str, Any]:
        self._send({"do": request})
        return self._receive()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            raise self._failed() from None

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], self.limit)[0]:
            raise self._failed(f"no answer within {self.limit:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._failed()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self._failed(answer["error"])
        return answer

    def _failed(self, reason: str | None = None) -> WorkerFailed:
        """What to raise; the process is no more."""
        if reason is not None:
            self._process.kill()
        status = self._process.wait()
        ended = "was killed (out of memory?)" if status == -9 else f"ended with status {status}"
        return WorkerFailed(reason or ended)


class Contest:
    """Runs cases, and remembers what to tell the reader of the numbers."""

    def __init__(self, options: Options, systems: list[str]) -> None:
        """``systems`` are the first words of those that take part."""
        self.options = options
        self.systems = systems
        self.notes: list[str] = []
        """Who was left out, and why."""
        self.ceilings: dict[str, float] = {}
        """Precision to the FLOP/s of the plain matrix product: the median of the best case."""
        self._least_seconds: dict[str, float] = {}
        """What the first precision of a case took until its first round was over."""

    def run(
        self, case: Case, dtype: str, seconds: float, progress: Callable[[str], object]
    ) -> list[Row]:
        """The rows of a case in one precision, without ratios.

        Takes ``case.rounds`` rounds after a first one, or as many as fit into ``seconds``; the
        first one in any case. ``progress`` is told who is at work.
        """
        start = time.monotonic()
        progress(f"{case.name} {dtype}")
        self._write_reference(case)
        with ExitStack() as stack:
            workers = self._start(case, dtype, stack, progress)
            for number in range(1 + case.rounds):
                began = time.monotonic()
                self._round(workers, number, progress)
                now = time.monotonic()
                if number == 0:
                    self._least_seconds.setdefault(case.name, now - start)
                if now + (now - began) > start + seconds:
                    break
        return self._rows(case, dtype, workers)

    def least_seconds(self, case: Case) -> float:
        """About what the next precision of ``case`` takes at least: 0 where none has run yet."""
        return SECOND_PRECISION * self._least_seconds.get(case.name, 0.0)

    def _takes_part(self, system: str) -> bool:
        if system == EIGHT_BIT and not multiplies_int8(torch.device(self.options.device)):
            return False
        return system.split()[0] in self.systems or system == "torch"

    def _write_reference(self, case: Case) -> None:
        """Has transformers write the weights that it shares with speechssl in inference, once."""
        absent = not weights_file(self.options.folder, case).exists()
        if absent and case.kind == "inference" and self._takes_part("transformers"):
            with ExitStack() as stack, self._noting(f"{case.name}, shared weights"):
                self._open(case, "transformers", "fp32", stack, reference=True).wait_until_built()

    def _open(self, case: Case, system: str, dtype: str, stack: ExitStack, **more: Any) -> Worker:
        """A worker that is closed with ``stack``."""
        worker = Worker(case, system, dtype, self.options, **more)
        stack.callback(worker.close)
        return worker

    def _start(
        self, case: Case, dtype: str, stack: ExitStack, progress: Callable[[str], object]
    ) -> list[Worker]:
        """The workers of a case, built and warm."""
        systems = [system for system in case.systems_in(dtype) if self._takes_part(system)]
        computes = case.kind in ("pretrain", "finetune", "inference")
        opened = [self._open(case, system, dtype, stack) for system in systems]
        if computes:
            opened.append(self._open(case, CEILING, dtype, stack))
        built: list[Worker] = []
        for worker in opened:
            with self._noting(worker.label):
                worker.wait_until_built()
                _check_weights(worker, built)
                built.append(worker)
        warm: list[Worker] = []
        for worker in built:
            self._trim_all_but(worker, built)
            progress(worker.label)
            with self._noting(worker.label):
                worker.warm_up()
                warm.append(worker)
        if self.options.compile and computes:
            warm = [self._or_compiled(case, dtype, worker, stack) for worker in warm]
        return warm

    def _or_compiled(self, case: Case, dtype: str, plain: Worker, stack: ExitStack) -> Worker:
        """``plain``, or the same with torch.compile if that works in time and is faster."""
        if plain.system == CEILING:
            return plain
        compiled = self._open(case, plain.system, dtype, stack, compile=True)
        end = time.monotonic() + self.options.compile_limit
        with self._noting(f"{plain.label}, torch.compile"):
            compiled.limit = self.options.compile_limit
            compiled.wait_until_built()
            compiled.warm_up()
            for _ in range(2):  # compiles again where shapes change
                compiled.limit = max(1.0, end - time.monotonic())
                compiled.step()
            plain.step()
            seconds = {worker: worker.step()["seconds"] for worker in (plain, compiled)}
            gain = seconds[plain] / seconds[compiled]
            self.notes.append(f"{plain.label}: torch.compile makes it {gain:.2f} times as fast")
            if gain > 1:
                compiled.limit = self.options.step_limit
                plain.close()
                return compiled
        compiled.close()
        return plain

    def _round(self, workers: list[Worker], number: int, progress: Callable[[str], object]) -> None:
        """Lets each system take a timed step, with a plain matrix product beside it."""
        systems = [worker for worker in workers if worker.system != CEILING]
        ceiling = [worker for worker in workers if worker.system == CEILING]
        first = number % max(1, len(systems))  # nobody always follows the same one
        for system in [*systems[first:], *systems[:first]]:
            progress(system.label)
            for worker in (system, *ceiling):
                self._step(worker, workers)

    def _step(self, worker: Worker, workers: list[Worker]) -> None:
        if not worker.alive:
            return
        peak = worker.steps[-1]["peak_memory_gb"] if worker.steps else math.inf
        if available_memory_gb() < peak:
            self._trim_all_but(worker, workers)
        with self._noting(worker.label):
            worker.steps.append(worker.step())

    def _trim_all_but(self, busy: Worker, workers: list[Worker]) -> None:
        """Idle workers give their unused memory back."""
        for worker in workers:
            if worker is not busy and worker.alive:
                with self._noting(worker.label):
                    worker.trim()

    @contextmanager
    def _noting(self, label: str) -> Iterator[None]:
        """Goes on where a worker fails, and notes it."""
        try:
            yield
        except WorkerFailed as error:
            self.notes.append(f"{label}: {error}")

    def _rows(self, case: Case, dtype: str, workers: list[Worker]) -> list[Row]:
        timed = [worker for worker in workers if worker.steps]
        ceiling = next((_median(w, "flops") for w in timed if w.system == CEILING), None)
        if ceiling is not None:
            self.ceilings[dtype] = max(ceiling, self.ceilings.get(dtype, 0.0))
        return [_row(case, dtype, w, ceiling) for w in timed if w.system != CEILING]


def _check_weights(worker: Worker, others: list[Worker]) -> None:
    """Raises ``WorkerFailed`` where a system built another network than the first one."""
    if not others or not worker.facts.get("encoder_weights") or not worker.facts["same_network"]:
        return
    first, own = others[0].facts["encoder_weights"], worker.facts["encoder_weights"]
    if abs(own / first - 1) > WEIGHTS_TOLERANCE:
        raise WorkerFailed(f"its encoder has {own} weights, that of {others[0].system} {first}")


def _row(case: Case, dtype: str, worker: Worker, ceiling: float | None) -> Row:
    times = [step["seconds"] for step in worker.steps[1:] or worker.steps]
    seconds = statistics.median(times)
    flops = worker.facts.get("flops")
    last = worker.steps[-1]
    return Row(
        case=case.name,
        system="speechssl" if worker.system == EIGHT_BIT else worker.system,
        dtype="int8" if worker.system == EIGHT_BIT else dtype,
        audio_seconds_per_second=case.audio_seconds / seconds if case.audio_seconds else None,
        peak_memory_gb=last["peak_memory_gb"],
        ratio_to_fastest_peer=None,
        seconds=seconds,
        seconds_min=min(times),
        seconds_max=max(times),
        rounds=len(times),
        cold=len(worker.steps) == 1,
        flops_per_second=flops / seconds if flops else None,
        flop_share=flops / seconds / ceiling if flops and ceiling else None,
        padding_share=_median(worker, "padding_share") if "padding_share" in last else None,
        peer=is_peer(worker.system),
        same_network=worker.facts.get("same_network", True),
        settings=last["settings"],
    )


def _median(worker: Worker, name: str) -> float:
    return statistics.median(step[name] for step in worker.steps)


def missing_peers() -> list[str]:
    """The peers that are not installed."""
    return [peer for peer in PEERS if importlib.util.find_spec(peer) is None]
