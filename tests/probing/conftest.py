"""A tiny recogniser with random weights: an encoder to probe, and an aligner."""

from __future__ import annotations

from pathlib import Path

import pytest

from speechssl.models.folder import save_model_folder
from tests.decoding.conftest import TOKENS, random_model


@pytest.fixture(scope="session")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that knows the letters of the ``corpus`` fixture; one layer of 32."""
    path = tmp_path_factory.mktemp("probed") / "model"
    save_model_folder(path, random_model(), tokens=TOKENS)
    return path
