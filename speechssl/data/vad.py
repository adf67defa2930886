"""Voice activity: where in a recording somebody speaks.

The network is Silero's (https://github.com/snakers4/silero-vad, MIT), which its wheel brings
along; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from speechssl.frames import SAMPLE_RATE

WINDOW_SAMPLES = 512
"""Samples of which the network gives one probability (32 ms); it carries its state along."""

Span = tuple[float, float]
"""(start, end) in seconds from the beginning of the recording."""


class VoiceActivity:
    """Finds speech. Keeps a state while it listens, so each thread needs one of its own."""

    def __init__(self) -> None:
        threads = torch.get_num_threads()
        from silero_vad import get_speech_timestamps_from_probs, load_silero_vad

        torch.set_num_threads(threads)  # importing silero_vad sets it to 1 for the whole process
        self._model = load_silero_vad()
        self._spans = get_speech_timestamps_from_probs

    def spans(
        self, blocks: Iterable[Tensor], *, longest_seconds: float = float("inf")
    ) -> list[Span]:
        """The stretches of speech, in order, in a recording given as ``blocks``.

        Blocks are [S] float32 at 16 kHz, one behind the other, of any lengths; only one is held
        at a time. Speech that goes on for more than ``longest_seconds`` is divided at its longest
        pause, or where it must be if it has none.
        """
        probabilities: list[float] = []
        samples = 0
        self._model.reset_states()
        with torch.inference_mode():
            for window in _windows(blocks):
                samples += len(window)
                padded = torch.nn.functional.pad(window, (0, WINDOW_SAMPLES - len(window)))
                probabilities.append(self._model(padded, SAMPLE_RATE).item())
        found = self._spans(
            probabilities,
            sampling_rate=SAMPLE_RATE,
            max_speech_duration_s=longest_seconds,
            audio_length_samples=samples,
        )
        return [(span["start"] / SAMPLE_RATE, span["end"] / SAMPLE_RATE) for span in found]


def _windows(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """The samples of ``blocks`` in windows; only the last may be shorter."""
    rest = torch.zeros(0)
    for block in blocks:
        held = torch.cat([rest, block])
        whole = len(held) // WINDOW_SAMPLES * WINDOW_SAMPLES
        yield from held[:whole].view(-1, WINDOW_SAMPLES)
        rest = held[whole:]
    if len(rest):
        yield rest
