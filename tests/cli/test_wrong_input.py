"""What newcomers get wrong: each command says what is wrong, where, and what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from speechssl.data.manifest import load_cuts, save_cuts

ROOT = Path(__file__).parents[2]
CLUSTERS, CTC = ROOT / "recipes/clusters_tiny.yaml", ROOT / "recipes/ctc_tiny.yaml"

Fails = Callable[..., str]
Speechssl = Callable[..., Result]


@pytest.mark.parametrize(
    "arguments",
    [
        ("label", "DATA", "--name", "mfcc"),
        ("pretrain", CLUSTERS, "DATA", "EXP"),
        ("finetune", CTC, "DATA", "EXP", "--init", "none"),
        ("plan", CTC, "DATA"),
        ("pseudo-label", "MODEL", "DATA", "CORPUS", "EXP"),
        ("pseudo-label", "MODEL", "CORPUS", "DATA", "EXP"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_is_no_corpus(
    fails: Fails, corpus: Path, recogniser: Path, tmp_path: Path, arguments: tuple[object, ...]
) -> None:
    known = {"EXP": tmp_path / "exp", "MODEL": recogniser, "CORPUS": corpus}
    (tmp_path / "empty").mkdir()
    for data, said in (
        (tmp_path / "nowhere", "no such file or folder; give a DATA_DIR"),
        (corpus / "train/cuts.jsonl.gz", "is a file; give a DATA_DIR"),
        (corpus / "train", f"is one split of a corpus; give the folder of all, {corpus}."),
        (tmp_path / "empty", "holds no train/cuts.jsonl.gz; give a DATA_DIR"),
    ):
        given = [{**known, "DATA": data}.get(str(argument), argument) for argument in arguments]
        assert fails(*given).startswith(f"error: {data}: {said}")
    assert not (tmp_path / "exp").exists()


def test_what_is_no_manifest(fails: Fails, corpus: Path, recogniser: Path, tmp_path: Path) -> None:
    """A corpus, one of its splits, a folder and files in the place of a cuts.jsonl.gz."""
    recording, table = next((corpus / "audio").iterdir()), tmp_path / "texts.tsv"
    table.write_text("file\ttext\n")
    test = corpus / "test/cuts.jsonl.gz"
    for cuts, said in (
        (corpus, f"so not in Lhotse Shar; give a manifest in it, such as {test}."),
        (corpus / "test", f"so not in Lhotse Shar; give a manifest in it, such as {test}."),
        (tmp_path, "so not in Lhotse Shar; give a cuts.jsonl.gz."),
        (recording, "is no manifest ("),
        (table, "line 1: is not JSON ("),
    ):
        message = fails("decode", recogniser, cuts, tmp_path / "hyps.jsonl")
        assert message.startswith(f"error: {cuts}: ")
        assert said in message
    assert "give a cuts.jsonl.gz, or prepare the corpus again" in message


@pytest.mark.parametrize("command", ["label", "pretrain", "finetune", "probe"])
@pytest.mark.parametrize("seed", ["-1", str(2**32)])
def test_seeds_that_no_generator_takes(speechssl: Speechssl, command: str, seed: str) -> None:
    result = speechssl(command, "--seed", seed, "a", "b", "c")
    assert result.exit_code == 2
    assert f"{seed} is not in the range 0<=x<=4294967295" in result.stderr


@pytest.mark.parametrize("command", ["lm", "align"])
def test_the_name_of_a_language_is_no_code(speechssl: Speechssl, command: str) -> None:
    result = speechssl(command, "a", "b", "c", "--language", "english")
    assert result.exit_code == 2
    assert "'english' is no code of a language; give one, as en or pt-BR" in result.stderr


@pytest.mark.parametrize("name", ["a/b", "..", ""])
def test_targets_need_a_plain_name(fails: Fails, corpus: Path, name: str) -> None:
    assert "give one without '/', as mfcc" in fails("label", corpus, "--name", name)


def test_a_text_given_last_is_not_replaced_by_a_language_model(
    fails: Fails, speechssl: Speechssl, corpus: Path, tmp_path: Path
) -> None:
    text, model = tmp_path / "books.txt", tmp_path / "words.arpa"
    text.write_text("ada bede\n")
    cuts = corpus / "train/cuts.jsonl.gz"
    assert "is no ARPA file" in fails("lm", cuts, text, "--overwrite")
    assert text.read_text() == "ada bede\n"
    for _ in range(2):
        assert speechssl("lm", cuts, text, model, "--overwrite").exit_code == 0


def test_folders_in_the_place_of_files(
    fails: Fails, corpus: Path, recogniser: Path, tmp_path: Path
) -> None:
    said = f"error: {tmp_path}: is a folder; give the name of a file.\n"
    cuts = corpus / "test/cuts.jsonl.gz"
    assert fails("decode", recogniser, cuts, tmp_path, "--overwrite") == said
    assert fails("lm", cuts, tmp_path, "--overwrite") == said
    recording = next((corpus / "audio").iterdir())
    for text in (tmp_path, tmp_path / "ada bede"):
        message = fails("align", recogniser, recording, text)
        assert message == f"error: {text}: no such file; give what is said as a text file.\n"


def test_what_is_no_run(fails: Fails, recogniser: Path, tmp_path: Path) -> None:
    for exp, what in (
        (tmp_path / "nowhere", "no such folder"),
        (recogniser, "is not a run folder"),
    ):
        for command in (("doctor", exp), ("export", exp, tmp_path / "out")):
            message = fails(*command)
            assert message.startswith(f"error: {exp}: {what}")
            assert message.endswith("; give the EXP of pretrain or finetune.\n")


def test_info_knows_what_is_no_manifest(fails: Fails, corpus: Path, tmp_path: Path) -> None:
    table = tmp_path / "texts.tsv"
    table.write_text("file\ttext\n")
    for path in (table, next((corpus / "audio").iterdir()), tmp_path):
        assert f"error: {path}: is neither a model folder, nor a run" in fails("info", path)


def test_a_model_folder_need_not_be_imported(
    fails: Fails, recogniser: Path, tmp_path: Path
) -> None:
    message = fails("import", recogniser, tmp_path / "model")
    assert message == f"error: {recogniser}: is a model folder already; use it as it is.\n"


def test_pseudo_labels_are_not_read_for_a_file(
    fails: Fails, corpus: Path, corpus_copy: Path, recogniser: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    shutil.rmtree(corpus_copy / "dev")
    message = fails("pseudo-label", recogniser, corpus, corpus_copy, file)
    assert message == f"error: {file}: is a file; name a folder for the corpus.\n"


def test_a_plan_needs_the_name_of_the_targets(fails: Fails, corpus: Path) -> None:
    message = fails("plan", CLUSTERS, corpus)
    assert "needs frame targets; pass --targets NAME" in message


def test_fine_tuning_needs_transcripts(fails: Fails, corpus_copy: Path, tmp_path: Path) -> None:
    path = corpus_copy / "train/cuts.jsonl.gz"
    cuts = list(load_cuts(path))
    for cut in cuts:
        cut.supervisions = []
    save_cuts(cuts, path)
    message = fails("finetune", CTC, corpus_copy, tmp_path / "exp", "--init", "none")
    assert message.startswith(f"error: {path}: cut ")
    assert "has no transcript, nor has any other; prepare the corpus with" in message


def test_a_misspelt_recipe(fails: Fails, corpus: Path, tmp_path: Path) -> None:
    arguments = (corpus, tmp_path / "exp", "--init", "none")
    message = fails("finetune", CTC.with_name("ctc_tinny.yaml"), *arguments)
    assert f"no such file; did you mean {CTC}?" in message
    assert "no such file; give the path of a YAML" in fails("finetune", tmp_path / "x", *arguments)
    recording = next((corpus / "audio").iterdir())
    assert f"{recording}: is not UTF-8 text; give the path" in fails("plan", recording, corpus)
