"""Reference curves: what a recipe's metrics looked like in a run that went well.

They are kept beside the recipe (``recipes/reference/<recipe>.jsonl``: what the run was, then its
reports), copied into the folder of each run of the recipe, and drawn behind the run's own curves.
``speechssl doctor EXP --save-reference RECIPE`` makes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechssl.config import to_dict
from speechssl.errors import RunFolderError
from speechssl.files import write_text
from speechssl.training.curves import PANELS, SPLITS, Series, draw_curves, read_metrics
from speechssl.training.recipe import (
    FinetuneRecipe,
    PretrainRecipe,
    encoder_settings,
    load_recipe,
)
from speechssl.training.run_folder import RunFolder, differences

FILE = "reference.jsonl"
"""The copy in a run's folder."""

REPORTS = 40
"""Reports of each split that are kept, so that a reference is a few kilobytes."""

METRICS = {name for _, names, _ in PANELS for name in names} - {"audio_seconds_per_second"}
"""Metrics that are kept: those that are drawn and are the same on any machine."""

SAME_TASK = ("objective", "finetune")
"""Recipe sections in which, beside the encoder, a run must agree with its reference."""

SAME_RUN = (
    *("model", *SAME_TASK, "optimizer", "schedule"),
    *("training.updates", "data.batch_seconds"),
)
"""Settings in which a run must agree with a recipe to be its reference."""


def reference_path(recipe: Path) -> Path:
    """Where the reference of a recipe is kept."""
    return recipe.parent / "reference" / f"{recipe.stem}.jsonl"


def save_reference(exp: Path, recipe: Path) -> Path:
    """Makes the run in ``exp`` the reference of ``recipe``; returns the file.

    Raises ``RunFolderError`` where the run is not finished, was made with other settings, or there
    is a reference already.
    """
    description = RunFolder(exp).description()
    kind = PretrainRecipe if description["kind"] == "pretrain" else FinetuneRecipe
    wanted = to_dict(load_recipe(kind, recipe))  # type: ignore[type-var]
    changed = [
        name
        for name in sorted(differences(wanted, description["recipe"]))
        if name.startswith(SAME_RUN)
    ]
    if not changed and description["init"] is None:
        encoder = to_dict(encoder_settings(wanted["model"]))
        # Another one where a preset or a default has changed since.
        changed = [] if encoder == description["encoder"] else ["encoder"]
    if changed:
        raise RunFolderError(
            f"{exp}: is no run of {recipe} (different: {', '.join(changed[:6])}); give the recipe "
            f"that it was made with."
        )
    series = {split: read_metrics(exp, split) for split in SPLITS}
    updates = wanted["training"]["updates"]
    if not series["train"] or series["train"][-1]["Step"] < updates:
        raise RunFolderError(f"{exp}: is not finished ({updates} updates); let it finish first.")
    path = reference_path(recipe)
    if path.exists():
        raise RunFolderError(f"{path}: exists; remove it to make another reference.")
    header = {
        "recipe": description["recipe"],
        "encoder": description["encoder"],
        "init": description["init"] is not None,
        "seed": description["seed"],
    }
    rows = [{"split": split, **_short(row)} for split in SPLITS for row in _thin(series[split])]
    write_text(path, "".join(f"{json.dumps(row)}\n" for row in [header, *rows]))
    return path


def copy_reference(recipe: Path, exp: Path) -> None:
    """Puts the reference of ``recipe``, where there is one, into the folder of a run of it."""
    path, copy = reference_path(recipe), exp / FILE
    if path.is_file() and not copy.exists():
        write_text(copy, path.read_text(encoding="utf-8"))


def read_reference(exp: Path) -> Series | None:
    """The reference of the run in ``exp``, with updates at which the run has seen as much audio.

    None where there is none, or where it has another encoder or objective or began otherwise.
    """
    path = exp / FILE
    if not path.is_file():
        return None
    header, *rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    description = RunFolder(exp).description()
    same_start = header["init"] == (description["init"] is not None)
    same_task = all(
        header["recipe"].get(name) == description["recipe"].get(name) for name in SAME_TASK
    )
    if not (same_start and same_task and header["encoder"] == description["encoder"]):
        return None
    scale = _batch_seconds(header) / _batch_seconds(description)
    return {
        split: [{**row, "Step": row["Step"] * scale} for row in rows if row["split"] == split]
        for split in SPLITS
    }


def draw_run(exp: Path) -> Path:
    """Draws the curves of the run in ``exp``, with its reference; returns the picture's path."""
    return draw_curves(exp, read_reference(exp))


def _batch_seconds(run: Mapping[str, Any]) -> float:
    return float(run["recipe"]["data"]["batch_seconds"])


def _thin(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most ``REPORTS`` of the rows, evenly spread, the last among them."""
    every = -(-len(rows) // REPORTS) or 1
    return rows[::-1][::every][::-1]


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    """The update and the metrics that are kept, to four digits."""
    kept = {name: float(f"{row[name]:.4g}") for name in sorted(METRICS & row.keys())}
    return {"Step": row["Step"], **kept}
