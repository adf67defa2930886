import pytest
import torch
import torch.nn.functional as F

from speechssl.errors import ConfigError
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder
from speechssl.models.presets import encoder_config

SMALL = {"dim": 64, "layers": 1, "heads": 2, "ffn_dim": 128}


def _model(**changes: object) -> CTCModel:
    torch.manual_seed(0)
    return CTCModel(Encoder(encoder_config("tiny", {**SMALL, **changes})), 11, dropout=0.1)


def test_log_probabilities_in_float32_even_under_autocast() -> None:
    model = _model().eval()
    with torch.autocast("cpu", torch.bfloat16):
        log_probs, frames = model(torch.randn(2, 8000), torch.tensor([8000, 4000]))
    assert log_probs.shape == (2, 24, 11)
    assert log_probs.dtype == torch.float32
    assert frames.tolist() == [24, 12]
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2, 24))


def test_starts_from_mostly_blanks_and_nearly_equal_tokens() -> None:
    log_probs, _ = _model().eval()(torch.randn(2, 8000), torch.tensor([8000, 8000]))
    mean = log_probs.exp().mean((0, 1))
    assert mean[0].item() == pytest.approx(0.75, abs=0.05)
    assert mean[1:].max() < 0.04


def test_learns_two_sounds() -> None:
    model = CTCModel(_model(dropout=0.0).encoder, 11)
    time = torch.arange(4800) / 16000
    tones = torch.stack([torch.sin(6.28 * 300 * time), torch.sin(6.28 * 3000 * time)])
    silence = torch.zeros(2, 1600)
    torch.manual_seed(0)
    waveforms = torch.cat([silence, tones, silence], 1)
    waveforms += 0.01 * torch.randn_like(waveforms)
    lengths = torch.tensor([8000, 8000])
    targets, ones = torch.tensor([[3], [7]]), torch.tensor([1, 1])
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(200):
        log_probs, frames = model(waveforms, lengths)
        loss = F.ctc_loss(log_probs.transpose(0, 1), targets, frames, ones)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    heard = model.eval()(waveforms, lengths)[0].argmax(-1)
    assert [set(row.tolist()) - {0} for row in heard] == [{3}, {7}]


def test_bad_values_name_the_field() -> None:
    with pytest.raises(ConfigError, match="vocabulary_size must be at least 2, but is 1"):
        CTCModel(_model().encoder, 1)
