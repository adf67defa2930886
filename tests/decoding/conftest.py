"""Tiny recognisers with random weights, for tests that need some text and not the right one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from speechssl.data.text import Tokens
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder
from speechssl.models.folder import save_model_folder
from speechssl.models.presets import encoder_config

TINY = {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 64, "position_kernel": 8}

TOKENS = Tokens.from_texts(["abcdefgh"])
"""The letters of the ``corpus`` fixture."""


def random_model(**changes: object) -> CTCModel:
    """A recogniser of ``TOKENS`` that writes letters at random."""
    torch.manual_seed(0)
    model = CTCModel(Encoder(encoder_config("tiny", {**TINY, **changes})), len(TOKENS))
    torch.nn.init.normal_(model.head.weight)
    return model


@pytest.fixture(scope="session")
def babbler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights."""
    path = tmp_path_factory.mktemp("babbler") / "model"
    save_model_folder(path, random_model(), tokens=TOKENS)
    return path


@pytest.fixture(scope="session")
def near_sighted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recogniser that sees a few frames around each frame and is silent in silence.

    Its attention adds nothing, no statistics are taken over the recording, and the blank is
    recognised by what the encoder makes of digital silence.
    """
    model = random_model(
        frontend={"kind": "waveform", "channels": 16, "norm": "layer"},
        squeeze=2,
        convolution_kernel=0,
        position_kernel=4,
    )
    for name, weight in model.named_parameters():
        if "attention" in name:
            torch.nn.init.zeros_(weight)
    with torch.no_grad():
        silence, _ = model.eval().encoder(torch.zeros(1, 16_000), torch.tensor([16_000]))
        typical = silence[0, 24:26]  # [2, D]: frames are computed in pairs, and differ
        model.head.weight[0] = torch.linalg.lstsq(typical, torch.full((2, 1), 20.0)).solution[:, 0]
        model.head.bias[0] = 0.0
    path = tmp_path_factory.mktemp("near-sighted") / "model"
    save_model_folder(path, model, tokens=TOKENS)
    return path
