"""Where and how precisely a model computes, and moving tensors there."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from speechssl.errors import ConfigError

Precision = Literal["auto", "fp32", "bf16", "int8"]


def find_device(name: str = "auto") -> torch.device:
    """The device of that name, "auto" being the GPU if there is one.

    Raises ``ConfigError`` if it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        problem = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"device {name!r} cannot be used ({problem}); try cpu or auto.") from None
    return device


def multiplies_int8(device: torch.device) -> bool:
    """Whether the device is a processor with AVX-512 VNNI, which int8 needs.

    On others its products are slow, or overflow.
    """
    return device.type == "cpu" and torch.cpu._is_vnni_supported()


def choose_precision(name: Precision, device: torch.device) -> Literal["fp32", "bf16", "int8"]:
    """The precision of that name, "auto" being bf16 where the device multiplies it natively.

    Elsewhere bf16 is only emulated, and slower than fp32. "auto" is never int8. Raises
    ``ConfigError`` for int8 where the device is not made for it.
    """
    if name == "int8" and not multiplies_int8(device):
        lacking = "which this one lacks; choose auto"
        if device.type != "cpu":
            lacking = f"not for the device {device}; choose auto, or the device cpu"
        raise ConfigError(f"precision int8 is for processors with AVX-512 VNNI, {lacking}.")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    native = device.type == "cpu" and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
    return "bf16" if native else "fp32"


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``, without the host waiting for the copy.

    A copy to CUDA goes through page-locked memory, from which the device reads on its own.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
