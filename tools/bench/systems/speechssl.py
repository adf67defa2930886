"""speechssl, as its own training and decoding use it."""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from speechssl.data.batch import SpeechBatch, collate
from speechssl.frames import SAMPLE_RATE, num_frames
from speechssl.models.encoder import Encoder
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

ROOT = Path(__file__).parents[3]
"""The checkout, which has the recipes."""

START_UP = """
from speechssl.models.encoder import Encoder
from speechssl.models.presets import encoder_config
plain = {"frontend": {"kind": "waveform", "channels": 256}, "squeeze": 1, "convolution_kernel": 0}
Encoder(encoder_config("tiny", plain))
"""


def pretrain(setup: Setup) -> Work:
    """The loss of an objective, as ``speechssl pretrain`` computes it.

    The variant "recipe", here and in fine-tuning, has the encoder, masks and dropout of the tiny
    recipe, which is another network than the peers'.
    """
    from speechssl.objectives import build_objective
    from speechssl.training.recipe import PretrainRecipe, encoder_settings, load_recipe

    kind, note = setup.case.objective, ""
    config, settings = setup.case.encoder, {"kind": kind}
    if setup.variant == "recipe":
        note = f"recipes/{kind}_tiny.yaml"
        recipe = load_recipe(PretrainRecipe, ROOT / note)
        config, settings = encoder_settings(recipe.model), recipe.objective
    encoder = Encoder(config)
    objective = build_objective(settings, config, CLUSTERS)
    batch = _batch(setup, targets=_clusters(setup))

    def run() -> Tensor:
        loss = objective(encoder, batch)
        return loss.sum / loss.count

    return _work(setup, run, [encoder, objective], note or "as trained")


def finetune(setup: Setup) -> Work:
    """The CTC loss, as ``speechssl finetune`` computes it once the encoder learns too.

    The variant "recipe" also changes the recordings' speed and start, and computes the loss of the
    encoder's lower half: parts of its step. Each recording is computed once, as the peers do;
    ``consistency`` would compute it twice.
    """
    from speechssl.data.text import Tokens
    from speechssl.models.ctc import CTCModel
    from speechssl.training.finetuning import FinetuneModel
    from speechssl.training.recipe import (
        FinetuneConfig,
        FinetuneRecipe,
        encoder_settings,
        load_recipe,
    )

    note = "as trained, convolutions frozen"
    config, settings = setup.case.encoder, FinetuneConfig()
    if setup.variant == "recipe":
        note = "recipes/ctc_tiny.yaml"
        recipe = load_recipe(FinetuneRecipe, ROOT / note)
        config, settings = encoder_settings(recipe.model), replace(recipe.finetune, consistency=0.0)
        note += " without consistency"
    encoder = Encoder(config)
    tokens = Tokens.from_texts([string.printable[: VOCABULARY - 2]])  # and blank and space
    model = FinetuneModel(CTCModel(encoder, len(tokens), settings.dropout), settings, tokens)
    batch = _batch(setup, tokens=transcripts(setup.case).tolist())

    def run() -> Tensor:
        loss = model(batch)
        return loss.sum / loss.count

    return _work(setup, run, [model], note)


def inference(setup: Setup) -> Work:
    """Context vectors of files of mixed length, in the batches that decoding makes and computes;
    in the variant "int8" with the large products in 8 bits."""
    from speechssl.data.loading import sorted_batches
    from speechssl.decoding.at_once import batches_at_once, map_at_once
    from speechssl.models.quantization import quantize

    encoder = Encoder(setup.case.encoder)
    checked = "random weights"
    if setup.weights.is_file():
        agreement = load_transformers_weights(encoder, setup.weights)
        checked = f"transformers' weights, outputs agree to {agreement:.0e}"
    weights = _weights(encoder)
    if setup.variant == "int8":
        quantize(encoder)
        checked += ", then quantized"
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
    return Work(run, settings, [encoder], list(encoder.layers), weights)


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


def _batch(setup: Setup, **labels: Any) -> SpeechBatch:
    """The recordings of the case with the labels that its step needs, see ``collate``."""
    batch = collate(waveforms(setup.case), **labels)
    batch.to(setup.device)
    return batch


def _clusters(setup: Setup) -> list[Tensor]:
    """A cluster drawn for each frame of each recording."""
    generator = torch.Generator().manual_seed(2)
    counts = [num_frames(len(recording)) for recording in waveforms(setup.case)]
    return [torch.randint(CLUSTERS, (count,), generator=generator) for count in counts]


def _work(setup: Setup, run: Callable[[], Tensor], modules: list[nn.Module], note: str) -> Work:
    encoder = next(m for module in modules for m in module.modules() if isinstance(m, Encoder))
    layers = list(encoder.layers)
    config = encoder.config
    body = "Conformer" if config.convolution_kernel else "transformer"
    note = f"{config.frontend.kind}, {body} on {20 * config.squeeze} ms; {note}"
    network = None if config == setup.case.encoder else config
    return Work(run, note, modules, layers, _weights(encoder), network)


def _weights(encoder: Encoder) -> int:
    return count(encoder) - encoder.mask_embedding.numel()


def load_transformers_weights(encoder: Encoder, file: Path) -> float:
    """Fills ``encoder`` from a case's weights and compares outputs on one recording, in float32.

    Returns the largest difference, relative to the largest output. Raises ``ValueError`` where it
    is above 1e-3.
    """
    from safetensors.torch import load_file

    from speechssl.interop.conversion import Ours, fill_from_theirs
    from speechssl.interop.transformers.layout import renames

    weights = load_file(file)
    waveform, expected = weights.pop("check.waveform"), weights.pop("check.context")
    names = renames("Wav2Vec2Model")
    fill_from_theirs(Ours(encoder), names, weights, file.name, "the case's settings")
    with torch.inference_mode():
        encoder.eval()
        context, _ = encoder(waveform, torch.tensor([waveform.shape[1]]))
    difference = float((context - expected).abs().max() / expected.abs().max())
    if not difference < 1e-3:
        raise ValueError(f"outputs differ from those of transformers by {difference:.1e}")
    return difference
