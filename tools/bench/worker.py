"""The process in which one system works on one case.

Reads one JSON message a line from standard input and answers each with one line:

    {"case": ..., "system": ..., ...}   what to build, first   -> {"encoder_weights": ..., ...}
    {"do": "warm-up"}                   second, once           -> {}
    {"do": "step"}                      one timed step         -> {"seconds": ..., ...}
    {"do": "trim"}                      give back idle memory  -> {}

A failure is answered with {"error": ...} and ends the process, as the end of the input does.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import math
import os
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from speechssl.models.bfloat16 import keep_products_in_bfloat16
from tools.bench.cases import Case, all_cases, is_peer
from tools.bench.flops import step_flops
from tools.bench.systems import Setup, Work, load_system

MATMUL_SIZE = {"cpu": 4096, "cuda": 8192}
"""Rows and columns of the plain matrix product that gives the machine's ceiling."""

QUICK_MATMUL_SIZE = 512

MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
"""The unit of ``ru_maxrss``."""

START_UP = {
    "torch": "import torch",
    "speechssl transcribe-help": """
from speechssl.cli.main import group
group(["transcribe", "--help"], standalone_mode=False)
""",
}
"""Programs that are no system's model."""

TELL_MEMORY = """
import os
if os.path.exists("/proc/self/status"):
    print(open("/proc/self/status").read())
"""
"""Ends the programs of start-up. What the system tells of a child's memory is at least what its
parent held when it started it."""

WARM_UP, OTHER_WARM_UP = (2, 3.0), (3, 2.0)
"""What a network warms up on: that many recordings of the case, cut to that many seconds. The other
one is for what compiles anew when it meets another shape."""

ATTENTION = {"as torch chooses": None, "sdpa's plain kernel": SDPBackend.MATH}
"""What a peer's training step tries in its warm-up: torch's fused attention on the CPU is slower
for short recordings."""


@dataclass
class Task:
    """What a worker does again and again."""

    facts: dict[str, Any]
    """Reported once, before the warm-up."""
    run: Callable[[], dict[str, Any]]
    """Takes one step; returns what there is to report: ``seconds``, ``settings`` and more."""
    warm_up: Callable[[], object] = dict
    """What comes before the first step."""


def build(spec: dict[str, Any]) -> Task:
    """The task that a message asks for."""
    device = torch.device(spec["device"])
    torch.set_num_threads(spec["threads"])
    if spec["system"] == "matmul":
        size = QUICK_MATMUL_SIZE if spec["quick"] else MATMUL_SIZE[device.type]
        return _matmul(size, spec["dtype"], device)
    case = next(case for case in all_cases(spec["quick"]) if case.name == spec["case"])
    case = replace(case, seconds=tuple(spec["seconds"]))
    if case.kind == "start-up":
        return _start_up(spec["system"], spec["threads"])
    system = load_system(spec["system"])
    setup = Setup(case, spec["system"].partition(" ")[2], device, Path(spec["folder"]))
    if spec["reference"]:
        system.write_reference(setup)
        return Task({}, dict)
    if case.kind == "loading":
        return _loading(system.loading(setup))
    network = Network(system, setup, spec)
    return Task(network.facts, network.step, network.warm_up)


class Network:
    """Steps of a case that computes something.

    Until it is warm, it is a copy of what is timed that computes a small part of the case:
    libraries load and compile what they need, and no whole step goes by untimed.
    """

    def __init__(self, system: Any, setup: Setup, spec: dict[str, Any]) -> None:
        self._system = system
        self._setup = setup
        self._compile = spec["compile"]
        case, device = setup.case, setup.device
        self._bf16 = spec["dtype"] == "bf16"
        self._autocast = torch.autocast(device.type, torch.bfloat16, enabled=self._bf16)
        self._attention: str | None = None
        """The kernel that a peer computes attention with, once it is chosen."""
        plain = not spec["compile"] and device.type == "cpu"
        # With dropout, torch has only the plain kernel to choose on a CPU.
        free = case.kind in ("pretrain", "finetune") and not case.encoder.attention_dropout
        self._choosing = is_peer(spec["system"]) and plain and free
        self._work = self._build(self._small(*WARM_UP))
        self.facts = {
            "encoder_weights": self._work.encoder_weights,
            "same_network": self._work.network is None,
            "flops": step_flops(case, self._work.network or case.encoder),
        }

    def warm_up(self) -> None:
        """Steps on a few seconds of audio; then builds what is timed."""
        if self._work.compiles:
            self._step(self._build(self._small(*OTHER_WARM_UP)))
        self.step()
        if self._choosing:
            self._attention = min(ATTENTION, key=self._seconds_with)
        del self._work
        trim()
        self._work = self._build(self._setup.case)
        for module in self._work.to_compile if self._compile else []:
            module.compile(dynamic=True)

    def step(self) -> dict[str, Any]:
        """One step."""
        return self._step(self._work)

    def _step(self, work: Work) -> dict[str, Any]:
        """A step of ``work``, with the kernel of attention that was chosen."""
        kernel = ATTENTION[self._attention] if self._attention else None
        with sdpa_kernel(kernel) if kernel is not None else contextlib.nullcontext():
            if self._setup.case.kind == "inference":
                report = _inference_step(work, self._autocast, self._setup.device)
            else:
                report = _training_step(work, self._autocast, self._setup.device)
        chosen = [work.settings, "torch.compile" if self._compile else "", self._attention]
        return {**report, "settings": ", ".join(filter(None, chosen))}

    def _build(self, case: Case) -> Work:
        """The system's work on ``case``, with the same random numbers each time."""
        torch.manual_seed(0)
        np.random.seed(0)  # transformers draws its masks from it
        work: Work = getattr(self._system, case.kind)(replace(self._setup, case=case))
        for module in work.modules:
            module.to(self._setup.device).train(case.kind in ("pretrain", "finetune"))
            if case.kind == "inference" and self._bf16:
                _keep_in_bfloat16(module)
        return work

    def _small(self, recordings: int, longest: float) -> Case:
        """The case with a few recordings, cut to ``longest`` seconds."""
        case = self._setup.case
        few = (min(seconds, longest) for seconds in case.seconds[:recordings])
        return replace(case, seconds=tuple(few))

    def _seconds_with(self, attention: str) -> float:
        """The faster of two steps with a kernel of attention."""
        self._attention = attention
        return min(self.step()["seconds"] for _ in range(2))


