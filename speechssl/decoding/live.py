"""Transcribing while somebody speaks: text that may still change, then text that stays.

After every step of new audio the last seconds are computed again. Frames that have enough sound
behind them are kept; those at the end are computed once more with the next step. When a pause has
been kept, everything before it is final. So a word first appears at most ``step_seconds`` after it
was said, and is final ``FINAL_SECONDS`` plus ``step_seconds`` after the speaker has paused; both
plus the time that computing takes, which each update states.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from speechssl.data.text import BLANK
from speechssl.decoding.edges import LevelMeter
from speechssl.decoding.segments import PAUSE_FRAMES, best_cut, pauses
from speechssl.decoding.transcriber import Transcriber
from speechssl.decoding.transcript import Word
from speechssl.decoding.windows import Tape
from speechssl.frames import FRAME_RATE, HOP_SAMPLES, SAMPLE_RATE

STEP_SECONDS = 0.5
"""New audio after which the text is updated, unless the user says otherwise."""

CONTEXT_FRAMES = 8 * FRAME_RATE
"""What is computed again before the frames that are not yet kept."""

LOOKAHEAD_FRAMES = FRAME_RATE
"""Frames at the end that are not kept yet: the model has not heard what follows."""

FINAL_SECONDS = (LOOKAHEAD_FRAMES + PAUSE_FRAMES) / FRAME_RATE
"""What must have been heard after a word, at least, to make it final."""

LONGEST_FRAMES = 30 * FRAME_RATE
"""Speech without a pause becomes final after this."""


@dataclass(frozen=True)
class Update:
    """What is known after a step."""

    words: list[Word]
    """Those since the last final update."""

    final: bool
    """Whether they stay as they are."""

    heard_seconds: float
    """The audio received so far."""

    computing_seconds: float
    """What this update took to compute."""

    @property
    def text(self) -> str:
        """The words with single spaces."""
        return " ".join(word.text for word in self.words)


def listen(
    transcriber: Transcriber, blocks: Iterable[Tensor], *, step_seconds: float = STEP_SECONDS
) -> Iterator[Update]:
    """Transcribes a stream of samples as they come: [S] float32 at 16 kHz, any lengths.

    Where computing takes longer than the audio of a step, steps grow, so that the text keeps up.
    """
    meter = LevelMeter()
    kept = _Kept(transcriber, meter)
    tape = _Growing(meter.listen(blocks))
    step = step_seconds
    while tape.grow(round(step * SAMPLE_RATE)):
        began = time.perf_counter()
        updates = list(kept.step(tape))
        took = time.perf_counter() - began
        step = max(step_seconds, 1.2 * took)
        for words, final in updates:
            yield Update(words, final, meter.seconds, took)
    began = time.perf_counter()
    if words := kept.finish(tape):
        yield Update(words, True, meter.seconds, time.perf_counter() - began)


class _Growing:
    """The samples that have come so far, as far back as they are still needed."""

    def __init__(self, blocks: Iterable[Tensor]) -> None:
        self._tape = Tape(blocks)

    def grow(self, samples: int) -> bool:
        """Waits for this many more samples. False at the end of the stream."""
        wanted = self._tape.read_samples + samples
        self._tape.wait_for(wanted)
        return self._tape.read_samples >= wanted

    def since(self, sample: int) -> Tensor:
        """All samples from this one on; earlier ones are forgotten."""
        return self._tape.read(sample, self._tape.read_samples)


class _Kept:
    """The frames that are kept and not yet final."""

    def __init__(self, transcriber: Transcriber, meter: LevelMeter) -> None:
        self._transcriber = transcriber
        self._meter = meter
        self._frames = torch.empty(0, len(transcriber.tokens))  # [T, V]
        self._first = 0  # the recording's frame at which they begin

    def step(self, tape: _Growing) -> Iterator[tuple[list[Word], bool]]:
        """Computes the end of ``tape``; yields words that became final, then those that may
        change."""
        latest = self._compute(tape)
        count = max(0, len(latest) - LOOKAHEAD_FRAMES)
        self._frames = torch.cat([self._frames, latest[:count]])
        while (cut := self._cut()) is not None:
            if words := self._give_out(cut):
                yield words, True
        yield self._read(torch.cat([self._frames, latest[count:]])), False

    def finish(self, tape: _Growing) -> list[Word]:
        """The words of all that is left."""
        self._frames = torch.cat([self._frames, self._compute(tape)])
        return self._give_out(len(self._frames))

    def _compute(self, tape: _Growing) -> Tensor:
        """The frames behind those that are kept, [t, V]."""
        following = self._first + len(self._frames)
        start = max(0, following - CONTEXT_FRAMES)
        start -= start % self._transcriber.grid_frames
        [log_probs] = self._transcriber.log_probs([tape.since(start * HOP_SAMPLES)])
        return log_probs[following - start :]

    def _cut(self) -> int | None:
        """Where what is final ends, if anything is."""
        found = [(start + stop) // 2 for start, stop in pauses(self._frames) if start > 0]
        if found:
            return found[0]
        best = self._frames.argmax(-1)
        if len(best) > PAUSE_FRAMES and bool((best == BLANK).all()):
            return len(best) - PAUSE_FRAMES  # silence since the last word
        if len(best) > LONGEST_FRAMES:
            return best_cut(self._frames[:LONGEST_FRAMES], self._transcriber.separator)
        return None

    def _give_out(self, cut: int) -> list[Word]:
        words = self._read(self._frames[:cut])
        self._frames = self._frames[cut:]
        self._first += cut
        return words

    def _read(self, log_probs: Tensor) -> list[Word]:
        words, _ = self._transcriber.read(log_probs, self._first / FRAME_RATE, self._meter)
        return words
