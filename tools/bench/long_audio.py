"""How well a long recording is transcribed: one that is made by joining short ones with pauses.

    python -m tools.bench.long_audio MODEL data/test/cuts.jsonl.gz exp/long --hours 2

Writes OUT/long.wav, transcribes it in a process of its own, and prints
- the word error rate of the long recording and of the utterances one by one;
- how far the words are, in time, from the same words of the utterances one by one;
- how far the first and last word of each utterance are from where its sound begins and ends
  (its level rises above 30 dB below its peak, in steps of 10 ms);
- the speed and the peak memory of that process.
"""

from __future__ import annotations

import json
import math
import random
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import click
import jiwer
import numpy as np
import soundfile
from numpy.typing import NDArray

from speechssl.cli.main import OneLineErrors
from speechssl.data.audio import read_cut
from speechssl.data.manifest import cut_text, load_cuts
from speechssl.decoding.transcriber import Transcriber
from speechssl.decoding.transcript import Word
from speechssl.frames import SAMPLE_RATE

PAUSES = (0.5, 1.5)
"""Shortest and longest pause between utterances, in seconds."""

QUIET = 0.1
"""Pauses are noise with the spectrum of the quietest tenth of the utterance that follows."""


@dataclass
class Utterance:
    """One of the recordings that were joined."""

    text: str
    start: float  # seconds in the long recording at which its samples begin
    end: float
    sound: tuple[float, float]  # where its sound begins and ends, in the long recording
    words: list[Word]  # by itself, in times of the long recording


@click.command(cls=OneLineErrors, help=__doc__.split("\n")[0] if __doc__ else None)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("cuts", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--hours", default=2.0, show_default=True, help="Length of the recording.")
@click.option("--vad", is_flag=True, help="Skip silence, as speechssl transcribe does.")
@click.option("--worker", is_flag=True, hidden=True, help="Only transcribe, in this process.")
def main(model: Path, cuts: Path, out: Path, hours: float, vad: bool, worker: bool) -> None:
    """See the module's description."""
    if worker:
        transcribe(model, out, vad)
        return
    out.mkdir(parents=True, exist_ok=True)
    utterances = join(model, cuts, out / "long.wav", hours)
    again = [sys.executable, "-m", "tools.bench.long_audio", model, cuts, out, "--worker"]
    subprocess.run([*map(str, again), *["--vad"] * vad], check=True)
    result = json.loads((out / "long.json").read_text())
    words = [Word(word["text"], word["start"], word["end"], 0.0) for word in result["words"]]
    report(utterances, words)
    click.echo(
        f"{result['seconds'] / 3600:.2f} h in {result['elapsed']:.0f} s "
        f"({result['seconds'] / result['elapsed']:.0f} times real time), "
        f"peak memory {result['peak_mb']:.0f} MB"
    )


def join(model: Path, manifest: Path, path: Path, hours: float) -> list[Utterance]:
    """Writes the long recording: the utterances in random orders, over and over."""
    rng = random.Random(1)
    noise = np.random.default_rng(1)
    transcriber = Transcriber(model)
    alone: list[tuple[str, NDArray[np.float32], list[Word]]] = []
    for cut in load_cuts(manifest):
        waveform = read_cut(cut)
        [transcript] = transcriber.transcripts([waveform])
        alone.append((cut_text(cut) or "", waveform.numpy(), transcript.words))
    utterances: list[Utterance] = []
    position = 0.0
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1) as file:
        while position < 3600 * hours:
            for text, samples, words in rng.sample(alone, len(alone)):
                pause = round(rng.uniform(*PAUSES) * SAMPLE_RATE)
                file.write(background(samples, noise.standard_normal(pause)))
                file.write(samples)
                start = position + pause / SAMPLE_RATE
                position = start + len(samples) / SAMPLE_RATE
                begin, end = (start + second for second in sound(samples))
                moved = [replace(w, start=w.start + start, end=w.end + start) for w in words]
                utterances.append(Utterance(text, start, position, (begin, end), moved))
    return utterances


