"""A small encoder and recordings with a pattern that every objective can learn."""

from __future__ import annotations

import torch
from torch import Tensor

from speechssl.data.batch import SpeechBatch, collate
from speechssl.frames import HOP_SAMPLES, SAMPLE_RATE, WINDOW_SAMPLES, num_frames
from speechssl.models.encoder import EncoderConfig
from speechssl.models.frontend import FrontendConfig
from speechssl.objectives import build_objective, load_objective
from speechssl.objectives.base import Objective

TONES = (300.0, 700.0, 1500.0, 3000.0)
"""Hertz of the tones; as many clusters as there are tones."""

TONE_SAMPLES = 1600
"""How long each tone sounds before the next (100 ms)."""

VARIANTS: dict[str, dict[str, object]] = {
    "best_rq-refined": {"refinement": {}},
    "clusters-mixing": {"mixing": {"probability": 0.7, "noise_probability": 0.5}},
    "utterance_contrastive-queue": {"queue": 32},
    "vq_vae-gaussian": {"bottleneck": "gaussian"},
}
"""Settings under which an objective is another method, so that it keeps its promises there too;
the name of the objective stands before the hyphen."""

TOY_SIZES = {"entries": 64, "masks": 2}
"""Entries of codebooks and masks per recording, for objectives that have them."""

FRONTENDS = {
    "waveform": FrontendConfig(kind="waveform", channels=32),
    "fbank": FrontendConfig(kind="fbank", mel_bins=40),
}


def toy_encoder(frontend: str = "fbank", kind: str | None = None) -> EncoderConfig:
    """Two narrow layers without dropout; causal if the objective ``kind`` needs that."""
    return EncoderConfig(
        frontend=FRONTENDS[frontend],
        dim=64,
        layers=2,
        heads=2,
        ffn_dim=128,
        norm="pre",
        position_kernel=16,
        position_groups=4,
        dropout=0.0,
        attention_dropout=0.0,
        causal=kind is not None and load_objective(kind.split("-")[0]).needs_causal,
    )


def toy_objective(kind: str, encoder: EncoderConfig) -> Objective:
    """The objective or variant with its defaults, except for sizes that would not suit a toy."""
    name = kind.split("-")[0]
    settings: dict[str, object] = {"kind": name, **VARIANTS.get(kind, {})}
    known = load_objective(name).Config.__dataclass_fields__
    settings |= {size: value for size, value in TOY_SIZES.items() if size in known}
    return build_objective(settings, encoder, len(TONES))


def toy_batch(seconds: tuple[float, ...] = (1.6, 1.4, 1.2, 1.5), seed: int = 0) -> SpeechBatch:
    """Recordings that run through the four tones in turn, each beginning with another tone.

    The target of a frame is the tone in its middle, the transcript the number of the first tone.
    """
    generator = torch.Generator().manual_seed(seed)
    waveforms, targets = [], []
    for index, duration in enumerate(seconds):
        samples = torch.arange(int(duration * SAMPLE_RATE))
        tone = (samples // TONE_SAMPLES + index) % len(TONES)  # [S]
        phase = 2 * torch.pi * torch.tensor(TONES)[tone] * samples / SAMPLE_RATE
        noise = torch.randn(len(samples), generator=generator)
        waveforms.append(0.3 * phase.sin() + 0.01 * noise)
        targets.append(tone[WINDOW_SAMPLES // 2 :: HOP_SAMPLES][: num_frames(len(samples))])
    return collate(waveforms, targets=targets, texts=[f"tone {i}" for i in range(len(seconds))])


def pad(batch: SpeechBatch, frames: int) -> SpeechBatch:
    """``batch`` with that many frames of padding more."""
    assert batch.targets is not None
    return SpeechBatch(
        waveforms=_pad_right(batch.waveforms, frames * HOP_SAMPLES, 0.0),
        lengths=batch.lengths,
        ids=batch.ids,
        texts=batch.texts,
        targets=_pad_right(batch.targets, frames, -1),
    )


def twice(batch: SpeechBatch) -> SpeechBatch:
    """``batch`` concatenated with itself."""
    assert batch.targets is not None
    return SpeechBatch(
        waveforms=torch.cat([batch.waveforms, batch.waveforms]),
        lengths=torch.cat([batch.lengths, batch.lengths]),
        ids=batch.ids * 2,
        texts=batch.texts * 2,
        targets=torch.cat([batch.targets, batch.targets]),
    )


def _pad_right(values: Tensor, columns: int, value: float) -> Tensor:
    return torch.nn.functional.pad(values, (0, columns), value=value)
