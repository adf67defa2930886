"""CTC beam search with an n-gram language model and hotwords, by flashlight-text.

Sources: Hannun et al. 2014, "First-pass large vocabulary continuous speech recognition using
bi-directional recurrent DNNs" (prefix beam search); Collobert et al. 2016, "Wav2Letter", section
2.4 (lexicon as a prefix tree with language model look-ahead). A reading has the score

    log P(reading | audio) + lm_weight * log10 P_lm(words) + word_score * number of words

in which the first term sums the alignments that the beam still holds; hotwords add their credit
(see ``speechssl.decoding.hotwords``).

Three ways to search:

- with words: only words of a lexicon are written, and the language model scores words. The lexicon
  is a file, or the words of the ARPA file spelled by their characters;
- without a lexicon: any sequence of tokens may be written, and the language model, if there is one,
  scores tokens ("|" between words and after the last);
- with an open vocabulary: any sequence of tokens too, but the language model scores words, those of
  the ARPA file and all others (see ``speechssl.decoding.open_vocabulary``).

torchaudio wraps the same search, but without a lexicon its ``ctc_decoder`` numbers the tokens
otherwise for the language model than for the recogniser, so the search is called directly.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from itertools import chain

import torch
from flashlight.lib.text.decoder import (
    LM,
    CriterionType,
    DecodeResult,
    LexiconDecoder,
    LexiconDecoderOptions,
    LexiconFreeDecoder,
    LexiconFreeDecoderOptions,
    SmearingMode,
    Trie,
    ZeroLM,
)
from flashlight.lib.text.decoder.kenlm import KenLM
from flashlight.lib.text.dictionary import Dictionary
from torch import Tensor

from speechssl.data.text import BLANK, SEPARATOR, Tokens
from speechssl.decoding.decoder import Decoded
from speechssl.decoding.hotwords import ROOT, HotwordLM, PhraseMatcher
from speechssl.decoding.lexicon import Lexicon, arpa_words, is_binary, read_lexicon, spell
from speechssl.decoding.ngram import NEVER, UNKNOWN
from speechssl.decoding.open_vocabulary import OpenVocabulary, OpenVocabularyLM
from speechssl.decoding.settings import DecodingSettings
from speechssl.errors import LanguageModelError

logger = logging.getLogger("speechssl")

BEST_TOKENS = 15
"""Tokens that are tried in each frame."""

OPEN_TOKENS = 6
"""The same with an open vocabulary, where each of them asks a language model in Python."""

THRESHOLD = 25.0
"""Readings whose score is this far below the best are dropped."""

HOTWORD_BEAM = 3
"""How many times wider the beam is with hotwords and a lexicon, where every beginning of a hotword
looks promising and would otherwise push other readings out."""


class BeamDecoder:
    """Beam search as ``DecodingSettings`` describe it."""

    def __init__(self, tokens: Tokens, settings: DecodingSettings) -> None:
        """Raises ``LanguageModelError`` if a file cannot be used or does not fit ``tokens``."""
        self.tokens = tokens
        self._separator = tokens.symbols.index(SEPARATOR)
        known = lexicon = _find_lexicon(tokens, settings)
        if lexicon is not None:
            unlisted = [w for w in " ".join(settings.hotwords).split() if w not in lexicon]
            lexicon = {**_spell_hotwords(tokens, unlisted), **lexicon}
        self._lexicon = lexicon
        self._words = None if lexicon is None else [*lexicon, UNKNOWN]
        # imported models may have "<unk>" among their tokens
        dictionary = Dictionary(self._words or list(dict.fromkeys([*tokens.symbols, UNKNOWN])))
        dictionary.set_default_index(dictionary.get_index(UNKNOWN))
        self._dictionary = dictionary
        self._file_lm = _load_lm(settings.lm, dictionary)
        if settings.lm is not None and lexicon is None:
            _require_tokens(self._file_lm, dictionary, settings.lm)
        self._vocabulary: OpenVocabulary | None = None
        if settings.open_vocabulary:
            self._vocabulary = _open_vocabulary(settings.lm, self._file_lm, known, dictionary)
        self._trie: Trie | None = None
        self._weigh(settings)

    def reweighted(self, settings: DecodingSettings) -> BeamDecoder:
        """The decoder of ``settings``, which differ in weights and sizes alone: the same files and
        hotwords, which are not read again."""
        before = self.settings
        assert (settings.lm, settings.lexicon) == (before.lm, before.lexicon)
        assert settings.hotwords == before.hotwords
        assert settings.open_vocabulary == before.open_vocabulary
        other = copy(self)
        other._weigh(settings)
        return other

    def _weigh(self, settings: DecodingSettings) -> None:
        """Makes the search of ``settings`` from what is loaded."""
        self.settings = settings
        self._lm, lm_weight = self._file_lm, settings.lm_weight
        self._writes_listed = self.has_words and not settings.open_vocabulary
        if settings.open_vocabulary:
            assert self._vocabulary is not None
            self._lm = OpenVocabularyLM(
                self._vocabulary,
                self.tokens.symbols,
                self._separator,
                word_score=settings.word_score / lm_weight,
                unknown_score=settings.unknown_score / lm_weight,
            )
        if settings.hotwords:
            if settings.lm is None or lm_weight == 0:
                self._lm, lm_weight = ZeroLM(), 1.0
            self._lm = self._with_hotwords(self._lm, scale=1 / lm_weight)
        wider = HOTWORD_BEAM if settings.hotwords and self._writes_listed else 1
        best_tokens = OPEN_TOKENS if settings.open_vocabulary else BEST_TOKENS
        options = {
            "beam_size": wider * settings.beam_size,
            "beam_size_token": min(best_tokens, len(self.tokens)),
            "beam_threshold": THRESHOLD,
            "lm_weight": lm_weight,
            "sil_score": 0.0,
            "log_add": True,
            "criterion_type": CriterionType.CTC,
        }
        if self._lexicon is None or settings.open_vocabulary:
            free = LexiconFreeDecoderOptions(**options)
            self._search = LexiconFreeDecoder(free, self._lm, self._separator, BLANK, [])
            return
        closed = LexiconDecoderOptions(
            **options, word_score=settings.word_score, unk_score=-torch.inf
        )
        if self._trie is None or settings.hotwords:  # the credit of hotwords is in the tree, scaled
            self._trie = self._prefix_tree(self._lexicon)
        unknown = self._dictionary.get_index(UNKNOWN)
        self._search = LexiconDecoder(
            closed, self._trie, self._lm, self._separator, BLANK, unknown, [], False
        )

    @property
    def has_words(self) -> bool:
        """Whether the words of a lexicon are known, and ``word_score`` has an effect."""
        return self._words is not None

    def share_of_unlisted(self, texts: Iterable[str]) -> float:
        """The share of the words in ``texts`` that are in no lexicon; 0 without one."""
        words = " ".join(texts).split()
        if self._lexicon is None or not words:
            return 0.0
        return sum(word not in self._lexicon for word in words) / len(words)

    def decode(self, log_probs: Tensor) -> list[Decoded]:
        """The best readings of ``log_probs`` [T, V], at most ``settings.nbest``."""
        frames, size = log_probs.shape
        # A recording ends as a word does. Models mostly do not write the last separator, without
        # which the last word would not be complete.
        end = torch.full((1, size), -torch.inf)
        end[0, self._separator] = 0.0
        end[0, BLANK] = -THRESHOLD if self.has_words else 0.0
        emissions = torch.cat([log_probs, end]).contiguous()
        results = self._search.decode(emissions.data_ptr(), frames + 1, size)
        readings: dict[str, Decoded] = {}
        for result in results if frames else []:
            reading = self._reading(result, frames)
            readings.setdefault(reading.text, reading)
            if len(readings) == self.settings.nbest:
                break
        return list(readings.values()) or [Decoded("", [], [], 0.0)]

    def _reading(self, result: DecodeResult, frames: int) -> Decoded:
        """The path of flashlight, which has one token more at either end, without repetitions."""
        path = result.tokens[1 : frames + 1]
        ids: list[int] = []
        first_frames: list[int] = []
        for frame, (token, before) in enumerate(zip(path, [BLANK, *path])):
            beside = ids[-1] if ids else self._separator
            if token in (BLANK, before) or token == beside == self._separator:
                continue
            ids.append(token)
            first_frames.append(frame)
        if ids and ids[-1] == self._separator:
            ids.pop()
            first_frames.pop()
        if self._words is None or not self._writes_listed:
            text = self.tokens.decode(ids)
        else:
            text = " ".join(self._words[word] for word in result.words if word >= 0)
        return Decoded(text, ids, first_frames, result.score)

    def _with_hotwords(self, lm: LM, scale: float) -> HotwordLM:
        """``lm`` with credit for the hotwords, in words or, where the search is one of tokens, in
        these."""
        phrases: list[tuple[list[int], float]] = []
        for phrase in self.settings.hotwords:
            words = phrase.split()
            if not self._writes_listed:
                spelled = _spell_hotwords(self.tokens, [phrase])
                symbols = [self._separator, *chain(*(spelled[word][0] for word in words))]
            else:
                symbols = [self._dictionary.get_index(word) for word in words]
            phrases.append((symbols, self.settings.hotword_weight * len(words)))
        if self._writes_listed:
            matcher, start = PhraseMatcher(phrases), ROOT
        else:  # a recording begins as if a word had just ended
            matcher = PhraseMatcher(phrases, free=1)
            start, _ = matcher.step(ROOT, self._separator)
        return HotwordLM(lm, matcher, start=start, scale=scale)

    def _prefix_tree(self, lexicon: Lexicon) -> Trie:
        """The words of ``lexicon``, with the best score of a first word on each of its branches.
        The search multiplies it by the weight of the language model."""
        trie = Trie(len(self.tokens), self._separator)
        start = self._lm.start(False)
        for word, spellings in lexicon.items():
            index = self._dictionary.get_index(word)
            _, score = self._lm.score(start, index)
            for spelling in spellings:
                trie.insert(spelling, index, score)
        trie.smear(SmearingMode.MAX)
        return trie


def _find_lexicon(tokens: Tokens, settings: DecodingSettings) -> Lexicon | None:
    """The words to write, or None where the language model, if there is one, scores tokens."""
    if settings.lexicon is not None:
        lexicon = read_lexicon(settings.lexicon, tokens)
        lexicon.pop(UNKNOWN, None)  # how others spell what is in no lexicon
        return lexicon
    if settings.lm is None or is_binary(settings.lm):
        return None
    words = arpa_words(settings.lm)
    if SEPARATOR in words:
        if tokens.units != "characters" and not {*tokens.symbols[2:]} <= {*words}:
            raise LanguageModelError(
                f"{settings.lm}: is a model of characters, and the recogniser writes "
                f"{tokens.units}; give a model of words (speechssl lm --unit word)."
            )
        if {*words}.isdisjoint(tokens.symbols[2:]):
            raise LanguageModelError(
                f"{settings.lm}: knows none of the model's tokens "
                f"({' '.join(tokens.symbols[2:12])} ...); train it on text in the same case."
            )
        return None
    if tokens.units == "phones":
        raise LanguageModelError(
            f"{settings.lm}: the recogniser writes phones, and nothing says how words are "
            "pronounced; give --lexicon, a file with a word and its phones per line."
        )
    lexicon = spell(words, tokens)
    if not lexicon:
        raise LanguageModelError(
            f"{settings.lm}: the model's tokens ({' '.join(tokens.symbols[2:12])} ...) spell none "
            f"of its words ({' '.join(words[:5])} ...); train it on text in the same case."
        )
    unspelled = [word for word in words if word not in lexicon]
    if unspelled:
        logger.warning(
            "%s: %d of %d words are never written: the model's tokens do not spell them (%s%s)",
            *(settings.lm, len(unspelled), len(words), " ".join(unspelled[:5])),
            " ..." if len(unspelled) > 5 else "",
        )
    return lexicon


def _spell_hotwords(tokens: Tokens, phrases: Sequence[str]) -> Lexicon:
    """The spellings of all words in ``phrases``. Raises ``LanguageModelError``."""
    words = dict.fromkeys(" ".join(phrases).split())
    lexicon = spell(words, tokens)
    for word in words:
        if word not in lexicon and tokens.units == "phones":
            raise LanguageModelError(
                f"hotword {word!r}: the recogniser writes phones, and nothing says how the word is "
                "pronounced; give --lexicon with a line for it."
            )
        if word not in lexicon:
            raise LanguageModelError(
                f"hotword {word!r}: the model has no tokens for it; write it as the transcripts "
                f"are written, with {' '.join(tokens.symbols[2:12])} ..."
            )
    return lexicon


def _load_lm(path: str | None, dictionary: Dictionary) -> LM:
    """The language model whose symbols ``dictionary`` numbers. Raises ``LanguageModelError``."""
    if path is None:
        return ZeroLM()
    try:
        with _without_stderr():
            return KenLM(path, dictionary)
    except RuntimeError as error:
        raise LanguageModelError(f"{path}: KenLM cannot read it ({error}).") from None


def _open_vocabulary(
    path: str | None, lm: LM, known: Lexicon | None, dictionary: Dictionary
) -> OpenVocabulary:
    """The words ``known`` to the language model in ``path``, and all others. Raises
    ``LanguageModelError``."""
    if known is None:
        raise LanguageModelError(
            f"{path}: is no ARPA file of words, which an open vocabulary needs to learn how others "
            "are spelled; give one (speechssl lm)."
        )
    numbers = {word: dictionary.get_index(word) for word in known}
    vocabulary = OpenVocabulary(lm, numbers, dictionary.get_index(UNKNOWN))
    if vocabulary.others < NEVER / 2:
        raise LanguageModelError(
            f"{path}: has no <unk>, so that it leaves nothing to words that it does not know; "
            "build it with `speechssl lm` or lmplz."
        )
    return vocabulary


def _require_tokens(lm: LM, dictionary: Dictionary, path: str) -> None:
    """Raises ``LanguageModelError`` if ``lm`` is one of words: "|" is as foreign to it as any other
    symbol. (Of a KenLM binary nothing else tells.)"""
    start = lm.start(False)
    separator, unknown = (
        lm.score(start, dictionary.get_index(symbol))[1] for symbol in (SEPARATOR, UNKNOWN)
    )
    if separator == unknown:
        raise LanguageModelError(
            f"{path}: is a model of words, but nothing says which; give --lexicon with a word and "
            "its tokens per line."
        )


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Discards what is written to stderr: KenLM's own progress bar, which cannot be turned off."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
