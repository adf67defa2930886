"""Finding the weights of a beam search on development data.

The log-probabilities are computed once and decoded again and again. A coarse grid over the weight
of the language model and the score of a word comes first; then the best point's neighbourhood, at
half the distance each time. What is chosen is the middle of all that is about as good as the best:
development data are few, and which of these is ahead by a word or two is luck.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from speechssl.decoding.beam import BeamDecoder
from speechssl.decoding.decoder import Decoder
from speechssl.decoding.settings import DecodingSettings
from speechssl.files import atomic_path

LM_WEIGHTS = (0.25, 0.5, 1.0, 2.0, 4.0)
WORD_SCORES = (-2.0, 0.0, 2.0, 4.0)
"""The coarse grid."""

UNKNOWN_SCORES = (-1.0, 0.0, -2.0, -4.0, -8.0)
"""Of an open vocabulary: the first one for all of the grid, all of them at its best point. With the
last, words that the language model does not know are rare."""

OPEN_BEAM = 15
"""Readings to keep while the weights of an open vocabulary are looked for, which takes long: on AN4
the WERs are 0.1 to 0.6 points higher than with 50, in about the same order, in a third of the time.
"""

OPEN_RECORDINGS = 500
"""Most recordings, taken evenly, that are decoded then."""

NEARER = ((2**0.5, 1.0), (2**0.25, 0.5))
"""The neighbourhood of the best point is searched at half the distance, and at half of that: the
factor of the language model's weight, and the step of a score."""

AS_GOOD = 0.05
"""A trial with this share more errors than the best is as good as it."""


@dataclass(frozen=True)
class Trial:
    """The word error rate of one choice of settings (1.0 is 100 %)."""

    settings: DecodingSettings
    wer: float


def tune(
    loaded: BeamDecoder, log_probs: Sequence[Tensor], references: Sequence[str]
) -> list[Trial]:
    """Tries weights and returns all trials: the chosen one, then the others, the best first.

    ``loaded`` has the files, the hotwords and the beam to search with; ``log_probs`` are [T_i, V]
    with their ``references``. Of equally good trials, the one with the smaller weights comes first.
    With an open vocabulary, at most ``OPEN_BEAM`` readings are kept while decoding at most
    ``OPEN_RECORDINGS``; only the chosen settings are tried with all of both.
    """
    opened, with_words = loaded.settings.open_vocabulary, loaded.has_words
    full_beam = loaded.settings.beam_size
    settings = replace(loaded.settings, beam=min(full_beam, OPEN_BEAM) if opened else full_beam)
    if opened:
        settings = replace(settings, unknown_score=UNKNOWN_SCORES[0])
    word_scores = WORD_SCORES if with_words else (settings.word_score,)
    total = len(LM_WEIGHTS) * len(word_scores) + len(NEARER) * (8 if with_words else 2)
    total += len(UNKNOWN_SCORES) + len(NEARER) * 2 if opened else 0
    every = max(1, math.ceil(len(log_probs) / OPEN_RECORDINGS)) if opened else 1
    done: dict[DecodingSettings, Trial] = {}
    with tqdm(total=total, desc="settings", unit="trial", disable=None) as progress:

        def attempt(candidates: Iterable[DecodingSettings]) -> None:
            for candidate in candidates:
                if candidate not in done:
                    decoder = loaded.reweighted(candidate)
                    wer = word_error_rate(decoder, log_probs[::every], references[::every])
                    done[candidate] = Trial(candidate, wer)
                    progress.update()

        attempt(
            replace(settings, lm_weight=lm_weight, word_score=word_score)
            for lm_weight in LM_WEIGHTS
            for word_score in word_scores
        )
        if opened:
            best = _ranked(done)[0].settings
            attempt(replace(best, unknown_score=score) for score in UNKNOWN_SCORES)
        for factor, distance in NEARER:
            best = _ranked(done)[0].settings
            attempt(_neighbours(best, factor, distance if with_words else 0.0))
            if opened:
                scores = (best.unknown_score - distance, best.unknown_score + distance)
                attempt(replace(best, unknown_score=score) for score in scores)
    chosen = done.pop(middle(_ranked(done)).settings)
    if opened:
        settings = replace(chosen.settings, beam=full_beam)
        wer = word_error_rate(loaded.reweighted(settings), log_probs, references)
        chosen = Trial(settings, wer)
    return [chosen, *_ranked(done)]


