"""What is done to a model before training: compiling its layers, and what cannot be done. And what
a process says that waits for another in vain."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq2.recipe.config import PolynomialDecayLRConfig
from torch.utils._pytree import tree_leaves

from speechssl.errors import ConfigError, RunFolderError
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.objectives import build_objective
from speechssl.objectives.base import Loss
from speechssl.training.engine import (
    _explained,
    _lr_scheduler,
    check_training,
    compile_layers,
)
from speechssl.training.pretraining import PretrainModel
from speechssl.training.recipe import DataConfig, OptimizerConfig, ScheduleConfig, TrainingConfig
from tests.contracts.toys import TONES, toy_batch, toy_encoder


def steps(kind: str, device: str, **options: Any) -> tuple[list[Loss], PretrainModel]:
    """Losses of two batches of different sizes, and the model with its gradients; the layers are
    compiled if there are options."""
    torch.manual_seed(0)
    config = toy_encoder()
    objective = build_objective({"kind": kind}, config, len(TONES))
    model = PretrainModel(Encoder(config), objective).to(device)
    model.set_progress(0.0)
    if options:
        compile_layers(model, **options)
    losses = []
    for batch in (toy_batch(), toy_batch((1.0, 0.7))):
        torch.manual_seed(1)
        batch.to(torch.device(device))
        losses.append(model(batch))
        losses[-1].sum.backward()
    return losses, model


def assert_compiled_equals_eager(kind: str, device: str, **options: Any) -> None:
    losses, model = steps(kind, device)
    compiled_losses, compiled = steps(kind, device, **options)
    for one, other in zip(losses, compiled_losses):
        torch.testing.assert_close(other.sum, one.sum, rtol=1e-4, atol=0)
    gradients = dict(model.named_parameters())
    for name, parameter in compiled.named_parameters():
        expected = gradients[name].grad
        assert parameter.grad is not None
        assert expected is not None
        difference = float((parameter.grad - expected).norm())
        assert difference <= 1e-4 * float(expected.norm()) + 1e-5, name


@pytest.mark.parametrize("kind", ["clusters", "distillation"])
def test_layers_compile_as_a_whole_and_for_all_sizes(kind: str) -> None:
    """Without the code generator (inductor), which takes minutes on a CPU."""
    assert_compiled_equals_eager(kind, "cpu", dynamic=True, fullgraph=True, backend="aot_eager")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_compiled_layers_equal_eager_ones_on_a_gpu() -> None:
    assert_compiled_equals_eager("clusters", "cuda", dynamic=True)


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    check_training(TrainingConfig(), DataConfig(), EncoderConfig())
    with pytest.raises(ConfigError, match=r"no 'no-such-compiler' here.*CXX") as caught:
        check_training(TrainingConfig(compile=True), DataConfig(), EncoderConfig())
    assert "\n" not in str(caught.value)


def test_sharding_needs_all_processes_in_the_same_layers() -> None:
    sharded, data = TrainingConfig(data_parallel="fsdp"), DataConfig()
    check_training(sharded, data, EncoderConfig(layer_drop=0.0))
    with pytest.raises(ConfigError, match=r"fsdp needs model\.layer_drop=0"):
        check_training(sharded, data, EncoderConfig(layer_drop=0.05))


@pytest.mark.parametrize(("warmup", "updates", "steps"), [(0.1, 40, 4), (0.95, 2, 1), (0.1, 1, 0)])
def test_a_warmup_leaves_an_update_at_the_peak(warmup: float, updates: int, steps: int) -> None:
    section = _lr_scheduler(ScheduleConfig(warmup=warmup), OptimizerConfig(), updates)
    assert isinstance(section.config, PolynomialDecayLRConfig)
    assert section.config.num_warmup_steps == steps


def test_fsdp_finds_the_loss_in_what_a_model_returns() -> None:
    """FSDP looks with ``tree_leaves``; it reduces no gradients if all layers are frozen and it
    does not see the tensor where the backward pass begins."""
    total = torch.ones((), requires_grad=True)
    leaves = tree_leaves(Loss(total, 3, {"accuracy": (torch.ones(()), 3)}))
    assert any(leaf is total for leaf in leaves)


WAITING = """
import sys
from datetime import timedelta
import torch
from torch import distributed

meeting, rank = sys.argv[1], int(sys.argv[2])
distributed.init_process_group("gloo", init_method=f"file://{meeting}", world_size=2, rank=rank)
both = distributed.new_group(timeout=timedelta(seconds=2))
if rank == 0:
    try:
        distributed.all_reduce(torch.ones(1), group=both)
    except RuntimeError as error:
        sys.exit(str(error))
else:
    sys.stdin.read()
"""


def test_a_process_that_does_not_answer_is_named(tmp_path: Path) -> None:
    """Suspended by hand, for one; the process that waits for it says so."""
    start = [sys.executable, "-c", WAITING, str(tmp_path / "meeting")]
    with subprocess.Popen([*start, "1"], stdin=subprocess.PIPE) as silent:
        waiting = subprocess.run([*start, "0"], stderr=subprocess.PIPE, text=True)
        silent.kill()
    explained = _explained(RuntimeError(waiting.stderr), Path("exp"))
    assert isinstance(explained, RunFolderError), waiting.stderr
    assert "another process of the run" in str(explained)
    assert "has not answered in time" in str(explained)
