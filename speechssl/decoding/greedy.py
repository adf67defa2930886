"""Greedy (best path) CTC decoding.

Source: Graves et al. 2006, "Connectionist temporal classification", section 3.2: take the most
probable token of every frame, collapse repetitions, then drop the blanks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from speechssl.data.text import BLANK, Tokens


def greedy_decode(log_probs: Tensor, num_frames: Tensor, tokens: Tokens) -> list[str]:
    """The text of each recording.

    ``log_probs`` [B, T, V] (any monotonic score will do), ``num_frames`` [B] the frames of each
    recording; what stands behind them is ignored. Returns B texts.
    """
    best = log_probs.argmax(-1)  # [B, T]
    repeated = torch.zeros_like(best, dtype=torch.bool)
    repeated[:, 1:] = best[:, 1:] == best[:, :-1]
    inside = torch.arange(best.shape[1], device=best.device) < num_frames[:, None].to(best.device)
    kept = (best != BLANK) & ~repeated & inside
    return [tokens.decode(row[keep].tolist()) for row, keep in zip(best.cpu(), kept.cpu())]
