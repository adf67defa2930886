"""Small encoders and batches of noise, for comparing objectives with slow versions of them."""

from __future__ import annotations

from dataclasses import replace

import torch

from speechssl.data.batch import SpeechBatch, collate
from speechssl.models.encoder import EncoderConfig
from speechssl.models.frontend import FrontendConfig

FBANK = EncoderConfig(
    FrontendConfig(kind="fbank", mel_bins=20),
    dim=32,
    layers=2,
    heads=2,
    ffn_dim=48,
    norm="pre",
    position_kernel=8,
    position_groups=2,
    dropout=0.0,
    attention_dropout=0.0,
)
"""Filter banks of 20 bands, layer norm before each block, no dropout."""

WAVEFORM = replace(FBANK, frontend=FrontendConfig(channels=16, mel_bins=20))
POST = replace(WAVEFORM, norm="post")


def batch_of(*samples: int, seed: int = 2) -> SpeechBatch:
    """Noise, one recording for each number of samples; reseeds torch."""
    torch.manual_seed(seed)
    return collate([torch.randn(count) for count in samples])
