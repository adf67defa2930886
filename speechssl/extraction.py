"""From the cuts of a manifest to frames, some recordings at a time.

Frames are MFCC, log-mel energies, or hidden states of a model folder's encoder, all at the clock
of ``speechssl.frames``. They are computed when they are asked for and never all kept.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torchaudio.compliance.kaldi
import torchaudio.functional
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from speechssl.config import require
from speechssl.data.batch import collate
from speechssl.data.index import Cuts
from speechssl.data.loading import BatchLoader, CutLoader, sorted_batches
from speechssl.data.threads import reading_threads
from speechssl.devices import find_device
from speechssl.files import sha256
from speechssl.frames import HOP_SAMPLES, SAMPLE_RATE, WINDOW_SAMPLES, num_frames
from speechssl.models.encoder import Encoder
from speechssl.models.folder import WEIGHTS, check_finite, load_encoder
from speechssl.models.frontend import FbankFrontend, FrontendConfig

MFCC_HOP_SAMPLES = HOP_SAMPLES // 2
"""MFCC and their differences are computed every 10 ms; every second one is a frame of ours."""

BATCH_SECONDS = 120.0
"""Seconds of audio that are read, and that a model computes, in one go."""

SORTED_TOGETHER = 512
"""Neighbours in the manifest that are sorted by length, so that batches have little padding."""

FRAMES_TOGETHER = 4096
"""Frames that are computed in one go."""

Extracted = TypeVar("Extracted")
"""What is made of one recording: mostly a tensor [T, D]."""


def extract(
    cuts: Cuts, features: Callable[[list[Tensor]], list[Extracted]], what: str
) -> Iterator[tuple[list[str], list[Extracted]]]:
    """Ids, and what ``features`` makes of the waveforms, of some cuts at a time.

    The order is fixed: ``SORTED_TOGETHER`` neighbours after the other, the longest of each first.
    Shows progress, called ``what``. Cuts without a frame are left out, and so are unreadable ones,
    at most 1 % of all; more raise ``AudioError``.
    """
    loader = BatchLoader(CutLoader(), total_cuts=len(cuts))
    plan = ((batch, 0) for batch in _batches(cuts))
    last: list[str] = []
    try:
        with tqdm(total=round(cuts.hours, 3), unit="h", desc=what, disable=None) as bar:
            for batch in loader.load(plan):
                if batch.ids == last:  # repeated in place of one that cannot be read
                    continue
                last = batch.ids
                waveforms = [w[:n] for w, n in zip(batch.waveforms, batch.lengths.tolist())]
                yield batch.ids, features(waveforms)
                bar.update(round(batch.audio_seconds / 3600, 6))
    finally:
        loader.close()


def draw_places(cuts: Cuts, hours: float, seed: int) -> NDArray[np.int64]:
    """The places of random cuts of about ``hours`` hours, ascending; the same for the same seed."""
    order = np.random.default_rng(seed).permutation(len(cuts))
    count = 1 + np.searchsorted(cuts.durations[order].cumsum(), hours * 3600)
    return np.sort(order[:count])


def _batches(cuts: Cuts) -> Iterator[list[Any]]:
    """The cuts that have a frame, in batches of similar length."""
    places = np.flatnonzero(cuts.frames > 0)
    for start in range(0, len(places), SORTED_TOGETHER):
        neighbours = cuts.select(places[start : start + SORTED_TOGETHER])
        yield from sorted_batches(neighbours, BATCH_SECONDS)


class MfccFeatures:
    """39 numbers per frame: 13 MFCC with first and second differences, normalised per recording.

    The MFCC are Kaldi's with default settings and without energy, as
    ``torchaudio.compliance.kaldi.mfcc`` has them. Mean and variance of each number are set to 0
    and 1 over the recording, which takes away the microphone and some of the speaker.
    """

    name = "mfcc"
    layer = None

    def __init__(self) -> None:
        kaldi = torchaudio.compliance.kaldi
        bins, _ = kaldi.get_mel_banks(23, 512, SAMPLE_RATE, 20.0, 0.0, 100.0, -500.0, 1.0)
        self._mel = torch.nn.functional.pad(bins, (0, 1)).T.contiguous()  # [257, 23]
        cosines = torchaudio.functional.create_dct(23, 23, norm="ortho")[:, :13]
        cosines[:, 0] = math.sqrt(1 / 23)
        lifter = 1 + 11 * torch.sin(torch.arange(13) * math.pi / 22)
        self._cepstrum = (cosines * lifter).contiguous()  # [23, 13]
        self._window = torch.hann_window(WINDOW_SAMPLES, periodic=False) ** 0.85
        # One thread for each recording: its arrays are too small for several to share.
        self._pool = reading_threads(os.cpu_count() or 1)

    def __call__(self, waveforms: list[Tensor]) -> list[Tensor]:
        """[S] waveforms -> [T, 39] frames each, T as ``num_frames`` says."""
        return list(self._pool.map(self._one, waveforms))

    def _one(self, waveform: Tensor) -> Tensor:
        windows = waveform.unfold(0, WINDOW_SAMPLES, MFCC_HOP_SAMPLES)  # [2T or 2T - 1, 400]
        mfcc = torch.cat([self._mfcc(some) for some in torch.split(windows, FRAMES_TOGETHER)])
        first = differences(mfcc)
        frames = torch.cat([mfcc, first, differences(first)], dim=1)[::2]  # [T, 39]
        return (frames - frames.mean(0)) / (frames.std(0, correction=0) + 1e-5)

    def _mfcc(self, windows: Tensor) -> Tensor:
        """[N, 400] samples -> [N, 13]."""
        centred = windows - windows.mean(1, keepdim=True)
        emphasised = 0.03 * centred  # of the first sample, which has none before it
        torch.sub(centred[:, 1:], centred[:, :-1], alpha=0.97, out=emphasised[:, 1:])
        power = torch.fft.rfft(emphasised.mul_(self._window), n=512).abs().square()
        smallest = torch.finfo(torch.float32).eps
        mel: Tensor = (power @ self._mel).clamp_(min=smallest).log_()
        return torch.mm(mel, self._cepstrum)


def differences(frames: Tensor) -> Tensor:
    """[T, D] -> [T, D]: the slope at each frame over five frames (HTK book, equation 5.16)."""
    before, after = frames[:1].expand(2, -1), frames[-1:].expand(2, -1)
    padded = torch.cat([before, frames, after])
    return (padded[3:-1] - padded[1:-3] + 2 * (padded[4:] - padded[:-4])) / 10


class ModelLayers:
    """The hidden states of several layers of a model folder's encoder."""

    def __init__(self, model: Path, layers: Sequence[int] | None = None) -> None:
        """``layers`` count from 1, 0 being the first layer's input; None stands for all. Those
        above the highest are not computed.

        Raises ``ConfigError`` for a layer that the encoder does not have, and ``ModelFolderError``
        where its weights are not finite.
        """
        self.encoder: Encoder = load_encoder(model).eval()
        check_finite(self.encoder, model)
        last = self.encoder.config.layers
        self.layers = list(range(last + 1)) if layers is None else list(layers)
        for layer in self.layers:
            require(0 <= layer <= last, "layer", f"between 0 and {last}", layer)
        self.name = sha256(model / WEIGHTS)
        self.dim = self.encoder.config.dim
        self.device = find_device()
        self.encoder.to(self.device)

    @torch.inference_mode()
    def __call__(self, waveforms: list[Tensor]) -> list[list[Tensor]]:
        """[S] waveforms -> for each its layers, [T, D] each, in one padded forward pass."""
        batch = collate(waveforms)
        batch.to(self.device)
        states = self.encoder.hidden_states(batch.waveforms, batch.lengths, self.layers)
        states = [state.float().cpu() for state in states]
        counts = num_frames(batch.lengths).tolist()
        return [[state[row, :count] for state in states] for row, count in enumerate(counts)]


