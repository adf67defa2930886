"""How each system does the work of a case: one file per system, all with the same functions.

``pretrain(setup)``, ``finetune(setup)``, ``inference(setup)`` and ``loading(setup)`` each return
the ``Work`` of a case; ``START_UP`` is a program that imports the system and builds the tiny
model. Each system is given what its own training code would give it, with the same dimensions and
the same dropout, and without layer drop, so that every step computes every layer.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from speechssl.frames import SAMPLE_RATE
from speechssl.models.encoder import EncoderConfig
from speechssl.models.frontend import CONV_KERNELS, CONV_STRIDES
from tools.bench.cases import Case

BATCH_SECONDS = {"cpu": 15.0, "cuda": 120.0}
"""Seconds of audio (with padding) in one batch of encoder inference, where a system sorts by
length. On a CPU all systems are fastest with batches that hardly need padding."""

LOADING_SECONDS = 60.0
"""Seconds of audio in one batch of data loading."""

LOADING_WORKERS = 2
"""Threads or processes that read audio."""


@dataclass(frozen=True)
class Setup:
    """What a worker is asked to do."""

    case: Case
    variant: str
    """The rest of the system's name: "" or e.g. "recipe"."""
    device: torch.device
    folder: Path
    """What the run prepared: ``corpus/`` and the cases' ``weights``."""

    @property
    def weights(self) -> Path:
        """What transformers and speechssl both compute with in inference."""
        return weights_file(self.folder, self.case)


@dataclass
class Work:
    """What one step of a system is."""

    run: Callable[[], Any]
    """Training: returns the loss. Inference: returns nothing of interest. Loading: reads the
    corpus once and returns the share of padding."""

    settings: str
    """What was chosen for this system, for the table."""

    modules: list[nn.Module] = field(default_factory=list)
    """What holds parameters; moved to the device, and in training set to training mode."""

    to_compile: list[nn.Module] = field(default_factory=list)
    """What torch.compile is tried on: the transformer layers, or the model where that works."""

    encoder_weights: int = 0
    """Numbers in the encoder (mask embedding and heads not counted): all systems must agree."""

    network: EncoderConfig | None = None
    """The encoder, where it is not the case's."""

    compiles: bool = False
    """Whether the system itself compiles for the first shape of batch that it meets, and again for
    the second, then for all."""


def weights_file(folder: Path, case: Case) -> Path:
    """Where a run keeps the weights of a case."""
    return folder / f"{case.name}.safetensors"


def load_system(name: str) -> Any:
    """The file in this folder that the first word of ``name`` names."""
    return importlib.import_module(f"{__name__}.{name.split()[0]}")


def count(*modules: nn.Module) -> int:
    """Numbers in the parameters of modules."""
    return sum(p.numel() for module in modules for p in module.parameters())


def conv_layers(channels: int) -> list[tuple[int, int, int]]:
    """(channels, kernel, stride) of each convolution, as torchaudio and fairseq2 want them."""
    return [(channels, kernel, stride) for kernel, stride in zip(CONV_KERNELS, CONV_STRIDES)]


def corpus_files(folder: Path) -> list[tuple[str, float]]:
    """(file, seconds) of every cut of the run's corpus, for systems that know no manifests.

    Raises ``ValueError`` where a cut is not a whole file of 16 kHz.
    """
    from speechssl.data.manifest import load_cuts

    files = []
    for cut in load_cuts(folder / "corpus" / "cuts.jsonl.gz"):
        recording = cut.recording
        whole = cut.start == 0 and abs(cut.duration - recording.duration) < 1e-3
        if not whole or recording.sampling_rate != SAMPLE_RATE or len(recording.sources) != 1:
            raise ValueError(f"cut {cut.id} is not a whole 16 kHz file; give a corpus of such")
        files.append((recording.sources[0].source, cut.duration))
    return files


def padding_share(batches: Iterable[tuple[int, int]]) -> float:
    """Share of padding over (samples with padding, samples without) of each batch."""
    padded = real = 0
    for with_padding, without in batches:
        padded, real = padded + with_padding, real + without
    return 1.0 - real / max(1, padded)
