"""What the tests of the commands share: a tiny recogniser, and running a command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from speechssl.cli.main import group
from speechssl.data.text import Tokens
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder
from speechssl.models.folder import save_model_folder
from speechssl.models.presets import encoder_config

TINY = {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 64, "position_kernel": 8}


@pytest.fixture(scope="session")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights that knows the letters of the ``corpus`` fixture."""
    torch.manual_seed(0)
    tokens = Tokens.from_texts(["abcdefgh"])
    model = CTCModel(Encoder(encoder_config("tiny", TINY)), len(tokens))
    torch.nn.init.normal_(model.head.weight)  # random text instead of one token everywhere
    path = tmp_path_factory.mktemp("recogniser") / "model"
    save_model_folder(path, model, tokens=tokens, info={"updates": 7, "recipe": "by hand"})
    return path


@pytest.fixture
def speechssl() -> Callable[..., Result]:
    """Runs ``speechssl`` with the given arguments; results have stdout, stderr, exit_code."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(group, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def fails(speechssl: Callable[..., Result]) -> Callable[..., str]:
    """Runs a command that must fail as users' mistakes do; returns the one line on stderr."""

    def run(*arguments: object) -> str:
        result = speechssl(*arguments)
        assert result.exit_code == 2, result.output
        assert result.stderr.count("\n") == 1, result.stderr
        assert result.stderr.startswith("error: ")
        assert "Traceback" not in result.output
        return result.stderr

    return run
