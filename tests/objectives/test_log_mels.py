"""Log-mels to predict are the frames of the ``fbank`` frontend, whatever the encoder's own is."""

from __future__ import annotations

import pytest
import torch

from speechssl.data.batch import collate
from speechssl.models.encoder import EncoderConfig
from speechssl.models.frontend import FbankFrontend, FrontendConfig, build_frontend
from speechssl.objectives.log_mels import LogMels


@pytest.mark.parametrize(
    "frontend",
    [FrontendConfig(kind="fbank", mel_bins=30), FrontendConfig(channels=8, mel_bins=30)],
    ids=["fbank", "waveform"],
)
def test_they_are_those_of_the_fbank_frontend(frontend: FrontendConfig) -> None:
    torch.manual_seed(0)
    batch = collate([torch.randn(8000), torch.randn(5000)])
    mels = LogMels(EncoderConfig(frontend))
    frames = build_frontend(frontend)(batch.waveforms, batch.lengths)
    expected = FbankFrontend(FrontendConfig(kind="fbank", mel_bins=30))
    actual = mels(batch, frames)
    assert mels.channels == actual.shape[-1] == 60
    torch.testing.assert_close(actual, expected(batch.waveforms, batch.lengths))
    assert not mels.state_dict()
