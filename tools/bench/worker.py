"""The process in which one system works on one case.

Reads one JSON message a line from standard input and answers each with one line:

    {"case": ..., "system": ..., ...}   what to build, first   -> {"settings": ..., ...}
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
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tools.bench.cases import all_cases, is_peer
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

ATTENTION = {"as torch chooses": None, "sdpa's plain kernel": SDPBackend.MATH}
"""What a peer's training step tries before it is timed: torch's fused attention on the CPU is
slower for short recordings."""


class Step(NamedTuple):
    """What a worker does again and again."""

    run: Callable[[], dict[str, Any]]
    """Takes one step; returns what there is to report, ``seconds`` at least."""
    facts: dict[str, Any]
    """Reported once: ``settings`` and the like."""


def build(spec: dict[str, Any]) -> Step:
    """The step that a message asks for."""
    device = torch.device(spec["device"])
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    np.random.seed(0)  # transformers draws its masks from it
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
        system.write_reference(case, setup.folder)
        return Step(dict, {})
    work: Work = getattr(system, case.kind)(setup)
    for module in work.modules:
        module.to(device).train(case.kind in ("pretrain", "finetune"))
    for module in work.to_compile if spec["compile"] else []:
        module.compile(dynamic=True)
    facts = {
        "settings": work.settings + (", torch.compile" if spec["compile"] else ""),
        "encoder_weights": work.encoder_weights,
        "same_network": work.network is None,
        "flops": step_flops(case, work.network or case.encoder),
    }
    if case.kind == "loading":
        return Step(lambda: _loading_step(work), facts)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=spec["dtype"] == "bf16")
    if case.kind == "inference":
        return Step(lambda: _inference_step(work, autocast, device), facts)
    step = Step(lambda: _training_step(work, autocast, device), facts)
    if is_peer(spec["system"]) and device.type == "cpu" and not spec["compile"]:
        # With dropout, torch has only the plain kernel to choose on a CPU.
        return step if case.encoder.attention_dropout else _with_best_attention(step)
    return step


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


def _loading_step(work: Work) -> dict[str, Any]:
    with _Clock(torch.device("cpu")) as clock:
        padding = work.run()
    return {"seconds": clock.seconds, "padding_share": padding}


def _start_up(system: str, threads: int) -> Step:
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
        return {"seconds": clock.seconds, "peak_memory_gb": peak}

    return Step(run, {"settings": ""})


def _matmul(size: int, dtype: str, device: torch.device) -> Step:
    """A plain square matrix product: what the machine can do."""
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    left = torch.randn(size, size, device=device).to(kind)
    right = torch.randn(size, size, device=device).to(kind)

    def run() -> dict[str, Any]:
        with _Clock(device) as clock:
            left @ right
        return {"seconds": clock.seconds, "flops": 2.0 * size**3 / clock.seconds}

    return Step(run, {"settings": f"{size} x {size}"})


def _with_best_attention(step: Step) -> Step:
    """``step`` with the attention kernel that is faster here, found by its first run."""
    chosen: list[str] = []
    facts = step.facts

    def run_with(name: str) -> dict[str, Any]:
        kernel = ATTENTION[name]
        with sdpa_kernel(kernel) if kernel is not None else contextlib.nullcontext():
            return step.run()

    def run() -> dict[str, Any]:
        if not chosen:
            for name in ATTENTION:
                run_with(name)  # warm-up
            chosen.append(min(ATTENTION, key=lambda name: run_with(name)["seconds"]))
        return {**run_with(chosen[0]), "settings": f"{facts['settings']}, {chosen[0]}"}

    return Step(run, facts)


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
        step = build(spec)
        answers.write(json.dumps(step.facts) + "\n")
        for line in sys.stdin:
            reply: dict[str, Any] = {}
            if json.loads(line)["do"] == "trim":
                trim()
            else:
                reply = step.run()
                reply.setdefault("peak_memory_gb", peak_memory_gb(torch.device(spec["device"])))
            answers.write(json.dumps(reply) + "\n")
    except Exception as error:
        traceback.print_exc()
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        answers.write(json.dumps({"error": reason[:300]}) + "\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
