"""What is timed: the same network, the same batch, for every system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from speechssl.config import unknown_key
from speechssl.data.batch import batches_by_length
from speechssl.errors import ConfigError
from speechssl.frames import SAMPLE_RATE
from speechssl.models.encoder import EncoderConfig
from speechssl.models.presets import encoder_config

Kind = Literal["pretrain", "finetune", "inference", "loading", "start-up"]

PEERS = ("transformers", "torchaudio", "fairseq2")
"""The packages that speechssl is compared with, as imported."""


def is_peer(system: str) -> bool:
    """Whether ``system`` (in the words of ``Case.systems``) is a peer."""
    return system.split()[0] in PEERS


EIGHT_BIT = "speechssl int8"
"""In inference, speechssl with ``--precision int8``: in the rounds of bf16, with its own rows. No
peer has such a setting."""

VOCABULARY = 32
"""Tokens of the CTC outputs, the blank included."""

CLUSTERS = 500
"""Clusters of HuBERT's targets."""

CHARACTERS_PER_SECOND = 12
"""Length of the transcripts in fine-tuning."""


@dataclass(frozen=True)
class Case:
    """One comparison."""

    name: str
    kind: Kind
    systems: tuple[str, ...]
    """Who takes part. The first word is a file in ``systems/``, the rest a variant of it."""

    dtypes: tuple[str, ...]
    """Precisions, the one that matters most first; "" where nothing is computed."""

    rounds: int
    """Timed steps of each system after a first one, if time allows."""

    minutes: float
    """What one precision takes on 2 CPU cores: the share of the time that it gets."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    objective: str = ""
    seconds: tuple[float, ...] = ()
    """Length of each recording: of the batch, or of the corpus."""

    absent: Mapping[str, str] = field(default_factory=dict)
    """Why a peer does not take part."""

    @property
    def samples(self) -> list[int]:
        """Samples of each recording."""
        return [round(seconds * SAMPLE_RATE) for seconds in self.seconds]

    def systems_in(self, dtype: str) -> list[str]:
        """Who takes part in the rounds of a precision."""
        return [system for system in self.systems if system != EIGHT_BIT or dtype == "bf16"]

    @property
    def audio_seconds(self) -> float:
        """Seconds of audio that one step computes, without padding."""
        return sum(self.seconds)


TINY = encoder_config(
    "tiny",
    {
        "frontend": {"kind": "waveform", "channels": 256},
        "squeeze": 1,
        "convolution_kernel": 0,
    },
)
"""The dimensions of the preset as a plain transformer on the waveform, which is what the peers
have: no filter banks, no Conformer layers, no longer frames."""

BASE = encoder_config("base", {"layer_drop": 0.0})

BOTH = ("bf16", "fp32")


def mixed_lengths(number: int) -> tuple[float, ...]:
    """Lengths of recordings to encode: 1 to 15 s, shuffled, 8 s on average. ``number`` has no
    factor of 5."""
    return tuple(1.0 + 14.0 * (5 * i % number) / (number - 1) for i in range(number))


class Size(NamedTuple):
    """What the cases of one size share."""

    encoder: EncoderConfig
    batch: tuple[float, ...]
    """Seconds of each recording in contrastive pretraining; the other training steps, which have
    less of the time, take half of them."""
    files: tuple[float, ...]
    """Seconds of each recording in inference."""
    rounds: int
    recipe: tuple[str, ...]
    """The system that trains the network of the recipes of that size, where it is another one."""


SIZES = {
    "base": Size(BASE, (8.0,) * 4, mixed_lengths(8), 3, ()),
    "tiny": Size(TINY, (3.0,) * 20, mixed_lengths(16), 7, ("speechssl recipe",)),
}


def corpus_seconds(number: int) -> tuple[float, ...]:
    """Lengths of a corpus cut like LibriSpeech: a quarter spread over 2 to 12 s, the rest within
    12 to 16.5 s; 12.5 s on average, at most 16.5 s."""
    places = [(i + 0.5) / number for i in range(number)]
    lengths = [2.0 + 40.0 * p if p < 0.25 else 12.0 + 6.0 * (p - 0.25) for p in places]
    step = next(s for s in range(number // 2 + 1, number + 2) if _coprime(s, number))
    return tuple(round(lengths[i * step % number], 3) for i in range(number))


def _coprime(a: int, b: int) -> bool:
    while b:
        a, b = b, a % b
    return a == 1


def all_cases(quick: bool = False) -> list[Case]:
    """Every case, the one that matters most first; ``quick`` keeps those that are not of base
    size, on a second or two of audio."""
    makers = (_contrastive, _inference, _finetuning, _clusters)
    cases = [make(name, size) for make in makers for name, size in SIZES.items()]
    cases += [
        Case(
            name="data-loading",
            kind="loading",
            systems=("speechssl", "transformers", "fairseq2"),
            absent={"torchaudio": "2.9 reads no audio without torchcodec"},
            dtypes=("fp32",),
            rounds=5,
            minutes=1.2,
            seconds=corpus_seconds(240),
        ),
        Case(
            name="start-up-model",
            kind="start-up",
            systems=("speechssl", *PEERS, "torch"),
            dtypes=("",),
            rounds=5,
            minutes=1.0,
            encoder=TINY,
        ),
        Case(
            name="start-up-help",
            kind="start-up",
            systems=("speechssl transcribe-help",),
            absent=dict.fromkeys(PEERS, "has no such command"),
            dtypes=("",),
            rounds=5,
            minutes=0.2,
        ),
    ]
    return [_quick(case) for case in cases if "base" not in case.name] if quick else cases


def _contrastive(name: str, size: Size) -> Case:
    return _computing(
        size,
        name=f"pretrain-contrastive-{name}",
        kind="pretrain",
        objective="contrastive",
        systems=("speechssl", *size.recipe, "transformers", "fairseq2"),
        absent={"torchaudio": "has no contrastive loss"},
        minutes={"base": 2.8, "tiny": 1.7}[name],
        seconds=size.batch,
    )


def _inference(name: str, size: Size) -> Case:
    return _computing(
        size,
        name=f"inference-{name}",
        kind="inference",
        systems=("speechssl", EIGHT_BIT, "transformers", "transformers one-batch", *PEERS[1:]),
        minutes={"base": 2.6, "tiny": 1.1}[name],
        seconds=size.files,
    )


def _finetuning(name: str, size: Size) -> Case:
    return _computing(
        size,
        name=f"finetune-{name}",
        kind="finetune",
        systems=("speechssl", *size.recipe, *PEERS),
        minutes={"base": 1.7, "tiny": 1.0}[name],
        seconds=size.batch[::2],
    )


def _clusters(name: str, size: Size) -> Case:
    return _computing(
        size,
        name=f"pretrain-clusters-{name}",
        kind="pretrain",
        objective="clusters",
        systems=("speechssl", *size.recipe, "transformers", "torchaudio"),
        absent={"fairseq2": "has no cluster prediction (HuBERT)"},
        minutes={"base": 1.7, "tiny": 1.0}[name],
        seconds=size.batch[::2],
    )


def _computing(size: Size, **more: Any) -> Case:
    """A case that computes with the network of a size, in both precisions."""
    return Case(dtypes=BOTH, rounds=size.rounds, encoder=size.encoder, **more)


def _quick(case: Case) -> Case:
    seconds = {"loading": corpus_seconds(20), "inference": (1.0, 2.0, 1.5), "start-up": ()}
    return replace(case, seconds=seconds.get(case.kind, (1.0, 1.0)), rounds=2, minutes=0.5)


def choose_cases(names: str, quick: bool = False) -> list[Case]:
    """The cases whose names start with one of ``names`` (comma-separated; "all" for all).

    Raises ``ConfigError`` for a name that no case starts with.
    """
    cases = all_cases(quick)
    if names == "all":
        return cases
    starts = [name.strip() for name in names.split(",")]
    for start in starts:
        if not any(case.name.startswith(start) for case in cases):
            raise ConfigError(unknown_key("--cases", start, [case.name for case in cases]))
    return [case for case in cases if case.name.startswith(tuple(starts))]


def waveforms(case: Case) -> list[Tensor]:
    """The recordings of a case, noise of unit variance: [S_i] float32 each, always the same."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(samples, generator=generator) for samples in case.samples]


def transcripts(case: Case) -> Tensor:
    """Tokens [B, L] int64, 1 to VOCABULARY - 1, always the same."""
    generator = torch.Generator().manual_seed(1)
    length = int(CHARACTERS_PER_SECOND * case.seconds[0])
    return torch.randint(1, VOCABULARY, (len(case.seconds), length), generator=generator)


def by_length(lengths: list[int], budget: int) -> list[list[int]]:
    """Places of ``lengths``, longest first, in batches of at most ``budget`` including padding."""
    return [batch.tolist() for batch in batches_by_length(np.array(lengths, np.float64), budget)]