def _keep_in_bfloat16(module: nn.Module) -> None:
    """Linear maps, anybody's, keep their weights as autocast would convert them each time."""
    keep_products_in_bfloat16(module)
    for part in module.modules():
        if type(part).__name__ == "Linear":  # fairseq2 has its own
            part.to(torch.bfloat16)


def _training_step(work: Work, autocast: torch.autocast, device: torch.device) -> dict[str, Any]:
    """Forward, backward, gradients to nothing."""
    with _Clock(device) as clock:
        with autocast:
            loss = work.run()
        loss.backward()
        for module in work.modules:
            module.zero_grad(set_to_none=True)
    loss = float(loss.detach())
    if not math.isfinite(loss):
        raise ValueError(f"the loss is {loss}")
    return {"seconds": clock.seconds, "loss": loss}


def _inference_step(work: Work, autocast: torch.autocast, device: torch.device) -> dict[str, Any]:
    with torch.inference_mode(), autocast, _Clock(device) as clock:
        work.run()
    return {"seconds": clock.seconds}


def _loading(work: Work) -> Task:
    """An epoch over the corpus."""

    def run() -> dict[str, Any]:
        with _Clock(torch.device("cpu")) as clock:
            padding = work.run()
        seconds, settings = clock.seconds, work.settings
        return {"seconds": seconds, "padding_share": padding, "settings": settings}

    return Task({}, run)


def _start_up(system: str, threads: int) -> Task:
    """A program from its start to its end, in a process of its own."""
    program = START_UP.get(system) or load_system(system).START_UP
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}

    def run() -> dict[str, Any]:
        with _Clock(torch.device("cpu")) as clock:
            done = subprocess.run(
                [sys.executable, "-c", program + TELL_MEMORY],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=environment,
                check=False,
            )
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["it failed"])[-1])
        peak = _status_gb(done.stdout, "VmHWM")
        if peak is None:
            usage = resource.getrusage(resource.RUSAGE_CHILDREN)
            peak = usage.ru_maxrss * MAXRSS_BYTES / 1e9
        return {"seconds": clock.seconds, "peak_memory_gb": peak, "settings": ""}

    return Task({}, run)


def _matmul(size: int, dtype: str, device: torch.device) -> Task:
    """A plain square matrix product: what the machine can do."""
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    left = torch.randn(size, size, device=device).to(kind)
    right = torch.randn(size, size, device=device).to(kind)

    def run() -> dict[str, Any]:
        with _Clock(device) as clock:
            left @ right
        return {"seconds": clock.seconds, "flops": 2.0 * size**3 / clock.seconds}

    return Task({}, run)


class _Clock:
    """Wall time of a block, with the device's work done."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0

    def __enter__(self) -> _Clock:
        self._wait()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self._wait()
        self.seconds = time.perf_counter() - self._start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def peak_memory_gb(device: torch.device) -> float:
    """The most memory that this process has held: of the GPU, or resident in this process and its
    children (pages that these share are counted in each)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    own = _process_gb("self")
    if own is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES / 1e9
    children = " ".join(path.read_text() for path in Path("/proc/self/task").glob("*/children"))
    return own + sum(_process_gb(child) or 0.0 for child in children.split())


def _process_gb(process: str) -> float | None:
    """The most memory that a process was resident with; None where the system does not say."""
    with contextlib.suppress(OSError):
        return _status_gb(Path(f"/proc/{process}/status").read_text(), "VmHWM")
    return None


def _status_gb(status: str, field: str) -> float | None:
    """A field of the text of /proc/PROCESS/status; None where there is none."""
    for line in status.splitlines():
        if line.startswith(f"{field}:"):
            return float(line.split()[1]) * 1024 / 1e9
    return None


def trim() -> None:
    """Gives memory that is not in use back to the system, so that another worker may have it."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def main() -> None:
    """Answers messages until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    try:
        spec = json.loads(sys.stdin.readline())
        task = build(spec)
        answers.write(json.dumps(task.facts) + "\n")
        for line in sys.stdin:
            reply: dict[str, Any] = {}
            request = json.loads(line)["do"]
            if request == "trim":
                trim()
            elif request == "warm-up":
                task.warm_up()
            else:
                reply = task.run()
                reply.setdefault("peak_memory_gb", peak_memory_gb(torch.device(spec["device"])))
            answers.write(json.dumps(reply) + "\n")
    except Exception as error:
        traceback.print_exc()
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        answers.write(json.dumps({"error": reason[:300]}) + "\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
