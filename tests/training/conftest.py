"""A model so small that a training run takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from speechssl.config import write_yaml

MICRO_MODEL = {
    "preset": "tiny",
    "dim": 32,
    "layers": 2,
    "heads": 2,
    "ffn_dim": 64,
    "position_kernel": 8,
    "position_groups": 2,
}

DATA = {
    "batch_seconds": 8,
    "forward_seconds": 4,
    "max_seconds": 4,
    "threads": 1,
}

TRAINING = {"updates": 8, "log_every": 1, "validate_every": 4}


@pytest.fixture
def pretrain_recipe(tmp_path: Path) -> Path:
    """Cluster prediction on a micro encoder: 8 updates of 2 forward passes."""
    recipe = {
        "model": MICRO_MODEL,
        "objective": {"kind": "clusters", "projection_size": 16},
        "data": DATA,
        "optimizer": {"lr": 1e-3},
        "training": TRAINING,
    }
    path = tmp_path / "pretrain.yaml"
    path.write_text(write_yaml(recipe))
    return path


@pytest.fixture
def finetune_recipe(tmp_path: Path) -> Path:
    """CTC on the same encoder: 8 updates."""
    recipe = {
        "model": MICRO_MODEL,
        "finetune": {"time_mask": 0.1, "time_mask_span": 4, "channel_mask": 0.0},
        "data": DATA,
        "optimizer": {"lr": 2e-3},
        "training": TRAINING,
    }
    path = tmp_path / "finetune.yaml"
    path.write_text(write_yaml(recipe))
    return path
