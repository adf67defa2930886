from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers

from speechssl.data.text import Tokens
from speechssl.errors import CheckpointError
from speechssl.interop.transformers.vocabulary import read_vocabulary, write_vocabulary


def write(folder: Path, symbols: list[str], **settings: object) -> Path:
    ids = {symbol: i for i, symbol in enumerate(symbols)}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_blank_and_space_come_first(tmp_path: Path) -> None:
    symbols = ["ж", "|", "<unk>", "а", "[PAD]"]
    vocabulary = read_vocabulary(write(tmp_path, symbols, pad_token="[PAD]"), 5)
    assert vocabulary.tokens.symbols == ["<blank>", "|", "ж", "<unk>", "а"]
    assert vocabulary.order == [4, 1, 0, 2, 3]
    vocabulary.tokens.save(tmp_path / "tokens.txt")
    assert Tokens.load(tmp_path / "tokens.txt") == vocabulary.tokens
    assert vocabulary.tokens.decode([2, 4, 1, 1, 3]) == "жа <unk>"


def test_symbols_that_were_added_later(tmp_path: Path) -> None:
    """As transformers' fine-tuning example leaves them, in either of its files."""
    added = {"4": {"content": "<s>"}, "5": {"content": "</s>"}}
    write(tmp_path, ["<pad>", "|", "a", "b"], added_tokens_decoder=added)
    assert read_vocabulary(tmp_path, 6).tokens.symbols[4:] == ["<s>", "</s>"]
    assert len(read_vocabulary(tmp_path, 4).tokens) == 4
    write(tmp_path, ["<pad>", "|", "a", "b"])
    (tmp_path / "added_tokens.json").write_text('{"<s>": 4, "</s>": 5}')
    assert read_vocabulary(tmp_path, 6).tokens.symbols[4:] == ["<s>", "</s>"]


def test_special_tokens_from_either_file(tmp_path: Path) -> None:
    write(tmp_path, ["|", "[PAD]", "a"])
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": {"content": "[PAD]"}}')
    assert read_vocabulary(tmp_path, 3).order == [1, 0, 2]


def test_of_two_special_tokens_the_one_that_transformers_takes(tmp_path: Path) -> None:
    symbols = ["|", "[PAD]", "<pad>", "a"]
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": "<pad>"}')
    for settings, blank in (({}, 2), ({"added_tokens_decoder": {}}, 1)):
        write(tmp_path, symbols, pad_token="[PAD]", **settings)
        tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
        assert tokenizer.pad_token_id == blank
        assert read_vocabulary(tmp_path, 4).order[0] == blank


def test_two_symbols_of_one_id(tmp_path: Path) -> None:
    write(tmp_path, ["<pad>", "|", "a"], added_tokens_decoder={"2": {"content": "b"}})
    with pytest.raises(CheckpointError, match="'a' and 'b' have the same id 2"):
        read_vocabulary(tmp_path, 3)


def test_capitals_alone_are_written_small(tmp_path: Path) -> None:
    """What wav2vec2-base-960h writes is compared with transcripts, which have no capitals."""
    capitals = write(tmp_path, ["<pad>", "<s>", "|", "A", "Ж", "'"])
    vocabulary = read_vocabulary(capitals, 6)
    assert vocabulary.tokens.symbols == ["<blank>", "|", "<s>", "a", "ж", "'"]
    assert vocabulary.order == [0, 2, 1, 3, 4, 5]
    for others in (["A", "b"], ["I", "İ"], ["1", "2"]):
        kept = read_vocabulary(write(tmp_path, ["<pad>", "|", *others]), 4)
        assert kept.tokens.symbols[2:] == others


def test_spaces_before_punctuation_are_a_note(tmp_path: Path) -> None:
    write(tmp_path, ["<pad>", "|", "a"], clean_up_tokenization_spaces=True)
    [note] = read_vocabulary(tmp_path, 3).notes
    assert "clean_up_tokenization_spaces" in note


@pytest.mark.parametrize("text", ["да нет", "a<pad>b"])
def test_written_and_read_again(text: str, tmp_path: Path) -> None:
    symbols = ["<blank>", "|", *sorted(set(text.replace("<pad>", "").replace(" ", "")))]
    tokens = Tokens([*symbols, "<pad>"] if "<pad>" in text else symbols)
    for name, content in write_vocabulary(tokens).items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    vocabulary = read_vocabulary(tmp_path, len(tokens))
    assert vocabulary.tokens == tokens
    assert vocabulary.order == list(range(len(tokens)))
