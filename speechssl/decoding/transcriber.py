"""From a model folder and audio to text, without any training code."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechssl.data.audio import read_audio
from speechssl.data.batch import collate
from speechssl.decoding.greedy import greedy_decode
from speechssl.errors import ConfigError
from speechssl.frames import FRAME_RATE, HOP_SAMPLES, min_samples, num_frames
from speechssl.models.folder import load_ctc

WINDOW_FRAMES = 30 * FRAME_RATE
"""Longer recordings are computed in windows of this length, which bounds the memory."""

OVERLAP_FRAMES = 6 * FRAME_RATE
"""What neighbouring windows share; each gives up the half that is nearer to its end."""


class Transcriber:
    """A recogniser ready to use.

    A recording of more than ``window_frames`` frames is computed in windows that overlap by
    ``overlap_frames``. Windows start on the frame clock, so the frames of all windows together
    are exactly the frames of the recording; each frame is taken from the window in which it is
    farther from the border. What a model normalises over the recording, it then normalises over
    the window.
    """

    def __init__(
        self,
        model_folder: Path | str,
        *,
        device: str = "auto",
        window_frames: int = WINDOW_FRAMES,
        overlap_frames: int = OVERLAP_FRAMES,
    ) -> None:
        """``device`` is a torch device, or "auto" for the GPU if there is one.

        Raises ``ModelFolderError`` if the folder holds no recogniser and ``ConfigError`` if the
        device is not there.
        """
        self.device = _find_device(device)
        model, self.tokens = load_ctc(model_folder)
        self.model = model.to(self.device).eval()
        self.window_frames = window_frames
        self.overlap_frames = overlap_frames

    def transcribe_file(self, path: Path | str) -> str:
        """The text of an audio file. Raises ``AudioError`` if it cannot be read."""
        return self.transcribe_waveform(read_audio(path))

    def transcribe_waveform(self, waveform: Tensor) -> str:
        """The text of one recording: ``waveform`` [S] float32 at 16 kHz."""
        return self.transcribe([waveform])[0]

    def transcribe(self, waveforms: Sequence[Tensor]) -> list[str]:
        """The texts of several recordings, each [S_i] float32 at 16 kHz."""
        if not waveforms:
            return []
        log_probs = self.log_probs(waveforms)
        frames = torch.tensor([len(recording) for recording in log_probs])  # [B]
        return greedy_decode(pad_sequence(log_probs, batch_first=True), frames, self.tokens)

    @torch.inference_mode()
    def log_probs(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """The log-probabilities of each recording, on the CPU.

        ``waveforms`` are [S_i] float32 at 16 kHz; the results are [T_i, V] float32 with T_i =
        ``num_frames(S_i)``, which is 0 for recordings shorter than one frame.
        """
        results: dict[int, Tensor] = {}
        together = []
        for i, waveform in enumerate(waveforms):
            frames = num_frames(len(waveform))
            if frames == 0:
                results[i] = torch.empty(0, len(self.tokens))
            elif frames > self.window_frames:
                results[i] = self._in_windows(waveform)
            else:
                together.append(i)
        if together:
            results.update(zip(together, self._at_once([waveforms[i] for i in together])))
        return [results[i] for i in range(len(waveforms))]

    def _at_once(self, waveforms: list[Tensor]) -> list[Tensor]:
        batch = collate(waveforms)
        batch.to(self.device)
        log_probs, frames = self.model(batch.waveforms, batch.lengths)  # [B, T, V], [B]
        return [row[:count] for row, count in zip(log_probs.cpu(), frames.tolist())]

    def _in_windows(self, waveform: Tensor) -> Tensor:
        pieces = []
        frames = num_frames(len(waveform))
        for first, start, stop in windows(frames, self.window_frames, self.overlap_frames):
            from_sample = first * HOP_SAMPLES
            samples = waveform[from_sample : from_sample + min_samples(self.window_frames)]
            [log_probs] = self._at_once([samples])
            pieces.append(log_probs[start - first : stop - first])
        return torch.cat(pieces)


def windows(frames: int, window: int, overlap: int) -> list[tuple[int, int, int]]:
    """How to cover ``frames`` frames by windows of ``window`` frames that share ``overlap``.

    Returns (first, start, stop) for each: the window begins at frame ``first`` and its results
    are kept for frames ``start`` to ``stop``. The kept parts join without gaps, in the middle of
    the overlaps; the last window is moved back so that it too is full.
    """
    last = frames - window
    firsts = [*range(0, last, window - overlap), last]
    middles = [(after + before + window) // 2 for before, after in pairwise(firsts)]
    return list(zip(firsts, [0, *middles], [*middles, frames]))


def _find_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        problem = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"device {name!r} cannot be used ({problem}); try cpu or auto.") from None
    return device
