"""Running the programs in tools/ inside the test process."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="session")
def load_tool() -> Callable[[str], ModuleType]:
    """``load_tool(name)`` is the module of tools/<name>.py."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look there
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def tool(
    load_tool: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """``tool(name, *arguments)`` runs tools/<name>.py; gives exit status, stdout and stderr."""

    def run(name: str | ModuleType, *arguments: Any) -> tuple[int, str, str]:
        module = load_tool(name) if isinstance(name, str) else name
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            module.main.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return int(caught.value.code or 0), printed.out, printed.err

    return run
