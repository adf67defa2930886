"""What a run's numbers belong to: hardware, versions, commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

import speechssl
from speechssl.provenance import commit

PACKAGES = ("torch", "transformers", "torchaudio", "fairseq2", "lhotse", "soundfile", "numpy")


def cpu_count() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory_gb() -> float:
    """Memory that a process could still get; infinite where the system does not say."""
    return _meminfo("MemAvailable")


def describe(device: str) -> dict[str, Any]:
    """Hardware, versions and commit, in plain JSON values."""
    memory = _meminfo("MemTotal")
    gpu = torch.device(device).type == "cuda"
    return {
        "device": device,
        "cpu": _cpu_name(),
        "cpus": cpu_count(),
        "memory_gb": round(memory, 1) if memory != float("inf") else None,
        "gpu": torch.cuda.get_device_name(device) if gpu else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {"speechssl": speechssl.__version__} | _versions(),
        "commit": commit(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _meminfo(field: str) -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    found = [float(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith(f"{field}:")]
    return found[0] if found else float("inf")