def sound(samples: NDArray[np.float32]) -> tuple[float, float]:
    """Where the sound begins and ends, in seconds."""
    power = _power(samples)
    loud = (power > power.max() / 1000).nonzero()[0]
    return float(loud[0]) / 100, float(loud[-1] + 1) / 100


def background(samples: NDArray[np.float32], white: NDArray[np.float64]) -> NDArray[np.float64]:
    """White noise [N] of variance 1 with the spectrum of the quietest parts of an utterance."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, 400)[::160]  # 25 ms every 10
    quiet = np.argsort(np.square(frames).mean(1))[: math.ceil(QUIET * len(frames))]
    window = np.hanning(400)
    power = np.square(np.abs(np.fft.rfft(frames[quiet] * window))).mean(0)
    gain = np.sqrt(power / np.square(window).sum())  # of each frequency
    frequencies = np.linspace(0, 1, len(white) // 2 + 1)
    shaped = np.fft.rfft(white) * np.interp(frequencies, np.linspace(0, 1, len(gain)), gain)
    return np.fft.irfft(shaped, len(white))


def _power(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean square in steps of 10 ms."""
    return np.square(samples[: len(samples) // 160 * 160].reshape(-1, 160)).mean(1)


def transcribe(model: Path, out: Path, vad: bool) -> None:
    """Transcribes the long recording and writes what it took."""
    from speechssl.decoding.bulk import transcribe_files

    activity = None
    if vad:
        from speechssl.data.vad import VoiceActivity

        activity = VoiceActivity()
    transcriber = Transcriber(model)
    began = time.perf_counter()
    [(_, transcript)] = transcribe_files(transcriber, [out / "long.wav"], [None], activity=activity)
    if isinstance(transcript, Exception):
        raise transcript
    result = {
        "words": [{"text": w.text, "start": w.start, "end": w.end} for w in transcript.words],
        "seconds": transcript.seconds,
        "elapsed": time.perf_counter() - began,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    (out / "long.json").write_text(json.dumps(result))


def report(utterances: list[Utterance], words: list[Word]) -> None:
    """Prints the comparison."""
    references = [utterance.text for utterance in utterances]
    alone = [" ".join(word.text for word in utterance.words) for utterance in utterances]
    each = jiwer.wer(references, alone)
    whole = jiwer.wer(" ".join(references), " ".join(word.text for word in words))
    click.echo(
        f"WER: {100 * each:.2f} % one by one, {100 * whole:.2f} % in one recording "
        f"({100 * (whole / each - 1):+.2f} % relative)"
    )
    found = [
        [w for w in words if u.start - 0.25 <= (w.start + w.end) / 2 < u.end + 0.25]
        for u in utterances
    ]
    same = [
        (long.start - short.start, long.end - short.end)
        for utterance, group in zip(utterances, found)
        if [word.text for word in group] == [word.text for word in utterance.words]
        for long, short in zip(group, utterance.words)
    ]
    if same:
        _times(f"the same {len(same)} words one by one, in utterances read alike", same)
    joins = [
        (group[0].start - utterance.sound[0], group[-1].end - utterance.sound[1])
        for utterance, group in zip(utterances, found)
        if group
    ]
    if joins:
        _times(f"the sound of {len(joins)} utterances, first and last word", joins)


def _times(name: str, differences: list[tuple[float, float]]) -> None:
    starts, ends = np.abs(np.array(differences)).T * 1000
    click.echo(
        f"times against {name}: start median {np.median(starts):.0f} ms, 90 % within "
        f"{np.quantile(starts, 0.9):.0f} ms; end median {np.median(ends):.0f} ms, 90 % within "
        f"{np.quantile(ends, 0.9):.0f} ms"
    )


if __name__ == "__main__":
    main()
