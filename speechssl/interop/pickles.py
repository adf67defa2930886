"""PyTorch checkpoints that hold more than tensors, read without running anything in them.

fairseq writes settings beside the weights, as objects of classes of argparse, omegaconf and its
own. torch's restricted unpickler (``weights_only``) builds tensors and plain containers and nothing
else; for the classes of ``HARMLESS`` it is handed a stand-in, which keeps what the file says about
an object and does nothing. A file that names any other class is refused.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch

from speechssl.errors import CheckpointError
from speechssl.interop.weights import REMEDY, incomplete

HARMLESS = re.compile(
    r"argparse\.Namespace|collections\.(Counter|defaultdict)|(omegaconf|fairseq)\.[\w.]+"
    r"|typing\.\w+|_operator\.getitem"
    r"|builtins\.(bool|bytes|dict|float|frozenset|int|list|object|str|tuple)"
    r"|enum\.\w+|numpy\.(dtype|ndarray)|numpy\._?core\.multiarray\.(scalar|_reconstruct)"
)
"""Names of classes and functions that stand-ins are put in place of."""

LEGACY_PICKLES = 4
"""How many pickles begin a file of torch before 1.6: two marks, the machine, the checkpoint."""


class StandIn:
    """In place of an object whose class is not imported: what the file says about it."""

    arguments: tuple[Any, ...]
    state: dict[str, Any]

    def __new__(cls, *arguments: Any) -> StandIn:
        made = super().__new__(cls)
        made.arguments = arguments
        made.state = {}
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {"state": state}

    def __setitem__(self, key: Any, value: Any) -> None:
        self.state[key] = value


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What the checkpoint file ``path`` holds: tensors, plain containers, stand-ins.

    Tensors are on the CPU. Raises ``CheckpointError`` where the file is missing, incomplete, or
    names a class or function that is not ``HARMLESS``; nothing of it has run then.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: is missing; {REMEDY}.")
    stand_ins: list[Any] = [(StandIn, name) for name in _globals(path) if HARMLESS.fullmatch(name)]
    try:
        with torch.serialization.safe_globals(stand_ins):
            values = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused is None:
            raise incomplete(path, error) from None
        raise CheckpointError(
            f"{path}: asks to run {refused[1]}, which is no part of a checkpoint; nothing was run, "
            "do not trust the file."
        ) from None
    except Exception as error:  # whatever torch meets in a damaged file
        raise incomplete(path, error) from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: does not hold tensors by name; {REMEDY}.")
    return values


def plain(value: Any) -> Any:
    """``value`` of a checkpoint as plain YAML: stand-ins become what they stand for.

    An ``argparse.Namespace`` becomes a mapping, omegaconf's configurations mappings and lists, an
    enumeration's member its value. What is no setting (tensors, say) becomes None.
    """
    if isinstance(value, StandIn):
        for content in ("_content", "_val"):  # omegaconf's containers and leaves
            if content in value.state:
                return plain(value.state[content])
        return plain(value.state or (value.arguments[0] if value.arguments else None))
    if isinstance(value, dict):
        return {str(plain(k)): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return value if isinstance(value, (bool, int, float, str)) else None


def texts(path: Path) -> set[str]:
    """All texts in the pickle of a PyTorch file (names of tensors among them), without unpickling.

    There are none in a file of any other kind.
    """
    found = set()
    try:
        for opcode, value in _opcodes(path):
            if opcode.endswith("UNICODE"):
                found.add(value)
    except _UNREADABLE:
        pass  # what stands before the damage still tells what the file is
    return found


def is_cut_off(path: Path) -> bool:
    """Whether ``path`` begins as PyTorch's files do since 1.6, and has no end."""
    with open(path, "rb") as stream:
        begins = stream.read(4) == b"PK\x03\x04"
    return begins and not zipfile.is_zipfile(path)


def _globals(path: Path) -> set[str]:
    """The classes and functions that the pickle names, by today's names of Python's own."""
    found = set()
    try:
        for opcode, value in _opcodes(path):
            if opcode == "GLOBAL":
                module, _, name = value.partition(" ")
                module, name = NAME_MAPPING.get((module, name), (module, name))
                found.add(f"{IMPORT_MAPPING.get(module, module)}.{name}")
    except _UNREADABLE as error:
        raise incomplete(path, error) from None
    return found


_UNREADABLE = (
    *(ValueError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError),
    MemoryError,  # a text that says it is longer than the memory
)


def _opcodes(path: Path) -> Iterator[tuple[str, Any]]:
    """(opcode, argument) of what torch would unpickle. Raises ``_UNREADABLE``."""
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as stream:
            for _ in range(LEGACY_PICKLES):
                yield from _read_pickle(stream)
        return
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("/data.pkl"):
                with archive.open(name) as stream:
                    yield from _read_pickle(stream)


def _read_pickle(stream: IO[bytes]) -> Iterator[tuple[str, Any]]:
    for opcode, argument, _ in pickletools.genops(stream):
        yield opcode.name, argument
