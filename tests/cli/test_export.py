import json

import pytest
from safetensors.torch import load_file

from speechssl.config import write_yaml
from speechssl.training.finetuning import finetune
from tests.interop.models import PLAIN
from tests.training.conftest import DATA, MICRO_MODEL


def test_checkpoint_of_a_run_to_transformers(speechssl, fails, corpus, tmp_path):
    frontend = {"kind": "waveform", "channels": 16}
    recipe = {
        "model": {**MICRO_MODEL, **PLAIN, "layers": 1, "frontend": frontend},
        "data": DATA,
        "optimizer": {"lr": 1e-3},
        "training": {"updates": 1},
    }
    file, exp, out = tmp_path / "recipe.yaml", tmp_path / "exp", tmp_path / "out"
    file.write_text(write_yaml(recipe))
    result = speechssl("finetune", file, corpus, exp, "--init", "none")
    assert result.exit_code == 0, result.output

    result = speechssl("export", exp, out, "--to", "hf", "--checkpoint", "last")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{out}\n"
    assert "proven: " in result.stderr
    ours = load_file(exp / "model" / "model.safetensors")
    assert load_file(out / "model.safetensors")["lm_head.weight"].equal(ours["head.weight"])
    assert json.loads((out / "vocab.json").read_text())["<pad>"] == 0

    model = tmp_path / "model"
    assert speechssl("export", exp, model).exit_code == 0
    (model / "notes.txt").write_text("mine")
    assert fails("export", exp, model) == (
        f"error: {model}: exists; give --overwrite to replace it.\n"
    )
    assert (model / "notes.txt").is_file()
    assert speechssl("export", exp, model, "--overwrite").exit_code == 0
    assert not (model / "notes.txt").exists()
    assert "is not a model folder" in fails("export", exp, out, "--overwrite")
    assert (out / "vocab.json").is_file()


def test_errors_name_the_run(fails, corpus, tmp_path):
    recipe = {
        "model": {**MICRO_MODEL, "layers": 1},
        "data": DATA,
        "optimizer": {"lr": 1e-3},
        "training": {"updates": 1},
    }
    file, exp = tmp_path / "recipe.yaml", tmp_path / "exp"
    file.write_text(write_yaml(recipe))
    finetune(file, corpus, exp, init=None)
    message = fails("export", exp, tmp_path / "out", "--to", "hf", "--checkpoint", "last")
    assert message.startswith(f"error: {exp}: the encoder's frontend.kind is 'fbank'")


def test_checkpoints_that_there_are_not(speechssl, recogniser, tmp_path):
    for checkpoint in ("first", "-1", "²"):
        result = speechssl("export", recogniser, tmp_path / "out", "--checkpoint", checkpoint)
        assert (result.exit_code, "expected best, last" in result.stderr) == (2, True)


@pytest.mark.parametrize("target", ["hf", "speechssl"])
def test_neither_run_nor_model(fails, tmp_path, target):
    message = fails("export", tmp_path, tmp_path / "out", "--to", target)
    assert {"hf": "config.yaml: is missing", "speechssl": "is not a run folder"}[target] in message


def test_filter_banks_have_no_counterpart(fails, recogniser, tmp_path):
    message = fails("export", recogniser, tmp_path / "out", "--to", "hf")
    assert "frontend.kind is 'fbank'" in message
    message = fails("export", recogniser, tmp_path / "out", "--to", "kaldi")
    assert "'kaldi' is no project known here; known are" in message
    assert not (tmp_path / "out").exists()
