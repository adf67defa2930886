import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchaudio.functional import melscale_fbanks

from speechssl.errors import AudioError, ConfigError
from speechssl.frames import num_frames
from speechssl.models.frontend import (
    GROUP_SAMPLES,
    FbankFrontend,
    FrontendConfig,
    WaveformFrontend,
    build_frontend,
    mel_filters,
    normalize_waveforms,
)

KINDS = {
    "group": FrontendConfig(channels=12),
    "layer": FrontendConfig(channels=12, norm="layer", bias=True, normalize_waveform=True),
    "fbank": FrontendConfig(kind="fbank"),
}


def _speechlike(lengths: torch.Tensor) -> torch.Tensor:
    """Coloured noise with an offset, zeros behind ends. [B, S]"""
    torch.manual_seed(0)
    noise = torch.randn(len(lengths), int(lengths.max()) + 20).unfold(1, 21, 1).mean(-1) + 0.05
    noise[torch.arange(noise.size(1)) >= lengths[:, None]] = 0
    return noise


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [400, 401, 719, 720, 959, 960, 1039, 1040, 16000, 16123])
def test_as_many_frames_as_the_clock_says(kind: str, samples: int) -> None:
    frontend = build_frontend(KINDS[kind])
    frames = frontend(torch.randn(2, samples), torch.full((2,), samples))
    assert frames.shape == (2, num_frames(samples), KINDS[kind].frame_channels)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind: str) -> None:
    frontend = build_frontend(KINDS[kind])
    lengths = torch.tensor([9000, 16000, 400, 7777, 10])
    waveforms = _speechlike(lengths)
    padded = frontend(waveforms, lengths)
    for row, waveform, length in zip(padded, waveforms, lengths):
        count = num_frames(int(length))
        assert not row[count:].any()
        if count:
            alone = frontend(waveform[None, :length], length[None])[0]
            torch.testing.assert_close(row[:count], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_large_batches_are_convolved_in_groups(kind: str) -> None:
    frontend = build_frontend(KINDS[kind])
    lengths = torch.tensor([GROUP_SAMPLES // 2, 9000, 16000])
    waveforms = _speechlike(lengths)
    parameters = list(frontend.parameters())
    together = frontend(waveforms, lengths)
    upstream = torch.randn_like(together)
    gradients = torch.autograd.grad(together, parameters, upstream)
    alone = torch.cat([frontend(waveforms[i : i + 1], lengths[i : i + 1]) for i in range(3)])
    expected = torch.autograd.grad(alone, parameters, upstream)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    for gradient, other in zip(gradients, expected):
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_too_short_for_a_frame(kind: str) -> None:
    with pytest.raises(AudioError, match="399 samples holds no frame"):
        build_frontend(KINDS[kind])(torch.randn(1, 399), torch.tensor([399]))


def test_group_norm_equals_the_plain_one() -> None:
    torch.manual_seed(0)
    frontend = WaveformFrontend(KINDS["group"])
    assert frontend.group_norm is not None
    torch.nn.init.normal_(frontend.group_norm.weight)
    torch.nn.init.normal_(frontend.group_norm.bias)
    samples = _speechlike(torch.tensor([4000, 4000]))
    first = frontend.layers[0].weight
    leaves = [first, frontend.group_norm.weight, frontend.group_norm.bias]
    plain = F.group_norm(F.conv1d(samples[:, None], first, stride=5), 12, leaves[1], leaves[2])
    plain = plain.transpose(1, 2)
    lengths = torch.tensor([4000, 4000])
    ours = frontend.group_norm(samples[:, :, None], first, lengths)[:, : plain.size(1)]
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    upstream = torch.randn_like(plain)
    torch.testing.assert_close(
        torch.autograd.grad(ours, leaves, upstream),
        torch.autograd.grad(plain, leaves, upstream),
        rtol=1e-4,
        atol=1e-3,
    )


def test_group_norm_is_exact_with_long_silence() -> None:
    torch.manual_seed(0)
    frontend = WaveformFrontend(KINDS["group"])
    assert frontend.group_norm is not None
    first, lengths = frontend.layers[0].weight.detach(), torch.tensor([160_000])
    samples = 0.1 * torch.randn(1, 160_000) + 0.05
    samples[:, 32_000:] = 0.0
    plain = F.group_norm(F.conv1d(samples[:, None].double(), first.double(), stride=5), 12)
    ours = frontend.group_norm(samples[:, :, None], first, lengths)[:, : plain.size(2)]
    torch.testing.assert_close(ours, plain.transpose(1, 2).float(), rtol=1e-5, atol=1e-5)


def test_normalized_waveforms_ignore_padding() -> None:
    lengths = torch.tensor([1000, 600])
    normal = normalize_waveforms(_speechlike(lengths), lengths)
    for row, length in zip(normal, lengths):
        assert row[:length].mean().item() == pytest.approx(0, abs=1e-5)
        assert row[:length].var(correction=0).item() == pytest.approx(1, abs=1e-3)
        assert not row[length:].any()


def test_mel_filters_equal_torchaudio() -> None:
    expected = melscale_fbanks(257, 0.0, 8000.0, 80, 16_000, norm=None, mel_scale="htk")
    torch.testing.assert_close(mel_filters(80, 512), expected, rtol=1e-4, atol=1e-4)


def test_mel_energies_equal_a_slow_version() -> None:
    frontend = FbankFrontend(FrontendConfig(kind="fbank"))
    samples = _speechlike(torch.tensor([1360]))[0]
    padded = np.concatenate([samples.double().numpy(), np.zeros(160)])
    window = np.hanning(400)
    filters = mel_filters(80, 512).double().numpy()
    rows = []
    for index in range(2 * num_frames(1360)):
        piece = padded[160 * index : 160 * index + 400]
        spectrum = np.fft.rfft((piece - piece.mean()) * window, 512)
        rows.append(np.abs(spectrum) ** 2 @ filters)
    actual = frontend.mel_energies(samples[None])[0]
    torch.testing.assert_close(actual.double(), torch.tensor(np.stack(rows)), rtol=1e-4, atol=1e-7)


def test_fbank_is_normal_and_deaf_to_loudness() -> None:
    frontend = FbankFrontend(FrontendConfig(kind="fbank"))
    lengths = torch.tensor([16000])
    loud = _speechlike(lengths)
    frames = frontend(loud, lengths)
    bands = frames.view(-1, 80)
    torch.testing.assert_close(bands.mean(0), torch.zeros(80), rtol=0, atol=1e-4)
    torch.testing.assert_close(bands.var(0, correction=0), torch.ones(80), rtol=0, atol=0.1)
    torch.testing.assert_close(frontend(1e-3 * loud, lengths), frames, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_silence_gives_numbers(kind: str) -> None:
    frames = build_frontend(KINDS[kind])(torch.zeros(2, 4000), torch.tensor([4000, 3000]))
    assert frames.isfinite().all()


def test_bad_values_name_the_field() -> None:
    with pytest.raises(ConfigError, match="mel_bins must be from 1 to 256, but is 0"):
        FrontendConfig(kind="fbank", mel_bins=0)
    with pytest.raises(ConfigError, match="bias must be false with norm=group"):
        FrontendConfig(bias=True)
