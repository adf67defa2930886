"""No training step may make the host wait for the device.

The step runs on the ``meta`` device, whose tensors have shapes but no values: asking for a number
(``item``, ``int``, ``if tensor``), for a shape that depends on values (boolean masks, ``nonzero``)
or for a copy back raises. ``NoBlockingCopies`` adds what a copy the other way must not do. With a
GPU, torch's own detector watches the same steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from speechssl.data.batch import SpeechBatch
from speechssl.data.text import Tokens
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder
from speechssl.objectives import objective_names
from speechssl.objectives.base import Loss
from speechssl.training.finetuning import FinetuneModel
from speechssl.training.metrics import MetricSums, loss_metrics, silent_recordings
from speechssl.training.pretraining import PretrainModel
from speechssl.training.recipe import FinetuneConfig
from tests.contracts.toys import FRONTENDS, VARIANTS, toy_batch, toy_encoder, toy_objective

META = torch.device("meta")
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
every_objective = pytest.mark.parametrize("kind", [*objective_names(), *VARIANTS])
every_frontend = pytest.mark.parametrize("frontend", FRONTENDS)


LENGTHS_ON_THE_HOST = (
    torch.ops.aten._ctc_loss.Tensor,
    torch.ops.aten._ctc_loss_backward.Tensor,
)
"""Operators that want some of their tensors on the CPU."""


class NoBlockingCopies(TorchDispatchMode):
    """Refuses copies from the CPU for which the host would wait, and those made unasked when an
    operator gets tensors of both."""

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        on_device = any(tensor.device.type == "meta" for tensor in tensors)
        on_host = any(tensor.device.type == "cpu" and tensor.dim() > 0 for tensor in tensors)
        if operator is torch.ops.aten._to_copy.default:
            to_device = kwargs.get("device") == META
            assert not (on_host and to_device) or kwargs.get("non_blocking"), "a copy blocks"
        elif operator not in LENGTHS_ON_THE_HOST:
            assert not (on_device and on_host), f"{operator} mixes tensors of host and device"
        return operator(*args, **kwargs)


@pytest.fixture
def no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out autocast, which knows no meta device."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)


@pytest.fixture
def ctc_shapes() -> Iterator[None]:
    """Tells the meta device the shapes of CTC's results, which torch does not."""
    library = torch.library.Library("aten", "IMPL", "Meta")

    def ctc_loss(log_probs: Tensor, targets: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        frames, batch, _ = log_probs.shape
        alpha = log_probs.new_empty(batch, frames, 2 * targets.shape[1] + 1)
        return log_probs.new_empty(batch), alpha

    library.impl("_ctc_loss.Tensor", ctc_loss)
    library.impl("_ctc_loss_backward.Tensor", lambda _, log_probs, *__: torch.empty_like(log_probs))
    yield
    library._destroy()


def pretrain_model(kind: str, frontend: str) -> nn.Module:
    config = toy_encoder(frontend, kind)
    return PretrainModel(Encoder(config), toy_objective(kind, config))


def finetune_model(frontend: str) -> tuple[nn.Module, SpeechBatch]:
    """A recogniser with every kind of masking, and a batch with transcripts."""
    tokens = Tokens.from_texts(["ab"])
    model = CTCModel(Encoder(toy_encoder(frontend)), len(tokens), dropout=0.1)
    settings = FinetuneConfig(speeds=(0.9, 1.1), freeze_frontend=False)
    batch = toy_batch()
    batch.tokens = torch.tensor([tokens.encode("ab")] * 4)
    batch.token_lengths = torch.full((4,), 2)
    batch.ctc_frames = torch.full((4,), 2)
    return FinetuneModel(model, settings, tokens), batch


def step(model: nn.Module, batch: SpeechBatch, device: torch.device) -> Loss:
    """What an update does with one batch: schedules and teacher, move, loss, metrics, backward."""
    batch.to(device)
    model.set_progress(0.1)  # type: ignore[operator]
    loss: Loss = model(batch)
    MetricSums().update({**loss_metrics(loss), "silence_share": silent_recordings(batch)})
    loss.sum.backward()
    return loss


@every_objective
@every_frontend
def test_an_objective_asks_the_device_for_nothing(
    kind: str, frontend: str, no_autocast: None
) -> None:
    model = pretrain_model(kind, frontend).to(META)
    with NoBlockingCopies():
        loss = step(model, toy_batch(), META)
    assert loss.sum.device == META
    assert loss.count > 0
    assert all(parameter.grad is not None for parameter in model.parameters())


@every_frontend
def test_fine_tuning_asks_the_device_for_nothing(
    frontend: str, no_autocast: None, ctc_shapes: None
) -> None:
    model, batch = finetune_model(frontend)
    model.to(META)
    with NoBlockingCopies():
        loss = step(model, batch, META)
    assert loss.sum.device == META
    assert loss.count == 8


@pytest.mark.parametrize(
    "wait",
    [
        lambda values: values.sum().item(),
        lambda values: values[values > 0],
        lambda values: values.nonzero(),
        lambda values: bool(values.any()),
        lambda values: values.cpu(),
        lambda values: values + torch.ones(3).to(META),
        lambda values: values[torch.tensor([0, 2])],
    ],
    ids=["item", "mask", "nonzero", "if", "cpu", "blocking-copy", "index-from-the-cpu"],
)
def test_these_tests_notice_a_wait(wait: Any) -> None:
    values = torch.ones(3, device=META)
    with NoBlockingCopies(), pytest.raises((RuntimeError, AssertionError)):
        wait(values)


@on_a_gpu
@every_objective
@every_frontend
def test_an_objective_never_waits_for_a_gpu(kind: str, frontend: str) -> None:
    device = torch.device("cuda")
    model = pretrain_model(kind, frontend).to(device)
    step(model, toy_batch(), device)  # the first step sets up libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = step(model, toy_batch(), device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.sum.isfinite()
