"""How to decode: greedily, or by beam search with a language model and hotwords."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

from speechssl.config import build, read_yaml, require, to_dict, write_yaml
from speechssl.data.text import Tokens
from speechssl.decoding.decoder import Decoder
from speechssl.decoding.greedy import GreedyDecoder
from speechssl.errors import ConfigError
from speechssl.files import write_text

logger = logging.getLogger("speechssl")

BEAM = 50
"""Readings kept from frame to frame, where nothing else is said."""


@dataclass(frozen=True)
class DecodingSettings:
    """What ``speechssl tune-decoding`` writes to a ``decoding.yaml``, and the options change.

    Raises ``ConfigError`` for a value out of range.
    """

    lm: str | None = None
    """An n-gram language model: an ARPA file or a KenLM binary."""

    lexicon: str | None = None
    """The words that may be written and how. By default those of an ARPA file of words, which a
    recogniser of phones cannot spell: without a lexicon it writes phones."""

    beam: int | None = None
    """Readings kept from frame to frame. None is ``BEAM`` if anything here needs a beam search, and
    otherwise greedy decoding."""

    lm_weight: float = 1.0
    """Of the language model's log10 probability."""

    open_vocabulary: bool = False
    """Whether words are also written that the language model, an ARPA file of words, does not know:
    as they are spelled (``speechssl.decoding.open_vocabulary``)."""

    word_score: float = 1.5
    """Added for each word; larger values write more words. Has an effect only with a lexicon or a
    language model of words."""

    unknown_score: float = -1.0
    """Added for each word that only ``open_vocabulary`` can write; smaller values write fewer."""

    hotwords: tuple[str, ...] = ()
    """Words and phrases to expect, written as the transcripts are."""

    hotword_weight: float = 8.0
    """Added for each word of a hotword, in nats."""

    nbest: int = 1
    """Readings to return."""

    def __post_init__(self) -> None:
        require(self.beam is None or self.beam >= 1, "beam", "at least 1", self.beam)
        require(self.lm_weight >= 0, "lm_weight", "at least 0", self.lm_weight)
        require(self.hotword_weight >= 0, "hotword_weight", "at least 0", self.hotword_weight)
        require(self.nbest >= 1, "nbest", "at least 1", self.nbest)
        if self.open_vocabulary:
            if self.lm is None or self.lexicon is not None:
                raise ConfigError(
                    "open_vocabulary: needs a language model of words (lm), an ARPA file, whose "
                    "words tell how others are spelled, and no lexicon."
                )
            require(self.lm_weight > 0, "lm_weight", "positive with open_vocabulary", 0)
        require(all(map(str.split, self.hotwords)), "hotwords", "words", self.hotwords)

    @property
    def greedy(self) -> bool:
        """Whether nothing here needs a beam search."""
        asked = self.beam or self.lm or self.lexicon or self.hotwords or self.nbest > 1
        return not asked

    @property
    def beam_size(self) -> int:
        """Readings kept from frame to frame, no fewer than are returned."""
        return max(self.beam or BEAM, self.nbest)

    @classmethod
    def load(cls, path: Path | str) -> DecodingSettings:
        """Reads a ``decoding.yaml``, whose paths are relative to its folder.

        Raises ``ConfigError`` if it is missing or has unknown or bad values.
        """
        settings = build(cls, read_yaml(path), str(path))
        folder = Path(path).parent
        return replace(
            settings,
            lm=None if settings.lm is None else str(folder / settings.lm),
            lexicon=None if settings.lexicon is None else str(folder / settings.lexicon),
        )

    def save(self, path: Path | str) -> None:
        """Writes a ``decoding.yaml`` that ``load`` reads, with paths relative to its folder."""
        folder = Path(path).resolve().parent
        values = to_dict(self)
        for name in ("lm", "lexicon"):
            if values[name] is not None:
                values[name] = os.path.relpath(Path(values[name]).resolve(), folder)
        known = {name: value for name, value in values.items() if value not in (None, [])}
        write_text(path, write_yaml(known))


def make_decoder(settings: DecodingSettings, tokens: Tokens) -> Decoder:
    """The decoder that ``settings`` describe, for a model that writes ``tokens``.

    Raises ``LanguageModelError`` if the language model or the lexicon cannot be used.
    """
    if tokens.units == "phones" and settings.lexicon is None:
        logger.warning("the recogniser writes phones; give --lexicon to get words")
    if settings.greedy:
        return GreedyDecoder(tokens)
    from speechssl.decoding.beam import BeamDecoder  # only a beam search needs flashlight-text

    return BeamDecoder(tokens, settings)
