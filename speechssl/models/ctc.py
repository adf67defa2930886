"""A recogniser: the encoder with a linear output over tokens, trained by CTC.

Source: connectionist temporal classification (Graves et al., 2006).
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from speechssl.config import require
from speechssl.models.dropout import Dropout
from speechssl.models.encoder import Encoder

BLANK_SHARE = 0.75
"""Probability of the blank before training: about the share of frames that it has afterwards
(speech has 10 to 15 characters per second and 50 frames). From equal probabilities, training
would first spend its steps on learning this."""


class CTCModel(nn.Module):
    """Waveforms to log-probabilities of V tokens in every frame; token 0 is the CTC blank."""

    def __init__(self, encoder: Encoder, vocabulary_size: int, dropout: float = 0.0) -> None:
        """Raises ``ConfigError`` when ``vocabulary_size`` or ``dropout`` is out of range."""
        super().__init__()
        require(vocabulary_size > 1, "vocabulary_size", "at least 2", vocabulary_size)
        require(0.0 <= dropout < 1.0, "dropout", "at least 0 and below 1", dropout)
        self.encoder = encoder
        self.vocabulary_size = vocabulary_size
        self.dropout = Dropout(dropout)
        self.head = nn.Linear(encoder.config.dim, vocabulary_size)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        odds = BLANK_SHARE / (1 - BLANK_SHARE)
        nn.init.constant_(self.head.bias[:1], math.log(odds * (vocabulary_size - 1)))

    def forward(
        self, waveforms: Tensor, lengths: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """waveforms [B, S] float32 at 16 kHz, lengths [B] samples, mask [B, T] bool or None
        -> log-probabilities [B, T, V] float32 and num_frames [B].

        Raises ``AudioError`` when S is below one frame.
        """
        context, frames = self.encoder(waveforms, lengths, mask)  # [B, T, D], [B]
        return self.log_probs(context), frames

    def log_probs(self, context: Tensor) -> Tensor:
        """Log-probabilities of the tokens. [B, T, D] -> [B, T, V] float32."""
        logits = self.head(self.dropout(context))  # [B, T, V]
        return logits.float().log_softmax(-1)  # type: ignore[no-any-return]
