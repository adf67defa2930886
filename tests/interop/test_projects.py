"""A checkpoint's project is found out from the checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from speechssl.errors import CheckpointError
from speechssl.interop.projects import find_project, load_project, project_names
from tests.interop import fairseq_files
from tests.interop.models import build, save


def name_of(source: object) -> str:
    return find_project(str(source)).__name__.rpartition(".")[2]


def test_each_project_knows_its_own(tmp_path: Path) -> None:
    model = build("HubertModel")
    assert name_of(save(model, tmp_path / "hf")) == "transformers"
    file = fairseq_files.save(fairseq_files.checkpoint_of(model), tmp_path / "hubert.pt")
    assert name_of(file) == "fairseq"
    (tmp_path / "card.yaml").write_text("name: x\nmodel_family: wav2vec2\ncheckpoint: x.pt\n")
    assert name_of(tmp_path / "card.yaml") == "fairseq2"
    assert name_of("wav2vec2_base") == "fairseq2"
    assert name_of("HUBERT_BASE") == "torchaudio"
    assert name_of("facebook/hubert-base-ls960") == "transformers"


def test_names_of_projects() -> None:
    assert project_names() == ["fairseq", "fairseq2", "torchaudio", "transformers"]
    assert load_project("hf") is load_project("transformers")
    for name in project_names():
        assert load_project(name).SOURCES
    with pytest.raises(CheckpointError, match=r"'pickles' is no project known here.*fairseq, "):
        load_project("pickles")


def test_what_nobody_knows(tmp_path: Path) -> None:
    for name in ("weights.pt", "notes.txt"):
        torch.save({"weight": torch.ones(2)}, tmp_path / name)
        with pytest.raises(CheckpointError, match=rf"{name}: is no checkpoint of a project known"):
            find_project(str(tmp_path / name))
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match=r"broken.pt: is not a complete PyTorch file"):
        find_project(str(tmp_path / "broken.pt"))
    with pytest.raises(CheckpointError, match="no such file or folder"):
        find_project(str(tmp_path / "nowhere" / "at" / "all.pt"))


def test_two_projects_in_one_folder(tmp_path: Path) -> None:
    folder = save(build("HubertModel"), tmp_path / "hf")
    (folder / "card.yaml").write_text("name: x\nmodel_family: wav2vec2\ncheckpoint: x.pt\n")
    with pytest.raises(CheckpointError, match=r"may be of fairseq2 or transformers.*--from"):
        find_project(str(folder))
