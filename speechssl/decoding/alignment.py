"""When each word of a given text is said: forced alignment with a CTC model.

Short recordings are aligned at once (torchaudio's ``forced_align``, Viterbi over the CTC lattice;
Graves et al. 2006). Its memory grows with frames times tokens, so a long recording is first cut
where the model, without knowing the text, writes the same characters as stand there (anchors, as
in Moreno et al. 1998, "A recursive algorithm for the forced alignment of very long audio
segments"), and the parts are aligned one by one.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from speechssl.data.normalization import normalize_text
from speechssl.data.text import BLANK, ctc_frames
from speechssl.decoding.edges import LevelMeter
from speechssl.decoding.transcriber import Transcriber
from speechssl.decoding.transcript import Transcript, Word
from speechssl.decoding.words import TokenSpan, to_words
from speechssl.errors import AudioError, TokensError
from speechssl.frames import FRAME_RATE

PART_FRAMES = 60 * FRAME_RATE
"""A recording is cut at the first anchor after every minute."""

ANCHOR_TOKENS = 12
"""Tokens that the model must write as they stand in the text to make an anchor."""

MAX_LATTICE = 500_000_000
"""Frames times states (two per token) that are aligned at once, a byte each."""


def align_stream(
    transcriber: Transcriber, blocks: Iterable[Tensor], text: str, language: str | None = None
) -> Transcript:
    """The words of ``text`` with the times at which they are said in a recording.

    ``blocks`` are [S] float32 at 16 kHz, one behind the other; of the log-probabilities all are
    held, in half precision. The text is normalised for the model as transcripts are for training,
    word by word (``language`` says how numbers are read); the result has the words as they were
    written. Raises ``TokensError`` if nothing is left of the text or the model cannot spell it,
    and ``AudioError`` if the recording is too short for it or they have nothing in common.
    """
    written, spoken = _written_and_spoken(text, language)
    ids = transcriber.tokens.encode(" ".join(" ".join(words) for words in spoken))
    meter = LevelMeter()
    pieces = [piece.half() for piece in transcriber.stream_log_probs(meter.listen(blocks))]
    log_probs = torch.cat(pieces) if pieces else torch.empty(0, len(transcriber.tokens)).half()
    spans = [span for part in _parts(log_probs, ids) for span in _align_part(log_probs, ids, part)]
    words = to_words(
        spans,
        transcriber.tokens,
        num_frames=len(log_probs),
        levels=meter.levels(0.0, len(log_probs) / FRAME_RATE),
    )
    joined = _join(words, written, [len(words) for words in spoken])
    return Transcript(" ".join(w.text for w in joined), joined, round(meter.seconds, 3))


def align(log_probs: Tensor, ids: list[int]) -> list[TokenSpan]:
    """When each token of ``ids`` is written, on the most probable path that writes just them.

    ``log_probs`` [T, V] float32. Raises ``AudioError`` if T is too small or both are too large.
    """
    from torchaudio.functional import forced_align, merge_tokens

    seconds = len(log_probs) / FRAME_RATE
    if len(log_probs) < ctc_frames(ids):
        raise AudioError(
            f"{seconds:.1f} s of audio are too short for {len(ids)} tokens of text; "
            "check that they belong together."
        )
    if len(log_probs) * 2 * len(ids) > MAX_LATTICE:
        raise AudioError(
            f"in {seconds / 60:.0f} minutes the model hears nothing of what the text says; check "
            "that they belong together, or align shorter recordings."
        )
    if not ids:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that torchaudio 2.9 will not have it, but it has
        path, scores = forced_align(log_probs[None], torch.tensor([ids]), blank=BLANK)
    return [
        TokenSpan(span.token, span.start, span.end, float(scores[0, span.start : span.end].max()))
        for span in merge_tokens(path[0], scores[0], blank=BLANK)
    ]


# --- long recordings -------------------------------------------------------------------------

Cut = tuple[int, int]
"""(frame, token): what is before and what is behind can be aligned by itself."""


def _parts(log_probs: Tensor, ids: list[int]) -> list[tuple[Cut, Cut]]:
    """Where each part begins and ends."""
    cuts = [(0, 0)]
    if len(log_probs) > PART_FRAMES:
        for frame, token in anchors(log_probs, ids):
            if frame - cuts[-1][0] >= PART_FRAMES:
                cuts.append((frame, token))
    return list(pairwise([*cuts, (len(log_probs), len(ids))]))


def anchors(log_probs: Tensor, ids: list[int]) -> list[Cut]:
    """Where the model by itself writes what stands in the text, in order.

    ``log_probs`` [T, V], ``ids`` the tokens of the text. Each is the middle of a run of at least
    ``ANCHOR_TOKENS`` tokens that are equal in the best alignment (least edits) of both.
    """
    best = log_probs.argmax(-1)
    begins = torch.ones_like(best, dtype=torch.bool)
    begins[1:] = best[1:] != best[:-1]
    frames = (begins & (best != BLANK)).nonzero()[:, 0].tolist()
    heard = best[frames].tolist()
    found = []
    for edit in Levenshtein.opcodes(heard, ids):
        length = edit.src_end - edit.src_start
        if edit.tag == "equal" and length >= ANCHOR_TOKENS:
            found.append((frames[edit.src_start + length // 2], edit.dest_start + length // 2))
    return found


def _align_part(log_probs: Tensor, ids: list[int], part: tuple[Cut, Cut]) -> list[TokenSpan]:
    (frame, token), (frame_stop, token_stop) = part
    return [
        TokenSpan(span.token, span.start + frame, span.stop + frame, span.log_prob)
        for span in align(log_probs[frame:frame_stop].float(), ids[token:token_stop])
    ]


# --- words as they are written ---------------------------------------------------------------


def _written_and_spoken(text: str, language: str | None) -> tuple[list[str], list[list[str]]]:
    """The words of ``text``, and those that are said for each (42: forty two).

    What is not said (a dash) is kept with the word before it.
    """
    written: list[str] = []
    spoken: list[list[str]] = []
    before = ""
    for word in text.split():
        said = normalize_text(word, language).split()
        if said:
            written.append(before + word)
            spoken.append(said)
            before = ""
        elif written:
            written[-1] += f" {word}"
        else:
            before += f"{word} "
    if not written:
        raise TokensError("the text holds no word to align; give the words that are said.")
    return written, spoken


def _join(words: list[Word], written: list[str], counts: Sequence[int]) -> list[Word]:
    """The words as they are ``written``; each is said in ``counts`` of ``words``, one or more."""
    joined = []
    first = 0
    for text, count in zip(written, counts):
        said = words[first : first + count]
        first += count
        symbols = [symbol for word in said for symbol in word.symbols]
        total = sum(math.log(max(w.confidence, 1e-30)) * len(w.symbols) for w in said)
        confidence = round(math.exp(total / len(symbols)), 4)
        joined.append(Word(text, said[0].start, said[-1].end, confidence, symbols))
    return joined
