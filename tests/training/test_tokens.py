"""Tokens learnt from transcripts, and recognisers that write them."""

from __future__ import annotations

import io
import json
import random
import shutil
from pathlib import Path

import pytest
import sentencepiece
from click.testing import CliRunner, Result
from lhotse import CutSet

from speechssl.cli.main import group
from speechssl.config import read_yaml, write_yaml
from speechssl.data.manifest import cut_text, cuts_path, load_cuts
from speechssl.data.text import ctc_frames
from speechssl.errors import ConfigError, LanguageModelError, TokensError
from speechssl.models.folder import load_ctc
from speechssl.training.recipe import FinetuneConfig
from speechssl.training.tokens import learn_bpe, make_tokens
from tests.conftest import WORDS

TOY = ("training.updates=240", "training.validate_every=120", "training.log_every=40",
       "optimizer.lr=4e-3", "model.dropout=0.0")  # fmt: skip


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(group, [str(a) for a in arguments])


def invented_texts() -> list[str]:
    """Sentences of syllables: many words that share parts."""
    rng = random.Random(0)
    syllables = ["ka", "to", "mi", "ри", "sch", "on", "l'", "aa"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 5))) for _ in range(150)]
    return [" ".join(rng.choices(words, k=6)) for _ in range(80)]


def test_words_are_spelled_as_the_library_spells_them(monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[bytes] = []
    train = sentencepiece.SentencePieceTrainer.train

    def keep_model(model_writer: io.BytesIO, **settings: object) -> None:
        train(model_writer=model_writer, **settings)
        models.append(model_writer.getvalue())

    monkeypatch.setattr(sentencepiece.SentencePieceTrainer, "train", keep_model)
    texts = invented_texts()
    tokens = learn_bpe(texts, 90)
    assert len(tokens) == 90
    library = sentencepiece.SentencePieceProcessor(model_proto=models[0])
    unseen = ["kato", "aaaaa", "onsch", "миr", "l'aaon", "schaakri"]
    known = set(tokens.symbols)
    for word in [*" ".join(texts).split(), *(w for w in unseen if set(w) <= known)]:
        ours = [tokens.symbols[i] for i in tokens.encode(word)]
        assert ours == library.encode(word, out_type=str)
    assert any(len(tokens.encode(word)) < len(word) / 2 for word in " ".join(texts).split())
    for text in texts:
        assert tokens.decode(tokens.encode(text)) == text


def test_vocabulary_counts_all_tokens() -> None:
    texts = invented_texts()
    assert learn_bpe(texts, 40) == learn_bpe(texts, 40)
    assert len(learn_bpe(texts, 40)) == 40
    few = learn_bpe(["ab ab"], 100)
    assert few.symbols == ["<blank>", "|", "a", "b", "ab"]
    with pytest.raises(TokensError, match=r"finetune.vocabulary: 4 .* 4 characters"):
        learn_bpe(["ab ab"], 4)


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lexicon"):
        FinetuneConfig(tokens="phones")
    with pytest.raises(ConfigError, match="lexicon"):
        FinetuneConfig(tokens="bpe", lexicon="words.txt")
    lexicon = tmp_path / "lexicon.txt"
    settings = FinetuneConfig(tokens="phones", lexicon=str(lexicon))
    with pytest.raises(LanguageModelError, match=r"lexicon\.txt: cannot be read"):
        make_tokens(settings, ["hello"])
    lexicon.write_text("hello HH AH L OW\nhello HH EH L OW |\n")
    assert make_tokens(settings, ["hello"]).as_decoded("hello") == "HH-AH-L-OW"
    with pytest.raises(TokensError, match=r"no pronunciation of 1 of the 2 words .*\(help"):
        make_tokens(settings, ["hello help"])


def test_recogniser_of_subwords(
    corpus_copy: Path, finetune_recipe: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It learns the toy corpus; its folder transcribes, aligns, and is not exported."""
    cuts = list(load_cuts(cuts_path(corpus_copy, "train")))
    cuts[0].supervisions[0].text = "habe" * 400
    CutSet.from_cuts(cuts).to_file(cuts_path(corpus_copy, "train"))
    settings = [*TOY, "finetune.tokens=bpe", "finetune.vocabulary=18"]
    exp = tmp_path / "exp"
    run = (finetune_recipe, corpus_copy, exp, "--init", "none", *settings)
    result = cli("finetune", *run)
    assert result.exit_code == 0, result.output
    valid = [json.loads(line) for line in (exp / "metrics" / "valid.jsonl").open()]
    assert valid[-1]["cer"] < 0.5
    _, tokens = load_ctc(exp / "model")
    assert (tokens.units, len(tokens)) == ("bpe", 18)
    needed = ctc_frames(tokens.encode("habe" * 400))
    assert needed < 400
    assert f"its transcript needs {needed} frames" in caplog.text
    audio, text = cuts[1].recording.sources[0].source, cut_text(cuts[1])
    heard = cli("transcribe", exp / "model", audio, "--beam", "5")
    assert heard.exit_code == 0, heard.output
    assert set("".join(heard.stdout.split())) <= set("".join(WORDS))
    (tmp_path / "text.txt").write_text(text)
    aligned = cli("align", exp / "model", audio, tmp_path / "text.txt", "--format", "json")
    assert aligned.exit_code == 0, aligned.output
    words = json.loads(aligned.stdout)["words"]
    assert [word["text"] for word in words] == text.split()
    export = cli("export", exp / "model", tmp_path / "out", "--to", "transformers")
    assert export.exit_code == 2
    assert "writes bpe" in export.output
    assert not (tmp_path / "out").exists()


def test_recogniser_of_phones(corpus_copy: Path, finetune_recipe: Path, tmp_path: Path) -> None:
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("".join(f"{w}\t{' '.join(f'{c}_' for c in w.upper())}\n" for w in WORDS))
    settings = [*TOY, "finetune.tokens=phones", f"finetune.lexicon={lexicon}"]
    settings += ["training.updates=120"]
    exp = tmp_path / "exp"
    result = cli("finetune", finetune_recipe, corpus_copy, exp, "--init", "none", *settings)
    assert result.exit_code == 0, result.output
    valid = [json.loads(line) for line in (exp / "metrics" / "valid.jsonl").open()]
    assert valid[-1]["cer"] < 0.9
    cut = next(iter(load_cuts(cuts_path(corpus_copy, "train"))))
    audio, text = cut.recording.sources[0].source, cut_text(cut)
    by_phones = cli("transcribe", exp / "model", audio)
    assert by_phones.exit_code == 0, by_phones.output
    assert set(by_phones.stdout.replace("-", "").split()[0]) <= set("ABCDEFGH_")
    by_words = cli("transcribe", exp / "model", audio, "--lexicon", lexicon)
    assert by_words.exit_code == 0, by_words.output
    assert set(by_words.stdout.split()) <= set(WORDS)
    assert by_words.stdout.split()
    manifest, hyps = cuts_path(corpus_copy, "dev"), tmp_path / "hyps.jsonl"
    decoded = cli("decode", exp / "model", manifest, hyps, "--lexicon", lexicon)
    assert decoded.exit_code == 0, decoded.output
    (tmp_path / "text.txt").write_text(text)
    align = ("align", exp / "model", audio, tmp_path / "text.txt", "--format", "json")
    assert "--lexicon" in cli(*align).output
    aligned = cli(*align, "--lexicon", lexicon)
    words = json.loads(aligned.stdout)["words"]
    assert [word["text"] for word in words] == text.split()


def test_a_run_goes_on_where_its_lexicon_has_been_moved(
    corpus_copy: Path, finetune_recipe: Path, tmp_path: Path
) -> None:
    exp, lexicon, moved = tmp_path / "exp", tmp_path / "lexicon.txt", tmp_path / "moved.txt"
    lexicon.write_text("".join(f"{w}\t{' '.join(w.upper())}\n" for w in WORDS))

    def run(words: Path) -> Result:
        settings = ("finetune.tokens=phones", f"finetune.lexicon={words}", "training.updates=2")
        return cli("finetune", finetune_recipe, corpus_copy, exp, "--init", "none", *settings)

    assert run(lexicon).exit_code == 0
    lexicon.rename(moved)
    result = run(moved)
    assert result.exit_code == 0, result.output
    assert f"{lexicon}: cannot be read" in run(lexicon).output
    other = tmp_path / "other.txt"
    other.write_text(moved.read_text() + "new\tN E W\n")
    assert "different: recipe.finetune.lexicon" in run(other).output

    description = read_yaml(exp / "recipe.yaml")
    del description["contents"]["recipe.finetune.lexicon"]  # as runs were before
    (exp / "recipe.yaml").write_text(write_yaml(description))
    assert "different: recipe.finetune.lexicon" in run(moved).output
    shutil.copyfile(moved, lexicon)
    assert run(lexicon).exit_code == 0
