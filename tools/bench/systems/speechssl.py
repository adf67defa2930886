"""speechssl, as its own training and decoding use it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from speechssl.data.batch import SpeechBatch, collate
from speechssl.frames import SAMPLE_RATE, num_frames
from speechssl.models.encoder import Encoder
from speechssl.models.presets import encoder_config
from tools.bench.cases import CLUSTERS, VOCABULARY, transcripts, waveforms
from tools.bench.systems import (
    BATCH_SECONDS,
    LOADING_SECONDS,
    LOADING_WORKERS,
    Setup,
    Work,
    count,
    padding_share,
)

START_UP = """
from speechssl.models.encoder import Encoder
from speechssl.models.presets import encoder_config
plain = {"frontend": {"kind": "waveform", "channels": 256}, "squeeze": 1, "convolution_kernel": 0}
Encoder(encoder_config("tiny", plain))
"""


def pretrain(setup: Setup) -> Work:
    """The loss of an objective, as ``speechssl pretrain`` computes it.

    The variant "fbank", here and in fine-tuning, is the preset: filter banks in place of the
    convolutions, and a Conformer on 40 ms: another network.
    """
    from speechssl.objectives import build_objective

    config = encoder_config("tiny") if setup.variant == "fbank" else setup.case.encoder
    encoder = Encoder(config)
    objective = build_objective({"kind": setup.case.objective}, config, CLUSTERS)
    batch = _batch(setup)

    def run() -> Tensor:
        loss = objective(encoder, batch)
        return loss.sum / loss.count

    return _work(setup, run, [encoder, objective], "as trained")


def finetune(setup: Setup) -> Work:
    """The CTC loss, as ``speechssl finetune`` computes it once the encoder learns too."""
    from speechssl.data.text import Tokens
    from speechssl.models.ctc import CTCModel
    from speechssl.training.finetuning import FinetuneModel
    from speechssl.training.recipe import FinetuneConfig

    config = encoder_config("tiny") if setup.variant == "fbank" else setup.case.encoder
    encoder = Encoder(config)
    settings = FinetuneConfig()
    tokens = Tokens.from_texts(["letters are not looked at by the loss"])
    model = FinetuneModel(CTCModel(encoder, VOCABULARY, settings.dropout), settings, tokens)
    batch = _batch(setup)

    def run() -> Tensor:
        loss = model(batch)
        return loss.sum / loss.count

    return _work(setup, run, [model], "as trained, convolutions frozen")


def inference(setup: Setup) -> Work:
    """Context vectors of files of mixed length, in the batches that decoding makes and computes."""
    from speechssl.data.loading import sorted_batches
    from speechssl.decoding.at_once import batches_at_once, map_at_once

    encoder = Encoder(setup.case.encoder)
    checked = "random weights"
    if (setup.folder / "weights.safetensors").is_file():
        agreement = load_transformers_weights(encoder, setup.folder)
        checked = f"transformers' weights, outputs agree to {agreement:.0e}"
    recordings = waveforms(setup.case)
    files = [_File(str(i), len(recording) / SAMPLE_RATE) for i, recording in enumerate(recordings)]
    seconds = BATCH_SECONDS[setup.device.type]
    batches = []
    for group in sorted_batches(files, seconds):
        batch = collate([recordings[int(file.id)] for file in group])
        batch.to(setup.device)
        batches.append(batch)

    at_once = batches_at_once(setup.device, len(batches))

    def run() -> None:
        bf16 = torch.is_autocast_enabled(setup.device.type)

        @torch.inference_mode()
        def encode(batch: SpeechBatch) -> None:
            with torch.autocast(setup.device.type, torch.bfloat16, enabled=bf16):
                encoder(batch.waveforms, batch.lengths)

        for _ in map_at_once(encode, batches, at_once):
            pass

    settings = f"sorted_batches of {seconds:g} s, {at_once} at a time; {checked}"
    return Work(run, settings, [encoder], list(encoder.layers), _weights(encoder))


def loading(setup: Setup) -> Work:
    """One epoch of batches, read by threads."""
    from speechssl.data.index import Cuts
    from speechssl.data.loading import BatchLoader, CutLoader, epoch_batches
    from speechssl.training.recipe import DataConfig

    cuts = Cuts.open(setup.folder / "corpus" / "cuts.jsonl.gz")
    noise = DataConfig().length_noise
    loader = BatchLoader(CutLoader(), total_cuts=len(cuts), threads=LOADING_WORKERS)
    epochs = itertools.count()

    def run() -> float:
        batches = epoch_batches(
            cuts.durations,
            batch_seconds=LOADING_SECONDS,
            length_noise=noise,
            seed=0,
            epoch=next(epochs),
        )
        return padding_share(
            (batch.waveforms.numel(), int(batch.lengths.sum()))
            for batch in loader.load((cuts.select(places), 0) for places in batches)
        )

    return Work(run, f"epoch_batches and BatchLoader, {LOADING_WORKERS} threads")


class _File(NamedTuple):
    """What ``sorted_batches`` asks of a cut."""

    id: str
    duration: float


def _batch(setup: Setup) -> SpeechBatch:
    generator = torch.Generator().manual_seed(2)
    recordings = waveforms(setup.case)
    targets = [
        torch.randint(CLUSTERS, (num_frames(len(recording)),), generator=generator)
        for recording in recordings
    ]
    batch = collate(recordings, targets=targets, tokens=transcripts(setup.case).tolist())
    batch.to(setup.device)
    return batch


def _work(setup: Setup, run: Callable[[], Tensor], modules: list[nn.Module], note: str) -> Work:
    encoder = next(m for module in modules for m in module.modules() if isinstance(m, Encoder))
    layers = list(encoder.layers)
    if setup.variant != "fbank":
        return Work(run, note, modules, layers, _weights(encoder))
    note = "as trained, filter banks for convolutions"
    return Work(run, note, modules, layers, _weights(encoder), network=encoder.config)


def _weights(encoder: Encoder) -> int:
    return count(encoder) - encoder.mask_embedding.numel()


def load_transformers_weights(encoder: Encoder, folder: Path) -> float:
    """Fills ``encoder`` from the run's weights and compares outputs on one recording, in float32.

    Returns the largest difference, relative to the largest output. Raises ``ValueError`` where it
    is above 1e-3.
    """
    from safetensors.torch import load_file

    from speechssl.interop.conversion import Ours, fill_from_theirs
    from speechssl.interop.transformers.layout import renames

    weights = load_file(folder / "weights.safetensors")
    waveform, expected = weights.pop("check.waveform"), weights.pop("check.context")
    names = renames("Wav2Vec2Model")
    fill_from_theirs(Ours(encoder), names, weights, "weights.safetensors", "the case's settings")
    with torch.inference_mode():
        encoder.eval()
        context, _ = encoder(waveform, torch.tensor([waveform.shape[1]]))
    difference = float((context - expected).abs().max() / expected.abs().max())
    if not difference < 1e-3:
        raise ValueError(f"outputs differ from those of transformers by {difference:.1e}")
    return difference
