"""Greedy (best path) CTC decoding.

Source: Graves et al. 2006, "Connectionist temporal classification", section 3.2: take the most
probable token of every frame, collapse repetitions, then drop the blanks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from speechssl.data.text import BLANK, Tokens
from speechssl.decoding.decoder import Decoded


class GreedyDecoder:
    """The most probable path of one recording; its score is the log-probability of that path."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    def decode(self, log_probs: Tensor) -> list[Decoded]:
        """One reading of ``log_probs`` [T, V]."""
        scores, best = log_probs.max(-1)  # [T], [T]
        frames = _first_frames(best[None])[0].nonzero()[:, 0]
        ids = best[frames].tolist()
        return [Decoded(self.tokens.decode(ids), ids, frames.tolist(), float(scores.sum()))]


def greedy_decode(log_probs: Tensor, num_frames: Tensor, tokens: Tokens) -> list[str]:
    """The texts of a padded batch, on any device; this is what validation uses.

    ``log_probs`` [B, T, V] (any monotonic score will do), ``num_frames`` [B] the frames of each
    recording; what stands behind them is ignored. Returns B texts.
    """
    best = log_probs.argmax(-1)  # [B, T]
    inside = torch.arange(best.shape[1], device=best.device) < num_frames[:, None].to(best.device)
    kept = _first_frames(best) & inside
    return [tokens.decode(row[keep].tolist()) for row, keep in zip(best.cpu(), kept.cpu())]


def _first_frames(best: Tensor) -> Tensor:
    """Where in the paths ``best`` [B, T] a token is written: neither a blank nor a repetition."""
    repeated = torch.zeros_like(best, dtype=torch.bool)
    repeated[:, 1:] = best[:, 1:] == best[:, :-1]
    return (best != BLANK) & ~repeated
