"""From samples to frames, 50 per second: learned convolutions, or log-mel features.

Both give ``num_frames(samples)`` frames (see ``speechssl.frames``), and both give every recording
of a padded batch exactly the frames that it would get alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.config import require
from speechssl.devices import to_device
from speechssl.errors import AudioError
from speechssl.frames import HOP_SAMPLES, SAMPLE_RATE, WINDOW_SAMPLES, num_frames
from speechssl.models.padding import padding_mask, zero_padding
from speechssl.models.strided import strided_linear

CONV_KERNELS = (10, 3, 3, 3, 3, 2, 2)
"""Samples (then frames) that each convolution of the waveform frontend sees."""

CONV_STRIDES = (5, 2, 2, 2, 2, 2, 2)
"""Hops of the same convolutions. Their product is ``HOP_SAMPLES``."""

assert math.prod(CONV_STRIDES) == HOP_SAMPLES

FFT_SAMPLES = 512
"""Samples of the Fourier transform of the fbank frontend, zeros behind each window among them."""

GROUP_SAMPLES = 10 * SAMPLE_RATE
"""Samples, padding included, that a CPU convolves at once. More need larger buffers, which the
allocator takes from the system each time instead of using memory that is free already."""


@dataclass(frozen=True)
class FrontendConfig:
    """What turns samples into frames."""

    kind: Literal["waveform", "fbank"] = "waveform"
    """Seven learned convolutions on the samples, or log-mel filter banks."""

    channels: int = 512
    """waveform: width of every convolution."""

    norm: Literal["group", "layer"] = "group"
    """waveform: group norm after the first convolution only (wav2vec 2.0 base), or layer norm
    after every one (large)."""

    bias: bool = False
    """waveform: whether the convolutions have a bias. Not with group norm, which removes it."""

    normalize_waveform: bool = False
    """waveform: bring each recording to zero mean and unit variance first."""

    mel_bins: int = 80
    """fbank: mel bands per 10 ms; a frame holds two of them side by side."""

    def __post_init__(self) -> None:
        require(self.channels > 0, "channels", "positive", self.channels)
        bins = FFT_SAMPLES // 2
        require(0 < self.mel_bins <= bins, "mel_bins", f"from 1 to {bins}", self.mel_bins)
        biased_group = self.norm == "group" and self.bias
        require(not biased_group, "bias", "false with norm=group", self.bias)

    @property
    def frame_channels(self) -> int:
        """C, the channels of the frames that the frontend gives."""
        return self.channels if self.kind == "waveform" else 2 * self.mel_bins


def build_frontend(config: FrontendConfig) -> WaveformFrontend | FbankFrontend:
    """The frontend that ``config.kind`` names."""
    return WaveformFrontend(config) if config.kind == "waveform" else FbankFrontend(config)


class WaveformFrontend(nn.Module):
    """Seven strided convolutions with GELU on the raw waveform.

    Source: wav2vec 2.0 (Baevski et al., 2020), section 2, "feature encoder". The layout stays
    [B, T, C] throughout, and each convolution is a matrix product (see ``strided_linear``).
    """

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__()
        self.config = config
        self.channels = config.frame_channels
        widths = [1] + [config.channels] * len(CONV_KERNELS)
        self.layers = nn.ModuleList(
            ConvLayer(c_in, c_out, kernel, stride, config.norm == "layer", config.bias)
            for c_in, c_out, kernel, stride in zip(widths, widths[1:], CONV_KERNELS, CONV_STRIDES)
        )
        self.group_norm = TimeNorm(config.channels) if config.norm == "group" else None

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """waveforms [B, S] float32, lengths [B] samples -> frames [B, T, C], zeros behind ends.

        Raises ``AudioError`` when S is below one frame (25 ms).
        """
        samples = waveforms.size(1)
        _require_one_frame(samples)
        if self.config.normalize_waveform:
            waveforms = normalize_waveforms(waveforms, lengths)
        on_cpu = waveforms.device.type == "cpu"
        size = max(1, GROUP_SAMPLES // samples) if on_cpu else len(waveforms)
        groups = zip(torch.split(waveforms, size), torch.split(lengths, size))
        frames = F.gelu(torch.cat([self._convolve(*group) for group in groups]))  # [B, T, C]
        return zero_padding(
            frames, padding_mask(num_frames(lengths), frames.size(1), frames.device)
        )

    def _convolve(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """waveforms [B, S], lengths [B] samples -> the last convolution's output [B, T, C]."""
        samples = waveforms.size(1)
        # A whole number of hops, so that every layer's input is a whole number of strides.
        hidden = F.pad(waveforms, (0, -samples % HOP_SAMPLES))[:, :, None]  # [B, L, 1]
        for index, layer in enumerate(self.layers):
            if index == 0 and self.group_norm is not None:
                hidden = self.group_norm(hidden, layer.weight, lengths)
            else:
                hidden = layer(hidden, gelu=index > 0)
        return hidden[:, : num_frames(samples)]


