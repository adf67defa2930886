"""Finding the weights of a beam search on development data.

The log-probabilities are computed once and decoded again and again. A coarse grid over the weight
of the language model and the score of a word comes first; then the best point's neighbourhood, at
half the distance each time. What is chosen is the middle of all that is about as good as the best:
development data are few, and which of these is ahead by a word or two is luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

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

HALVINGS = 2
"""How often the neighbourhood of the best point is searched at half the distance."""

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
    """
    done: dict[DecodingSettings, Trial] = {}
    settings = replace(loaded.settings, beam=loaded.settings.beam_size)
    with_words = loaded.has_words
    word_scores = WORD_SCORES if with_words else (settings.word_score,)
    neighbours = 8 if with_words else 2
    total = len(LM_WEIGHTS) * len(word_scores) + HALVINGS * neighbours
    with tqdm(total=total, desc="settings", unit="trial", disable=None) as progress:

        def attempt(lm_weight: float, word_score: float) -> None:
            trial = replace(settings, lm_weight=lm_weight, word_score=word_score)
            if trial not in done:
                decoder = loaded.reweighted(trial)
                done[trial] = Trial(trial, word_error_rate(decoder, log_probs, references))
                progress.update()

        for lm_weight in LM_WEIGHTS:
            for word_score in word_scores:
                attempt(lm_weight, word_score)
        factor, distance = 2.0, 2.0
        for _ in range(HALVINGS):
            factor, distance = factor**0.5, distance / 2
            best = _ranked(done)[0].settings
            for lm_weight in (best.lm_weight / factor, best.lm_weight, best.lm_weight * factor):
                for step in (-distance, 0.0, distance) if with_words else (0.0,):
                    attempt(round(lm_weight, 3), best.word_score + step)
    ranked = _ranked(done)
    chosen = middle(ranked)
    return [chosen, *(trial for trial in ranked if trial is not chosen)]


def _ranked(done: dict[DecodingSettings, Trial]) -> list[Trial]:
    def merit(trial: Trial) -> tuple[float, ...]:
        return trial.wer, trial.settings.lm_weight, abs(trial.settings.word_score)

    return sorted(done.values(), key=merit)


def middle(ranked: Sequence[Trial]) -> Trial:
    """The trial nearest to the median weights of all that are as good as the first."""

    def place(trial: Trial) -> NDArray[np.float64]:  # steps of the coarse grid are 2 both ways
        return np.array([2 * np.log2(trial.settings.lm_weight), trial.settings.word_score])

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
    """Draws the WER over the two weights (over one, if only one was varied) as a PNG."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    lm_weights = [trial.settings.lm_weight for trial in trials]
    word_scores = [trial.settings.word_score for trial in trials]
    wers = [100 * trial.wer for trial in trials]
    chosen = trials[0]
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
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
        axes.scatter(
            [chosen.settings.lm_weight], [chosen.settings.word_score],
            s=400, facecolors="none", edgecolors="C3", linewidths=2,
        )  # fmt: skip
        axes.set_ylabel("score of a word")
        axes.margins(0.12)
    else:
        axes.plot(*zip(*sorted(zip(lm_weights, wers))), "o-")
        axes.plot([chosen.settings.lm_weight], [100 * chosen.wer], "o", color="C3")
        axes.set_ylabel("WER (%)")
        axes.grid(color="0.92")
    axes.set_title(f"chosen: {100 * chosen.wer:.2f} %, lowest: {min(wers):.2f} %", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)
