"""``speechssl plan``: numbers follow from recipe and data; a measured run leaves nothing behind."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from speechssl.config import write_yaml
from speechssl.data.index import Cuts
from speechssl.data.manifest import cut_text, cuts_path, hours, load_cuts, save_cuts
from speechssl.models.adapters import add_adapters
from speechssl.models.encoder import Encoder
from speechssl.models.folder import save_model_folder
from speechssl.models.presets import encoder_config
from speechssl.training.plan import Measured, Run, plan, rescale

MODEL = {"dim": 16, "layers": 1, "heads": 2, "ffn_dim": 32, "position_kernel": 8}
RECIPE = {
    "model": {"preset": "tiny", **MODEL},
    "data": {"batch_seconds": 16, "forward_seconds": 4, "max_seconds": 4, "threads": 1},
    "optimizer": {"lr": 1e-3},
    "training": {"updates": 600, "log_every": 10, "validate_every": 50},
}


@pytest.fixture
def finetune_recipe(tmp_path: Path) -> Path:
    path = tmp_path / "ctc.yaml"
    path.write_text(write_yaml(RECIPE))
    return path


@pytest.fixture
def pretrain_recipe(tmp_path: Path) -> Path:
    path = tmp_path / "pretrain.yaml"
    path.write_text(write_yaml({**RECIPE, "objective": {"kind": "best_rq", "entries": 8}}))
    return path


def lines(output: str) -> dict[str, str]:
    """The printed facts by their names."""
    return {line[:14].strip(): line[16:] for line in output.splitlines()}


def test_audio_and_parameters(pretrain_recipe: Path, corpus: Path) -> None:
    cuts = Cuts.open(cuts_path(corpus, "train"))
    found = plan(Run(pretrain_recipe, corpus), seconds_per_update=0.5)
    assert found.corpus_hours == pytest.approx(cuts.hours)
    assert found.hours == pytest.approx(found.epochs * cuts.hours)
    assert found.hours == pytest.approx(600 * found.batch_seconds / 3600)
    assert 10 < found.batch_seconds <= 16, "batches are not quite full"
    assert found.passes == 4
    encoder = Encoder(encoder_config("tiny", MODEL))
    classes = 4 * 8  # of best_rq's codebooks
    expected = sum(p.numel() for p in encoder.parameters()) + classes * (MODEL["dim"] + 1)
    assert found.parameters == expected


def test_fine_tuning_counts_what_is_transcribed(finetune_recipe: Path, corpus_copy: Path) -> None:
    path = cuts_path(corpus_copy, "train")
    cuts = list(load_cuts(path))
    for cut in cuts[:6]:
        cut.supervisions = []
    save_cuts(cuts, path)
    found = plan(Run(finetune_recipe, corpus_copy), seconds_per_update=0.5)
    assert found.corpus_hours == pytest.approx(hours(cuts[6:]))


def test_parameters_are_those_that_will_be_trained(
    pretrain_recipe: Path, finetune_recipe: Path, corpus: Path, tmp_path: Path
) -> None:
    """Adapters in place of the encoder, and heads of the size that a model brings along."""
    encoder = Encoder(encoder_config("tiny", MODEL))
    started = {"recipe": {"objective": {"kind": "best_rq", "codebooks": 2, "entries": 4}}}
    save_model_folder(tmp_path / "init", encoder, info=started)
    pretrain_recipe.write_text(write_yaml({**RECIPE, "objective": {"kind": "best_rq"}}))
    found = plan(Run(pretrain_recipe, corpus, init=tmp_path / "init"), seconds_per_update=0.5)
    heads = 2 * 4 * (MODEL["dim"] + 1)
    assert found.parameters == sum(p.numel() for p in encoder.parameters()) + heads

    adapters = Run(finetune_recipe, corpus, ("finetune.adapter_rank=2",), init=tmp_path / "init")
    add_adapters(encoder, 2, 1.0)
    symbols = set(" ".join(cut_text(cut) or "" for cut in load_cuts(cuts_path(corpus, "train"))))
    head = (len(symbols) + 1) * (MODEL["dim"] + 1)  # and the blank
    expected = sum(p.numel() for p in encoder.parameters()) + head
    assert plan(adapters, seconds_per_update=0.5).parameters == expected


def test_processes_share_an_update(pretrain_recipe: Path, corpus: Path, fails) -> None:
    run = Run(pretrain_recipe, corpus)
    measured = Measured(seconds=3.0, updates=5, passes=2, memory=1, gpu_memory=0)
    assert plan(run, measured=measured).seconds_per_update == 6.0
    assert plan(run, measured=measured, processes=4).seconds_per_update == 1.5
    message = fails("plan", pretrain_recipe, corpus, "--processes", 3)
    assert "4 forward passes" in message
    assert "3 processes cannot share evenly" in message


def test_another_batch_changes_rate_and_updates(pretrain_recipe: Path) -> None:
    recipe = Run(pretrain_recipe, Path()).load()
    assert rescale(recipe, 64.0) == {
        "data.batch_seconds": 64.0,
        "optimizer.lr": 2e-3,
        "training.updates": 150,
        "training.log_every": 2,
        "training.validate_every": 10,
    }
    small = rescale(recipe, 1.0)
    assert small["optimizer.lr"] == 2.5e-4
    assert small["training.updates"] == 9600
    assert small["data.forward_seconds"] == 1.0


def test_the_overrides_that_it_prints_can_be_passed_on(
    speechssl, finetune_recipe: Path, corpus: Path
) -> None:
    arguments = ["plan", finetune_recipe, corpus, "--seconds-per-update", "2"]
    before = lines(speechssl(*arguments).stdout)
    assert before["time"].startswith("0:20 h, 2 s per update")
    asked = lines(speechssl(*arguments, "--batch-seconds", "64").stdout)
    assert asked["batch"] == "64 s in place of 16 s"
    assert asked["learning rate"].startswith("0.001 x sqrt(4) = 0.002 ")
    passed = lines(speechssl(*arguments, *asked["pass on"].split()).stdout)
    for name in ("updates", "epochs", "hours of audio", "time"):
        assert passed[name] == asked[name]
    assert passed["updates"].startswith("150 of ")
    assert passed["hours of audio"] == before["hours of audio"]


def test_time_and_memory_are_measured_and_nothing_is_left(
    speechssl, finetune_recipe: Path, corpus: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "tmp").mkdir()
    result = speechssl("plan", finetune_recipe, corpus)
    assert result.exit_code == 0, result.output
    found = lines(result.stdout)
    assert found["measured"].startswith("5 updates of 2 forward passes, median ")
    assert 0.1 < float(found["peak memory"].split()[0]) < 20
    assert float(found["time"].split(", ")[1].split()[0]) > 0
    assert list((tmp_path / "tmp").iterdir()) == []
