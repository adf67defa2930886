"""What the tests of the page share: a tiny recogniser, recordings, and the page with a client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from starlette.applications import Starlette
from starlette.testclient import TestClient

from speechssl.data.text import Tokens
from speechssl.decoding.transcriber import Transcriber
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder
from speechssl.models.folder import save_model_folder
from speechssl.models.presets import encoder_config
from speechssl.serving.app import Limits, make_app
from speechssl.serving.progressive import BATCH_SECONDS
from tests.conftest import speak

TINY = {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 64, "position_kernel": 8}


@pytest.fixture(scope="session")
def transcriber(tmp_path_factory: pytest.TempPathFactory) -> Transcriber:
    """Writes letters at random."""
    torch.manual_seed(0)
    tokens = Tokens.from_texts(["abcdefgh"])
    model = CTCModel(Encoder(encoder_config("tiny", TINY)), len(tokens))
    torch.nn.init.normal_(model.head.weight)
    path = tmp_path_factory.mktemp("babbler") / "model"
    save_model_folder(path, model, tokens=tokens)
    return Transcriber(path, device="cpu", batch_seconds=BATCH_SECONDS)


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with short.wav (2 s) and long.flac (70 s)."""
    folder = tmp_path_factory.mktemp("recordings")
    samples, rate = speak("ada bede cafe dach eche")
    soundfile.write(folder / "short.wav", samples, rate)
    soundfile.write(folder / "long.flac", np.resize(samples, 70 * rate), rate)
    return folder


@pytest.fixture
def limits() -> Limits:
    return Limits(max_mb=2, max_minutes=2)


@pytest.fixture
def app(transcriber: Transcriber, limits: Limits) -> Starlette:
    return make_app(transcriber, "my-model", limits)


@pytest.fixture
def client(app: Starlette) -> Iterator[TestClient]:
    with TestClient(app, base_url="http://localhost:8000") as client:
        yield client