class LayerFeatures:
    """The output of one transformer layer of a model folder's encoder."""

    def __init__(self, model: Path, layer: int) -> None:
        """Raises what ``ModelLayers`` raises."""
        self._layers = ModelLayers(model, [layer])
        self.name = self._layers.name
        self.layer = layer

    def __call__(self, waveforms: list[Tensor]) -> list[Tensor]:
        """[S] waveforms -> [T, D] frames each, in one padded forward pass."""
        return [frames for (frames,) in self._layers(waveforms)]


class LogMelFeatures:
    """Log-mel energies relative to the recording's mean energy; two of 10 ms make a frame.

    They are those of the ``fbank`` frontend, except that the bands are not normalised over the
    recording, so that their means still tell of the speaker.
    """

    def __init__(self) -> None:
        self.frontend = FbankFrontend(FrontendConfig(kind="fbank"))
        self.dim = self.frontend.channels

    def __call__(self, waveforms: list[Tensor]) -> list[Tensor]:
        """[S] waveforms -> [T, 160] frames each."""
        return [self._one(waveform) for waveform in waveforms]

    def _one(self, waveform: Tensor) -> Tensor:
        energies = self.frontend.mel_energies(waveform[None])[0]  # [2T, 80]
        level = energies.mean().clamp(min=1e-20)
        return (energies / level + self.frontend.FLOOR).log().reshape(-1, self.dim)
