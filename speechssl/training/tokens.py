"""Which tokens a recogniser shall write: characters, subwords of the transcripts, or phones."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

from speechssl.data.text import Tokens
from speechssl.decoding.lexicon import read_pronunciations
from speechssl.errors import MissingExtraError, TokensError
from speechssl.training.recipe import FinetuneConfig


def make_tokens(settings: FinetuneConfig, texts: Iterable[str]) -> Tokens:
    """The tokens that ``settings`` ask for and that spell all of ``texts``.

    Raises ``TokensError`` if the texts cannot be spelled so, ``LanguageModelError`` if the
    lexicon cannot be read, and ``MissingExtraError`` if bpe is asked for without sentencepiece.
    """
    if settings.tokens == "bpe":
        return learn_bpe(texts, settings.vocabulary)
    if settings.tokens == "phones":
        assert settings.lexicon is not None
        return _phones(Path(settings.lexicon), texts)
    return Tokens.from_texts(texts)


def learn_bpe(texts: Iterable[str], vocabulary: int) -> Tokens:
    """The characters of ``texts``, and sequences of them that byte-pair encoding learns.

    ``vocabulary`` counts all tokens, blank and separator too; there are fewer if the words are
    exhausted. sentencepiece learns; it spells a word as ``Tokens`` do. Raises ``TokensError``
    unless ``vocabulary`` has room for all characters and one sequence.
    """
    try:
        import sentencepiece
    except ImportError:
        raise MissingExtraError(
            "finetune.tokens=bpe needs sentencepiece; install it with pip install -e '.[bpe]'."
        ) from None
    texts = list(texts)
    characters = Tokens.from_texts(texts)
    if vocabulary <= len(characters):
        raise TokensError(
            f"finetune.vocabulary: {vocabulary} tokens have no room for more than the transcripts' "
            f"{len(characters)} characters (blank and separator included); set it higher."
        )
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(word for text in texts for word in text.split()),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocabulary - 1,  # neither blank nor separator, but an <unk>
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        split_by_unicode_script=False,
        split_by_number=False,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    learnt = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [learnt.id_to_piece(i) for i in range(1, len(learnt))]
    return Tokens([*characters.symbols, *(piece for piece in pieces if len(piece) > 1)], "bpe")


def _phones(lexicon: Path, texts: Iterable[str]) -> Tokens:
    """The phones of a pronouncing lexicon that has all words of ``texts``."""
    pronunciations = read_pronunciations(lexicon)
    words = dict.fromkeys(word for text in texts for word in text.split())
    missing = [word for word in words if word not in pronunciations]
    if missing:
        raise TokensError(
            f"{lexicon}: has no pronunciation of {len(missing)} of the {len(words)} words of the "
            f"transcripts ({' '.join(missing[:5])} ...); add them, written as in the transcripts."
        )
    return Tokens.from_pronunciations(pronunciations)
