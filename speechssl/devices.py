"""Where a model computes, and moving tensors there."""

from __future__ import annotations

import torch
from torch import Tensor

from speechssl.errors import ConfigError


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


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``, without the host waiting for the copy.

    A copy to CUDA goes through page-locked memory, from which the device reads on its own.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