def _neighbours(best: DecodingSettings, factor: float, distance: float) -> list[DecodingSettings]:
    """``best`` and its neighbours in the weight of the language model and the score of a word."""
    return [
        replace(best, lm_weight=round(lm_weight, 3), word_score=best.word_score + step)
        for lm_weight in (best.lm_weight / factor, best.lm_weight, best.lm_weight * factor)
        for step in (-distance, 0.0, distance)
    ]


def _ranked(done: dict[DecodingSettings, Trial]) -> list[Trial]:
    def merit(trial: Trial) -> tuple[float, ...]:
        settings = trial.settings
        return trial.wer, settings.lm_weight, abs(settings.word_score), -settings.unknown_score

    return sorted(done.values(), key=merit)


def middle(ranked: Sequence[Trial]) -> Trial:
    """The trial nearest to the median weights of all that are as good as the first."""

    def place(trial: Trial) -> NDArray[np.float64]:  # steps of the coarse grid are 2 both ways
        settings = trial.settings
        weight = 2 * np.log2(settings.lm_weight)
        return np.array([weight, settings.word_score, settings.unknown_score])

    good = [trial for trial in ranked if trial.wer <= ranked[0].wer * (1 + AS_GOOD)]
    median = np.median([place(trial) for trial in good], axis=0)
    return min(good, key=lambda trial: float(np.square(place(trial) - median).sum()))


def word_error_rate(
    decoder: Decoder, log_probs: Sequence[Tensor], references: Sequence[str]
) -> float:
    """The WER (1.0 is 100 %) of the best readings of ``log_probs``, each [T_i, V]."""
    texts = [decoder.decode(recording)[0].text for recording in log_probs]
    return float(jiwer.process_words(list(references), texts).wer)


def draw_trials(trials: Sequence[Trial], path: Path | str) -> None:
    """Draws the WER over the two weights (over one, if only one was varied; with an open vocabulary
    over the score of unknown words) as a PNG."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    lm_weights = [trial.settings.lm_weight for trial in trials]
    word_scores = [trial.settings.word_score for trial in trials]
    wers = [100 * trial.wer for trial in trials]
    chosen = trials[0].settings
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    ring: dict[str, Any] = {"s": 400, "facecolors": "none", "edgecolors": "C3", "linewidths": 2}
    if chosen.open_vocabulary:
        unknown_scores = [trial.settings.unknown_score for trial in trials]
        points = axes.scatter(unknown_scores, wers, c=lm_weights, s=120, cmap="viridis")
        figure.colorbar(points, label="weight of the language model")
        axes.scatter(unknown_scores[:1], wers[:1], **ring)
        axes.set_xlabel("score of a word that the language model does not know")
        axes.set_ylabel("WER (%)")
        axes.grid(color="0.92")
    else:
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(LM_WEIGHTS), [f"{weight:g}" for weight in LM_WEIGHTS])
        axes.set_xlabel("weight of the language model")
        if len(set(word_scores)) > 1:
            points = axes.scatter(lm_weights, word_scores, c=wers, s=360, cmap="viridis_r")
            figure.colorbar(points, label="WER (%)")
            halfway = (min(wers) + max(wers)) / 2
            for x, y, wer in zip(lm_weights, word_scores, wers):
                color = "black" if wer < halfway else "white"
                axes.text(x, y, f"{wer:.1f}", ha="center", va="center", fontsize=7, color=color)
            axes.scatter(lm_weights[:1], word_scores[:1], **ring)
            axes.set_ylabel("score of a word")
            axes.margins(0.12)
        else:
            axes.plot(*zip(*sorted(zip(lm_weights, wers))), "o-")
            axes.plot(lm_weights[:1], wers[:1], "o", color="C3")
            axes.set_ylabel("WER (%)")
            axes.grid(color="0.92")
    axes.set_title(f"chosen: {wers[0]:.2f} %, lowest: {min(wers):.2f} %", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)