class ConvLayer(nn.Module):
    """Strided convolution, then layer norm if wanted. [B, L, C_in] -> [B, L / stride, C_out].

    ``weight`` is [C_out, C_in, kernel], as in public checkpoints. The last output frame of each
    recording may see the next recording; whoever knows the lengths throws it away. The GELU that
    follows is left to whoever uses the output, so that it need not be kept (``strided_linear``).
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int, norm: bool, bias: bool
    ) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(c_out, c_in, kernel))
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None
        self.norm = nn.LayerNorm(c_out) if norm else None
        nn.init.kaiming_normal_(self.weight)  # as wav2vec 2.0 does

    def forward(self, inputs: Tensor, gelu: bool) -> Tensor:
        """``gelu`` applies GELU to ``inputs`` [B, L, C_in] first."""
        hidden = strided_linear(inputs, self.weight, self.bias, self.stride, gelu=gelu)
        return hidden if self.norm is None else self.norm(hidden).to(hidden.dtype)


class TimeNorm(nn.Module):
    """The first convolution with group norm, one group per channel: each channel is brought to
    zero mean and unit variance over the valid frames of each recording.

    Mean and variance of a linear map follow from those of its input windows (10 samples), so the
    normalisation is folded into per-recording weights instead of being computed on the outputs:
    ``mean_c = w_c m`` and ``variance_c = w_c' V w_c`` with ``m`` [10] and ``V`` [10, 10] the mean
    and covariance of a recording's windows.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.epsilon = 1e-5

    def forward(self, samples: Tensor, conv_weight: Tensor, lengths: Tensor) -> Tensor:
        """samples [B, L, 1], conv_weight [C, 1, K], lengths [B] samples -> [B, L / stride, C]."""
        kernel, stride = CONV_KERNELS[0], CONV_STRIDES[0]
        with torch.autocast(samples.device.type, enabled=False):
            padded = F.pad(samples[:, :, 0].float(), (0, kernel - stride))
            windows = padded.unfold(1, kernel, stride)  # [B, L / stride, K]
            counts = (lengths - kernel) // stride + 1
            padding = padding_mask(counts, windows.size(1), windows.device)
            totals = _divisors(counts, windows)[:, None, None]
            mean = zero_padding(windows, padding).sum(1, keepdim=True) / totals  # [B, 1, K]
            centred = zero_padding(windows - mean, padding)
            # In blocks: added one by one to a large sum, small squares would be lost.
            whole = F.pad(centred, (0, 0, 0, -centred.size(1) % 64))
            blocks = whole.reshape(len(whole), -1, 64, kernel)
            covariance = (blocks.transpose(2, 3) @ blocks).sum(1) / totals  # [B, K, K]
            weight = conv_weight[:, 0].float()  # [C, K]
            variance = ((weight @ covariance) * weight).sum(-1)  # [B, C]
            gain = self.weight * torch.rsqrt(variance + self.epsilon)
            weights = (weight * gain[:, :, None]).transpose(1, 2)  # [B, K, C]
        # In place: the largest output of the frontend would cost as much in fresh memory.
        return torch.matmul(centred, weights).add_(self.bias.to(_compute_dtype(centred)))


