"""From audio to text with a trained recogniser. Loads no training code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from speechssl.data.batch import batches_by_length, collate
from speechssl.data.streams import file_blocks
from speechssl.data.text import SEPARATOR
from speechssl.decoding.at_once import batches_at_once, cores_for_batches, map_at_once
from speechssl.decoding.decoder import Decoder
from speechssl.decoding.edges import LevelMeter
from speechssl.decoding.greedy import GreedyDecoder
from speechssl.decoding.segments import mark_pauses, segments
from speechssl.decoding.transcript import Transcript, Word
from speechssl.decoding.windows import WHOLE, Span, Window, cut_windows
from speechssl.decoding.words import to_words, token_spans
from speechssl.devices import Precision, choose_precision, find_device
from speechssl.frames import FRAME_RATE, SAMPLE_RATE, num_frames
from speechssl.models.bfloat16 import keep_products_in_bfloat16
from speechssl.models.folder import check_finite, load_ctc
from speechssl.models.quantization import quantize

WINDOW_FRAMES = 30 * FRAME_RATE
"""Longer recordings are computed in windows of this length, which bounds the memory."""

OVERLAP_FRAMES = 6 * FRAME_RATE
"""What neighbouring windows share; each gives up the half that is nearer to its end."""

BATCH_SECONDS = {"cpu": 20.0, "cuda": 120.0}
"""Audio computed at once, including padding. A CPU is faster where a batch fits its caches."""


class Transcriber:
    """A recogniser ready to use.

    A recording of more than ``window_frames`` frames is computed in windows that overlap by
    ``overlap_frames`` (see ``cut_windows``) and decoded in segments (see ``segments``). What a
    model normalises over the recording, it then normalises over the window.
    """

    def __init__(
        self,
        model_folder: Path | str,
        decoder: Decoder | None = None,
        *,
        device: str = "auto",
        precision: Precision = "fp32",
        window_frames: int = WINDOW_FRAMES,
        overlap_frames: int = OVERLAP_FRAMES,
        batch_seconds: float | None = None,
    ) -> None:
        """``decoder`` is greedy if None; it can also be set later, when the tokens are known.

        ``device`` is a torch device, or "auto" for the GPU if there is one. With ``precision``
        bf16 the matrix products are computed in bfloat16: faster on processors made for it, and
        a word here and there may differ; "auto" is bf16 on those, and fp32 elsewhere. With int8,
        for CPUs only, the encoder's large products are those of 8-bit integers (see ``quantize``)
        and the others what "auto" is. ``batch_seconds`` of audio, padding included, are computed
        at once; None is what suits the device. Raises ``ModelFolderError`` if the folder holds no
        recogniser, or one whose weights are not finite, and ``ConfigError`` if the device is not
        there, or not made for int8.
        """
        self.device = find_device(device)
        self.precision = choose_precision(precision, self.device)
        model, self.tokens = load_ctc(model_folder)
        check_finite(model, model_folder)
        self.model = model.to(self.device).eval()
        plain = self.precision  # that of what is not quantized
        if plain == "int8":
            quantize(self.model.encoder)
            plain = choose_precision("auto", self.device)
        self._autocast = plain == "bf16"
        if self._autocast:
            keep_products_in_bfloat16(self.model)
        self.decoder: Decoder = decoder or GreedyDecoder(self.tokens)
        self.window_frames = window_frames
        self.overlap_frames = overlap_frames
        usual = BATCH_SECONDS.get(self.device.type, 120.0)
        self.batch_seconds = usual if batch_seconds is None else batch_seconds

    @property
    def separator(self) -> int:
        """The token that stands for the space between words."""
        return self.tokens.symbols.index(SEPARATOR)

    @property
    def grid_frames(self) -> int:
        """Frames that the model sees as one: what is computed apart begins at multiples of it."""
        return self.model.encoder.config.squeeze

    # --- texts -------------------------------------------------------------------------------

    def transcribe_file(self, path: Path | str) -> str:
        """The text of an audio file. Raises ``AudioError`` if it cannot be read."""
        return self.file_transcript(path).text

    def transcribe_waveform(self, waveform: Tensor) -> str:
        """The text of one recording: ``waveform`` [S] float32 at 16 kHz."""
        return self.transcribe([waveform])[0]

    def transcribe(self, waveforms: Sequence[Tensor]) -> list[str]:
        """The texts of several recordings, each [S_i] float32 at 16 kHz."""
        return [transcript.text for transcript in self.transcripts(waveforms)]

    # --- transcripts -------------------------------------------------------------------------

    def transcripts(self, waveforms: Sequence[Tensor]) -> list[Transcript]:
        """What is said in several recordings, each [S_i] float32 at 16 kHz, and when."""
        return [
            self.transcript(waveform, log_probs)
            for waveform, log_probs in zip(waveforms, self.log_probs(waveforms))
        ]

    def transcript(self, waveform: Tensor, log_probs: Tensor) -> Transcript:
        """What is said in a recording: ``waveform`` [S], and what ``log_probs`` gives for it."""
        meter = LevelMeter()
        meter.push(waveform)
        return self._decode([(0.0, [log_probs])], meter)

    def file_transcript(self, path: Path | str, spans: Iterable[Span] = (WHOLE,)) -> Transcript:
        """What is said in the ``spans`` of an audio file. See ``stream_transcript``."""
        return self.stream_transcript(file_blocks(path), spans)

    def stream_transcript(
        self, blocks: Iterable[Tensor], spans: Iterable[Span] = (WHOLE,)
    ) -> Transcript:
        """What is said in a recording of any length that comes as a stream.

        ``blocks`` are [S] float32 at 16 kHz, one behind the other; ``spans`` are the stretches to
        transcribe, all of it if there is only ``WHOLE``. Neither the samples nor the
        log-probabilities of the whole recording are ever in memory.
        """
        meter = LevelMeter()
        stream = meter.listen(blocks)
        spans = list(spans)
        windows = self._windows(stream, spans)
        by_span = groupby(self._window_log_probs(windows), key=lambda part: part[0].span)
        stretches = (
            (spans[span][0] / SAMPLE_RATE, (log_probs for _, log_probs in parts))
            for span, parts in by_span
        )
        return self._decode(chain(stretches, _drained(stream)), meter)

    def _decode(
        self, stretches: Iterable[tuple[float, Iterable[Tensor]]], meter: LevelMeter
    ) -> Transcript:
        """Decodes stretches of a recording: where each begins in seconds, and its frames.

        ``meter`` has heard the recording at least up to where the frames come from.
        """
        words: list[Word] = []
        others: list[list[tuple[str, float]]] = []
        for begin, pieces in stretches:
            for first, log_probs in segments(pieces, self.separator):
                found, alternatives = self.read(log_probs, begin + first / FRAME_RATE, meter)
                words += found
                others.append(alternatives)
        text = " ".join(word.text for word in words)
        alternatives = others[0] if len(others) == 1 else []
        return Transcript(text, words, round(meter.seconds, 3), alternatives)

    def read(
        self, log_probs: Tensor, offset: float, meter: LevelMeter
    ) -> tuple[list[Word], list[tuple[str, float]]]:
        """Decodes one segment: ``log_probs`` [T, V] on the CPU, from second ``offset`` on.

        ``meter`` has heard the recording, from its start. Returns the words, and the texts and
        scores of the decoder's other readings.
        """
        best, *others = self.decoder.decode(mark_pauses(log_probs, self.separator))
        words = to_words(
            token_spans(log_probs, best.tokens, best.frames),
            self.tokens,
            num_frames=len(log_probs),
            text=best.text,
            offset=offset,
            levels=meter.levels(offset, len(log_probs) / FRAME_RATE),
        )
        return words, [(other.text, other.score) for other in others]

    # --- log-probabilities -------------------------------------------------------------------

    def log_probs(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """The log-probabilities of each recording, on the CPU.

        ``waveforms`` are [S_i] float32 at 16 kHz; the results are [T_i, V] float32 with T_i =
        ``num_frames(S_i)``, which is 0 for recordings shorter than one frame. Those of one window
        are computed in batches of up to ``batch_seconds``.
        """
        results = [torch.empty(0, len(self.tokens)) for _ in waveforms]
        lengths = [num_frames(len(waveform)) for waveform in waveforms]
        short = [i for i, frames in enumerate(lengths) if 0 < frames <= self.window_frames]
        seconds = np.array([len(waveforms[i]) / SAMPLE_RATE for i in short])
        for places in batches_by_length(seconds, self.batch_seconds):
            batch = [short[place] for place in places]
            for i, log_probs in zip(batch, self._together([waveforms[i] for i in batch])):
                results[i] = log_probs
        for i, frames in enumerate(lengths):
            if frames > self.window_frames:
                results[i] = torch.cat(list(self.stream_log_probs([waveforms[i]])))
        return results

    def stream_log_probs(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """The log-probabilities of a stream of samples: pieces [t, V] that join without gaps."""
        windows = self._windows(blocks, (WHOLE,))
        return (log_probs for _, log_probs in self._window_log_probs(windows))

    def _windows(self, blocks: Iterable[Tensor], spans: Iterable[Span]) -> Iterator[Window]:
        return cut_windows(blocks, self.window_frames, self.overlap_frames, spans, self.grid_frames)

    def _window_log_probs(self, windows: Iterable[Window]) -> Iterator[tuple[Window, Tensor]]:
        """Each window with its kept frames, computed in batches."""
        batches = self._batches(windows)
        first = list(islice(batches, cores_for_batches(self.device)))
        at_once = batches_at_once(self.device, len(first))
        for batch in map_at_once(self._compute, chain(first, batches), at_once):
            yield from batch

    def _batches(self, windows: Iterable[Window]) -> Iterator[list[Window]]:
        """Neighbouring windows, up to ``batch_seconds`` together."""
        batch: list[Window] = []
        for window in windows:
            longest = max([len(window.samples), *(len(other.samples) for other in batch)])
            if batch and longest * (len(batch) + 1) > self.batch_seconds * SAMPLE_RATE:
                yield batch
                batch = []
            batch.append(window)
        if batch:
            yield batch

    def _compute(self, windows: list[Window]) -> list[tuple[Window, Tensor]]:
        log_probs = self._together([window.samples for window in windows])
        return [(w, frames[w.start : w.stop]) for w, frames in zip(windows, log_probs)]

    @torch.inference_mode()
    def _together(self, waveforms: list[Tensor]) -> list[Tensor]:
        if not waveforms:
            return []
        batch = collate(waveforms)
        batch.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            log_probs, frames = self.model(batch.waveforms, batch.lengths)  # [B, T, V], [B]
        return [row[:count] for row, count in zip(log_probs.cpu(), frames.tolist())]


def _drained(blocks: Iterable[Tensor]) -> Iterator[tuple[float, Iterable[Tensor]]]:
    """No stretches; reads ``blocks`` to their end, so that the recording's length is known."""
    for _ in blocks:
        pass
    yield from ()
