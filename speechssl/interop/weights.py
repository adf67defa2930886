"""Reading other people's checkpoint files without executing anything in them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from speechssl.errors import CheckpointError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

REMEDY = "fetch the checkpoint again from where it came"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ``CheckpointError`` if it is missing or none."""
    try:
        values = json.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: is missing; {REMEDY}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not valid JSON ({_line(error)}); {REMEDY}.") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: must hold a JSON object; {REMEDY}.")
    return values


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of a PyTorch file that holds nothing else.

    All in float32 on the CPU. A PyTorch file is unpickled with torch's restricted unpickler,
    which builds tensors and plain containers and runs no code. Raises ``CheckpointError`` where
    the file is missing, incomplete, or holds anything but tensors of finite numbers.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: is missing; {REMEDY}.")
    values = read_safetensors(path) if path.suffix == ".safetensors" else _read_pickled(path)
    return checked_tensors(values, path)


def checked_tensors(values: Any, path: Path) -> dict[str, Tensor]:
    """``values``, found in ``path``, as float32 tensors by name. Raises ``CheckpointError`` where
    they are anything else."""
    if not isinstance(values, dict) or not values:
        raise CheckpointError(f"{path}: does not hold tensors by name; {REMEDY}.")
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {name!r} is not a tensor; {REMEDY}.")
        if value.dtype not in FLOATS:
            raise CheckpointError(
                f"{path}: tensor {name!r} is of type {value.dtype}, not of floating-point numbers; "
                "give the unquantized checkpoint."
            )
        if not _is_stored(value):
            raise CheckpointError(f"{path}: does not hold all of tensor {name!r}; {REMEDY}.")
        if not value.isfinite().all():
            raise CheckpointError(
                f"{path}: tensor {name!r} holds NaN or infinite numbers; give another checkpoint."
            )
    return {name: value.detach().float().contiguous() for name, value in values.items()}


def _is_stored(value: Tensor) -> bool:
    """Whether all numbers of a tensor are there: a file may also hold sparse ones, outlines, and
    few numbers that count as many."""
    dense = value.layout == torch.strided and value.device.type == "cpu"
    return dense and value.nbytes <= value.untyped_storage().nbytes()


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file as they are. Raises ``CheckpointError``."""
    if not path.is_file():
        raise CheckpointError(f"{path}: is missing; {REMEDY}.")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: is not a complete safetensors file ({_line(error)}); {REMEDY}."
        ) from None


def _read_pickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        problem = str(error)
        if "Weights only load failed" not in problem or "Unsupported operand" in problem:
            raise incomplete(path, error) from None
        raise CheckpointError(
            f"{path}: holds pickled code beside tensors, which was not run; ask its author for a "
            "safetensors file."
        ) from None
    except Exception as error:  # whatever torch meets in a damaged file
        raise incomplete(path, error) from None


def incomplete(path: Path, error: Exception) -> CheckpointError:
    """The error of a PyTorch file that ends too early or is none."""
    return CheckpointError(f"{path}: is not a complete PyTorch file ({_line(error)}); {REMEDY}.")


def _line(error: Exception) -> str:
    """The start of an error's message, as one line."""
    return " ".join(str(error).split())[:120].rstrip(". ")
