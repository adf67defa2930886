import json

import pytest
import torch

from speechssl.data.manifest import cuts_path
from speechssl.models.encoder import Encoder
from speechssl.models.folder import load_ctc, save_model_folder
from speechssl.models.presets import encoder_config
from speechssl.training.run_folder import RunFolder


def facts(output: str) -> dict[str, str]:
    """The ``name  value`` lines of a section."""
    pairs = [line.strip().split("  ", 1) for line in output.splitlines()]
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def test_recogniser(speechssl, recogniser):
    result = speechssl("info", recogniser)
    assert result.exit_code == 0, result.output
    found = facts(result.output)
    model, tokens = load_ctc(recogniser)
    assert found["kind"] in ("ctc", "fbank")  # of the model, of its frontend
    assert found["parameters"] == f"{sum(p.numel() for p in model.parameters()):,}"
    assert found["tokens"] == f"{len(tokens)}: <blank> | a b c d e f g h"
    assert found["dim"] == "32"
    assert found["recipe"] == "by hand"
    assert found["updates"] == "7"


def test_encoder(speechssl, tmp_path):
    torch.manual_seed(0)
    model = Encoder(encoder_config("tiny", {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 64}))
    save_model_folder(tmp_path / "model", model)
    result = speechssl("info", tmp_path / "model")
    assert result.exit_code == 0, result.output
    assert "tokens" not in result.output
    assert facts(result.output)["trained by"] == "unknown"


def test_manifest_and_data_dir(speechssl, corpus):
    result = speechssl("info", cuts_path(corpus, "train"))
    assert result.exit_code == 0, result.output
    found = facts(result.output)
    assert found["utterances"] == "12"
    assert found["speakers"] == "2"
    assert found["languages"] == "en 12"
    assert found["with transcript"].startswith("12 (")
    assert "16000 Hz 6" in found["sampling rates"]
    assert found["seconds"].startswith("shortest 0.")
    whole = speechssl("info", corpus)
    assert [line for line in whole.output.splitlines() if line[:1].strip()] == [
        "train",
        "dev",
        "test",
    ]


@pytest.fixture
def run(tmp_path):
    """The folder of a run that was killed while it wrote a line of metrics."""
    folder = RunFolder(tmp_path / "exp")
    folder.claim({"kind": "finetune", "seed": 3, "data_dir": "data", "encoder": {"dim": 32}})
    scores = folder.path / "checkpoints" / "scores"
    scores.mkdir(parents=True)
    for step, score in ((10, -0.9), (20, -0.4), (30, -0.5)):
        (folder.path / "checkpoints" / f"step_{step}").mkdir()
        (scores / f"step_{step}.txt").write_text(f"{score}\n")
    metrics = folder.path / "metrics"
    (metrics / "valid").mkdir(parents=True)
    lines = [json.dumps({"Step": step, "Loss": 1 / step}) for step in (10, 20)]
    (metrics / "train.jsonl").write_text("\n".join([*lines, '{"Step": 30, "Lo']))
    (metrics / "valid" / "dev.jsonl").write_text(json.dumps({"Step": 30, "WER": 0.5}) + "\n")
    return folder


def test_run(speechssl, run):
    result = speechssl("info", run.path)
    assert result.exit_code == 0, result.output
    found = facts(result.output)
    assert found["kind"] == "finetune"
    assert found["seed"] == "3"
    assert found["checkpoints"] == "10, 20, 30"
    assert found["best checkpoint"] == "20 (WER 40.0 % on dev)"
    assert found["model"] == "not exported yet"
    assert found["Loss"] == "0.05"
    assert found["WER"] == "0.5"


def test_what_is_nothing_of_ours(fails, tmp_path):
    assert "is neither a model folder" in fails("info", tmp_path)
    assert "is neither a model folder" in fails("info", tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("hello")
    assert "notes.txt" in fails("info", tmp_path / "notes.txt")
    (tmp_path / "config.yaml").write_text("format: 99")
    assert "format 99" in fails("info", tmp_path)
