"""Decoding a whole manifest: batches by length, read ahead, hypotheses in the manifest's order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from speechssl.data.audio import read_cut
from speechssl.data.loading import sorted_batches
from speechssl.data.manifest import cut_text
from speechssl.data.text import Tokens
from speechssl.decoding.ahead import compute_batches
from speechssl.decoding.progress import AudioProgress
from speechssl.decoding.segments import mark_pauses
from speechssl.decoding.transcriber import Transcriber
from speechssl.decoding.words import confidence_of, token_spans
from speechssl.errors import AudioError, TokensError
from speechssl.hypotheses import Hypothesis

if TYPE_CHECKING:
    from lhotse import CutSet, MonoCut


def check_references(cuts: CutSet, tokens: Tokens) -> None:
    """Raises ``TokensError``, naming cut and character, if a transcript cannot be spelled.

    A model can never write a character that it has no token for, so such a reference mostly
    means transcripts that were not normalised as those of the training. Words that a recogniser
    of phones can write are those of its lexicon, so there is nothing to check.
    """
    if tokens.units == "phones":
        return
    for cut in cuts:
        try:
            tokens.encode(cut_text(cut) or "")
        except TokensError as error:
            advice = "or give --allow-unknown to count such characters as errors"
            raise TokensError(f"cut {cut.id!r}: {str(error).rstrip('.')}, {advice}.") from None


def decode_cuts(
    transcriber: Transcriber, cuts: CutSet, *, nbest: int = 1
) -> tuple[list[Hypothesis], dict[str, str]]:
    """Transcribes all ``cuts``, in batches of up to the transcriber's ``batch_seconds``.

    Returns the hypotheses in the order of ``cuts``, and for each cut whose recording could not
    be read (it is left out) the reason. With ``nbest`` above 1 each hypothesis also has up to so
    many readings, if the transcriber's decoder gives them. Shows a progress bar where stderr is a
    terminal.
    """
    found: dict[str, Hypothesis] = {}
    log_probs, bad = _log_probs(transcriber, cuts)
    for cut, recording in log_probs:
        readings = transcriber.decoder.decode(recording)
        best = readings[0]
        found[cut.id] = Hypothesis(
            cut.id,
            best.text,
            cut_text(cut),
            round(cut.duration, 3),
            confidence_of(token_spans(recording, best.tokens, best.frames)),
            [{"text": r.text, "score": round(r.score, 3)} for r in readings[:nbest]]
            if nbest > 1
            else None,
        )
    return [found[cut.id] for cut in cuts if cut.id in found], bad


def log_probs_of_cuts(
    transcriber: Transcriber, cuts: CutSet
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The log-probabilities [T, V] of each cut, and the reasons of cuts that cannot be read."""
    log_probs, bad = _log_probs(transcriber, cuts)
    return {cut.id: recording for cut, recording in log_probs}, bad


def _log_probs(
    transcriber: Transcriber, cuts: CutSet
) -> tuple[Iterator[tuple[MonoCut, Tensor]], dict[str, str]]:
    """Computes what the iterator asks for; the dictionary fills with what cannot be read.

    Pauses are marked, as in everything that the transcriber decodes.
    """
    bad: dict[str, str] = {}

    def compute() -> Iterator[tuple[MonoCut, Tensor]]:
        total = sum(cut.duration for cut in cuts)
        with AudioProgress("decode", total) as progress:
            batches = list(sorted_batches(cuts, transcriber.batch_seconds))
            for batch in compute_batches(transcriber, read_cut, batches):
                for cut, computed in batch:
                    if isinstance(computed, AudioError):
                        bad[cut.id] = str(computed)
                    else:
                        yield cut, mark_pauses(computed[1], transcriber.separator)
                progress.update(sum(cut.duration for cut, _ in batch))

    return compute(), bad
