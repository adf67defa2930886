"""A run's folder: what it is, whose it is, and the weights in its checkpoints.

``recipe.yaml`` says in readable form what the run trains, ``starts.jsonl`` when it was started or
resumed, by which command of which commit; ``checkpoints/`` is the engine's;
``metrics/*.jsonl``, ``tb/`` and ``curves.png`` hold the curves; ``model/`` is the finished model
folder.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from speechssl.config import read_yaml, write_yaml
from speechssl.errors import RunFolderError
from speechssl.files import write_text
from speechssl.provenance import this_command

RECIPE_FILE = "recipe.yaml"
STARTS_FILE = "starts.jsonl"
LOCK_FILE = ".lock"
MODEL_FOLDER = "model"

LEXICON = "recipe.finetune.lexicon"
PATHS = ("data", "init", LEXICON)
"""Settings of a run that name files; kept absolute, so that it goes on from any folder."""

CONTENTS = "contents"
"""The SHA-256 of the training manifest (``data``), of the weights to start from (``init``) and of
the pronouncing lexicon: where these are the same, so is the run, wherever they lie now."""


class RunFolder:
    """The folder of one training run."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def model(self) -> Path:
        """Where the finished model folder goes."""
        return self.path / MODEL_FOLDER

    def check(self, description: Mapping[str, Any]) -> None:
        """Raises ``RunFolderError`` if the folder belongs to another run or holds other files."""
        description = with_absolute_paths(description)
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise RunFolderError(f"{self.path}: is a file; give a folder for the run.")
        recipe = self.path / RECIPE_FILE
        # Looked through before the recipe is looked for: another process of the same run may be
        # writing it, first under a temporary name (``files.atomic_path``).
        names = [path.name for path in self.path.iterdir()]
        if not recipe.is_file():
            if not all(name.startswith(".tmp-") for name in names):
                raise RunFolderError(
                    f"{self.path}: holds other files and no {RECIPE_FILE}; give a new folder."
                )
            return
        before = with_absolute_paths(read_yaml(recipe))
        old, new = before.pop(CONTENTS, {}), description.pop(CONTENTS, {})
        moved = {name for name in PATHS if name in new and new[name] == old.get(name)}
        changed = sorted(differences(before, description) - moved)
        if changed:
            raise RunFolderError(
                f"{self.path}: holds another run (different: {', '.join(changed[:6])}); give a "
                f"new folder, or the same settings to resume."
            )

    def claim(self, description: Mapping[str, Any]) -> None:
        """Checks the folder, then writes what the run is."""
        self.check(description)
        if not (self.path / RECIPE_FILE).is_file():
            write_text(self.path / RECIPE_FILE, write_yaml(with_absolute_paths(description)))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other commands out of the folder until the block ends, or the process, however.

        Raises ``RunFolderError`` where another one is training in it. (Two would write the same
        checkpoints and metrics.)
        """
        with open(self.path / LOCK_FILE, "w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunFolderError(
                    f"{self.path}: another process is training in it at this moment; wait for it, "
                    "or stop it first."
                ) from None
            except OSError:
                pass  # a file system without locks
            yield

    def note_start(self) -> None:
        """Notes that this command starts the run, or goes on with it."""
        with open(self.path / STARTS_FILE, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(this_command(), ensure_ascii=False) + "\n")

    def starts(self) -> list[dict[str, Any]]:
        """What ``note_start`` noted, in order."""
        path = self.path / STARTS_FILE
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return [json.loads(line) for line in lines]

    def description(self) -> dict[str, Any]:
        """What the run trains. Raises ``RunFolderError`` if this is no run folder."""
        recipe = self.path / RECIPE_FILE
        if not recipe.is_file():
            exists = self.path.exists()
            what = f"is not a run folder (no {RECIPE_FILE})" if exists else "no such folder"
            raise RunFolderError(f"{self.path}: {what}; give the EXP of pretrain or finetune.")
        return read_yaml(recipe)

    def steps(self) -> list[int]:
        """Updates for which there is a complete checkpoint, ascending."""
        names = [p.name for p in (self.path / "checkpoints").glob("step_*") if p.is_dir()]
        return sorted(int(n[5:]) for n in names if n[5:].isdigit())

    def scores(self) -> dict[int, float]:
        """Validation score of each checkpoint that has one; greater is better."""
        found: dict[int, float] = {}
        for step in self.steps():
            file = self.path / "checkpoints" / "scores" / f"step_{step}.txt"
            if file.is_file():
                found[step] = float(file.read_text())
        return found

    def choose(self, checkpoint: Literal["best", "last"] | int) -> int:
        """The update number of the best, last or given checkpoint. Raises ``RunFolderError``."""
        steps = self.steps()
        if not steps:
            raise RunFolderError(
                f"{self.path}: has no checkpoint yet; run the training command again to go on."
            )
        if checkpoint == "last":
            return steps[-1]
        if checkpoint == "best":
            scores = self.scores()
            return max(scores, key=lambda step: (scores[step], step)) if scores else steps[-1]
        if checkpoint not in steps:
            raise RunFolderError(
                f"{self.path}: has no checkpoint at update {checkpoint}; there are "
                f"{', '.join(map(str, steps))}."
            )
        return checkpoint

    def load_weights(self, step: int, model: nn.Module | None = None) -> dict[str, Tensor]:
        """The weights of the checkpoint at update ``step``, on the CPU, put together where each
        process had a share of them.

        What is no parameter of ``model`` (any object of the class that was trained; its values are
        not looked at) each process had whole; None if there is nothing but parameters.
        """
        folder = self.path / "checkpoints" / f"step_{step}" / "model"
        files = sorted(folder.glob("**/sdp_*.pt"), key=lambda file: int(file.stem[4:]))
        shares = [_read_weights(file, step) for file in files]
        if not shares:
            raise RunFolderError(
                f"{folder}: has no weights; remove this checkpoint to go back to the one before."
            )
        if len(shares) == 1:
            return shares[0]
        shared = shares[0] if model is None else dict(model.named_parameters())
        return {
            name: torch.cat([share[name] for share in shares]) if name in shared else value
            for name, value in shares[0].items()
        }


def _read_weights(file: Path, step: int) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = torch.load(
            file, map_location="cpu", weights_only=True, mmap=False
        )
    except Exception as error:
        raise RunFolderError(
            f"{file}: cannot be read ({error}); remove the folder step_{step} to go back to the "
            f"checkpoint before."
        ) from None
    return weights


def with_absolute_paths(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A description whose ``PATHS`` are absolute; relative ones start at the working folder."""
    changed = dict(settings)
    for name, value in settings.items():
        if isinstance(value, Mapping):
            changed[name] = with_absolute_paths(value, f"{prefix}{name}.")
        elif f"{prefix}{name}" in PATHS and value is not None:
            changed[name] = os.path.abspath(value)
    return changed


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> set[str]:
    """Dotted names of the settings in which two descriptions differ."""
    changed: set[str] = set()
    for key in {*old, *new}:
        left, right = old.get(key), new.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            changed |= differences(left, right, f"{prefix}{key}.")
        elif left != right:
            changed.add(f"{prefix}{key}")
    return changed