class FbankFrontend(nn.Module):
    """Log-mel filter banks, normalised per recording and stacked in pairs. Nothing is learned.

    25 ms windows every 10 ms, 80 mel bands, logarithm, zero mean and unit variance of each band
    over the recording, then two neighbours side by side: 160 values every 20 ms, as in w2v-BERT
    (Chung et al., 2021) and BEST-RQ (Chiu et al., 2022). Loudness does not change the frames.
    """

    HOP = HOP_SAMPLES // 2
    FLOOR = 1e-8
    """Energy, relative to the recording's mean band energy, under which nothing is heard."""
    VARIANCE_FLOOR = 1e-2
    """Added to each band's variance, so that an empty band is not blown up."""

    window: Tensor
    filters: Tensor

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__()
        self.config = config
        self.channels = config.frame_channels
        # Constants have values even where parameters are only outlined (meta device).
        window = torch.hann_window(WINDOW_SAMPLES, periodic=False, device="cpu")
        self.register_buffer("window", window, persistent=False)
        filters = mel_filters(config.mel_bins, FFT_SAMPLES)
        self.register_buffer("filters", filters, persistent=False)

    @torch.no_grad()
    def forward(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """waveforms [B, S] float32, lengths [B] samples -> frames [B, T, 2 * bands], zeros behind
        ends. Raises ``AudioError`` when S is below one frame (25 ms)."""
        _require_one_frame(waveforms.size(1))
        with torch.autocast(waveforms.device.type, enabled=False):
            energies = self.mel_energies(waveforms.float())  # [B, 2T, bands]
            counts = 2 * num_frames(lengths)
            padding = padding_mask(counts, energies.size(1), energies.device)
            totals = _divisors(counts, energies)[:, None, None]
            level = zero_padding(energies, padding).mean(2, keepdim=True).sum(1, keepdim=True)
            level = level / totals  # [B, 1, 1]
            bands = torch.log(energies / level.clamp(min=1e-20) + self.FLOOR)
            bands = bands - zero_padding(bands, padding).sum(1, keepdim=True) / totals
            bands = zero_padding(bands, padding)
            variance = bands.square().sum(1, keepdim=True) / totals
            bands = bands * torch.rsqrt(variance + self.VARIANCE_FLOOR)
        return bands.reshape(len(bands), -1, self.channels)

    def mel_energies(self, waveforms: Tensor) -> Tensor:
        """waveforms [B, S] -> energies [B, 2T, bands] of the mel bands, every 10 ms."""
        windows = F.pad(waveforms, (0, self.HOP)).unfold(1, WINDOW_SAMPLES, self.HOP)
        windows = windows[:, : 2 * num_frames(waveforms.size(1))]  # [B, 2T, 400]
        windows = (windows - windows.mean(2, keepdim=True)) * self.window
        spectrum = torch.fft.rfft(windows, n=FFT_SAMPLES)  # [B, 2T, 257]
        power = spectrum.real.square() + spectrum.imag.square()
        energies: Tensor = power @ self.filters
        return energies


def mel_filters(bands: int, fft: int) -> Tensor:
    """Triangular filters, equally spaced on the HTK mel scale from 0 Hz to half the sample rate.

    Returns [fft / 2 + 1, bands] float32.
    """
    highest = SAMPLE_RATE / 2
    frequencies = torch.linspace(0, highest, fft // 2 + 1, dtype=torch.float64, device="cpu")
    mels = torch.linspace(
        0, 2595 * math.log10(1 + highest / 700), bands + 2, dtype=torch.float64, device="cpu"
    )
    edges = 700 * (10 ** (mels / 2595) - 1)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (frequencies[:, None] - low) / (centre - low)
    falling = (high - frequencies[:, None]) / (high - centre)
    return torch.minimum(rising, falling).clamp(min=0).float()


def normalize_waveforms(waveforms: Tensor, lengths: Tensor) -> Tensor:
    """Each recording to zero mean and unit variance. [B, S], lengths [B] -> [B, S]."""
    padding = padding_mask(lengths, waveforms.size(1), waveforms.device)
    totals = _divisors(lengths, waveforms)[:, None]
    centred = waveforms - waveforms.sum(1, keepdim=True) / totals
    if padding is not None:
        centred = centred.masked_fill(padding, 0.0)
    variance = centred.square().sum(1, keepdim=True) / totals
    return centred * torch.rsqrt(variance + 1e-7)  # 1e-7 as the public checkpoints expect


def _divisors(counts: Tensor, like: Tensor) -> Tensor:
    """``counts`` [B], at least 1, on the device and in the type of ``like``."""
    return to_device(counts.clamp(min=1).to(like.dtype), like.device)


def _require_one_frame(samples: int) -> None:
    if samples < WINDOW_SAMPLES:
        raise AudioError(
            f"a batch of {samples} samples holds no frame; recordings need at least "
            f"{WINDOW_SAMPLES} samples ({1000 * WINDOW_SAMPLES // SAMPLE_RATE} ms)."
        )


def _compute_dtype(tensor: Tensor) -> torch.dtype:
    """The type that matrix products of ``tensor`` give, autocast considered."""
    device = tensor.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return tensor.dtype
