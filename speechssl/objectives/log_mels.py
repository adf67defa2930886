"""Log-mel frames as something to predict, whatever frontend the encoder has.

B recordings, T frames, C channels (two neighbouring log-mel vectors of 10 ms, side by side).
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from speechssl.data.batch import SpeechBatch
from speechssl.models.encoder import EncoderConfig
from speechssl.models.frontend import FbankFrontend


class LogMels(nn.Module):
    """The frames of the ``fbank`` frontend: each band has zero mean and unit variance over its
    recording. Nothing is learned, and nothing is saved."""

    def __init__(self, encoder: EncoderConfig) -> None:
        super().__init__()
        self.fbank = FbankFrontend(replace(encoder.frontend, kind="fbank"))
        self.channels = self.fbank.channels
        self.are_frames = encoder.frontend.kind == "fbank"

    def forward(self, batch: SpeechBatch, frames: Tensor) -> Tensor:
        """[B, T, C] float32, zeros behind ends. ``frames`` are those of the encoder's frontend
        for this batch, which are returned where they are log-mels already."""
        if self.are_frames:
            return frames
        mels: Tensor = self.fbank(batch.waveforms, batch.lengths)
        return mels
