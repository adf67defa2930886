"""The outputs of both sides for the probe recordings (see ``speechssl.interop.certificate``).

torchaudio's network is compared without what its pipelines put around it: they normalise a batch
of waveforms as one, with another constant; here each recording is normalised by itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.data.batch import PADDING_TARGET, SpeechBatch
from speechssl.errors import CheckpointError
from speechssl.frames import num_frames
from speechssl.interop.certificate import Certificate, compare, probe
from speechssl.interop.conversion import Ours, outputs, pads, probe_note, real_frames
from speechssl.models.ctc import CTCModel
from speechssl.models.frontend import normalize_waveforms
from speechssl.objectives.base import real_frames as is_real
from speechssl.objectives.clusters import Clusters

LIBRARY = f"torchaudio {torchaudio.__version__}"


@torch.no_grad()
def certify(ours: Ours, network: nn.Module, tensors: Mapping[str, Tensor]) -> Certificate:
    """Compares our model with torchaudio's ``network`` filled with ``tensors``, on the probe
    recordings. Raises ``CheckpointError`` where they disagree, or the tensors do not fit."""
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:200].rstrip(". ")
        raise CheckpointError(f"torchaudio cannot load these weights ({problem}).") from None
    batch, draws = probe(), {}
    if isinstance(ours.objective, Clusters):
        batch = dataclasses.replace(batch, targets=_targets(batch, ours.objective))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            draws = ours.objective.draw(batch)
    # torchaudio's WavLM refuses lengths.
    padded = pads(ours.encoder.config) and ours.encoder.relative is None
    found = outputs(ours, batch, draws)
    rows = list(range(len(batch.lengths)))
    groups = [rows] if padded else [[row] for row in rows]
    pieces = [_their_outputs(ours, network, batch, draws, group, padded) for group in groups]
    theirs = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
    if draws:
        theirs["loss"] = theirs["loss"].sum() / int(draws["mask"].sum())
    return compare(found, theirs, LIBRARY, probe_note(batch, "torchaudio", padded))


def _their_outputs(
    ours: Ours,
    network: Any,
    batch: SpeechBatch,
    draws: Mapping[str, Tensor],
    rows: list[int],
    padded: bool,
) -> dict[str, Tensor]:
    """The outputs for some of the recordings; the loss [1] is a sum."""
    lengths = batch.lengths[rows]
    waveforms = batch.waveforms[rows, : int(lengths.max())]
    if ours.encoder.config.frontend.normalize_waveform:
        waveforms = normalize_waveforms(waveforms, lengths)
    counts, told = num_frames(lengths), lengths if padded else None
    with _hidden_states(getattr(network, "wav2vec2", network)) as states:
        if batch.targets is None or not draws:
            logits, loss = network(waveforms, told)[0], None
        else:
            width = int(counts.max())
            loss = given_mask_loss(
                network, waveforms, batch.targets[rows, :width], told, draws["mask"][rows, :width]
            )
    found = {f"layer {i}": real_frames(state, counts) for i, state in enumerate(states)}
    if isinstance(ours.model, CTCModel):
        found["log-probabilities"] = real_frames(logits.log_softmax(-1)[..., ours.order], counts)
    if loss is not None:
        found["loss"] = loss[None]
    return found


def given_mask_loss(
    network: Any, waveforms: Tensor, targets: Tensor, lengths: Tensor | None, mask: Tensor
) -> Tensor:
    """torchaudio's HuBERT loss, summed over masked frames, where ``mask`` [B, T] is given.

    ``network`` is a ``HuBERTPretrainModel``, which otherwise draws a mask of its own.
    """
    drawing = network.mask_generator
    network.mask_generator = _GivenMask(drawing.mask_embedding, mask)
    try:
        logits, _, _ = network(waveforms, targets, lengths)  # [M, 1 + K], the true cluster first
    finally:
        network.mask_generator = drawing
    return F.cross_entropy(logits, logits.new_zeros(len(logits)).long(), reduction="sum")


class _GivenMask(nn.Module):
    """In place of torchaudio's ``MaskGenerator``."""

    def __init__(self, mask_embedding: Tensor, mask: Tensor) -> None:
        super().__init__()
        self.mask_embedding = mask_embedding
        self.mask = mask

    def forward(self, inputs: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        return torch.where(self.mask[:, :, None], self.mask_embedding, inputs), self.mask


@contextmanager
def _hidden_states(network: Any) -> Iterator[list[Tensor]]:
    """Collects the input of the first layer, the output of each but the last, and the context."""
    states: list[Tensor] = []
    transformer = network.encoder.transformer

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        states.append(inputs[0])

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        states.append(output)

    hooks = [layer.register_forward_pre_hook(before) for layer in transformer.layers]
    hooks.append(transformer.register_forward_hook(after))
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


def _targets(batch: SpeechBatch, objective: Clusters) -> Tensor:
    """Clusters in turn. [B, T] int64, ``PADDING_TARGET`` behind ends."""
    counts = num_frames(batch.lengths)
    width = int(counts.max())
    targets = torch.arange(len(counts) * width) % len(objective.cluster_embeddings)
    return targets.view(-1, width).masked_fill(~is_real(counts, width), PADDING_TARGET)
