import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from speechssl.data.text import Tokens
from speechssl.errors import ModelFolderError, RunFolderError
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder
from speechssl.models.folder import (
    is_model_folder,
    load_ctc,
    load_encoder,
    load_model_folder,
    read_info,
    save_model_folder,
)
from speechssl.models.presets import encoder_config

TOKENS = Tokens.from_texts(["abc де"])


def _model() -> CTCModel:
    torch.manual_seed(0)
    config = encoder_config("tiny", {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 64})
    return CTCModel(Encoder(config), len(TOKENS)).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    save_model_folder(path, _model(), tokens=TOKENS, info={"steps": 7})
    return path


def _error(folder: Path) -> str:
    with pytest.raises(ModelFolderError) as caught:
        load_model_folder(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def _edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **changes}))


def _edit_weights(folder: Path, **changes: torch.Tensor) -> None:
    file = folder / "model.safetensors"
    save_file({**load_file(file), **changes}, file)


def test_recogniser_comes_back_as_it_was(folder: Path) -> None:
    loaded = load_model_folder(folder)
    assert (loaded.kind, loaded.tokens, loaded.info) == ("ctc", TOKENS, {"steps": 7})
    model, tokens = load_ctc(folder)
    assert tokens == TOKENS
    assert not model.training
    waveforms, lengths = torch.randn(2, 5000), torch.tensor([5000, 4000])
    torch.testing.assert_close(model(waveforms, lengths), _model()(waveforms, lengths))
    assert model.encoder.config == _model().encoder.config
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_waveform_encoder_with_objective_comes_back(tmp_path: Path) -> None:
    changes = {"frontend": {"kind": "waveform", "channels": 16}, "layers": 1, "norm": "post"}
    encoder = Encoder(encoder_config("tiny", changes)).eval()
    save_model_folder(tmp_path / "m", encoder, objective={"codebook": torch.ones(3)})
    again = load_encoder(tmp_path / "m", encoder={"dropout": 0.0})
    assert again.config.dropout == 0.0
    waveforms, lengths = torch.randn(2, 5000), torch.tensor([5000, 4000])
    torch.testing.assert_close(again(waveforms, lengths), encoder(waveforms, lengths))
    assert "objective.codebook" in load_file(tmp_path / "m" / "model.safetensors")


def test_what_is_remembered_is_read_without_the_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert read_info(folder) == {"steps": 7}
    (folder / "config.yaml").unlink()
    with pytest.raises(ModelFolderError, match=r"config\.yaml: is missing"):
        read_info(folder)


def test_encoder_inside_a_recogniser(folder: Path) -> None:
    encoder = load_encoder(folder)
    assert torch.equal(encoder.projection.weight, _model().encoder.projection.weight)


def test_replaces_a_model_but_nothing_else(folder: Path) -> None:
    save_model_folder(folder, _model().encoder)
    assert load_model_folder(folder).kind == "encoder"
    assert sorted(p.name for p in folder.parent.iterdir()) == ["model"]
    other = folder.parent / "thesis"
    other.mkdir()
    (other / "chapter1.txt").write_text("...")
    with pytest.raises(RunFolderError, match="exists and is not a model folder"):
        save_model_folder(other, _model().encoder)
    assert not is_model_folder(other)


def test_failed_save_leaves_the_old_model(folder: Path) -> None:
    with pytest.raises(AttributeError):
        save_model_folder(folder, _model(), tokens="not tokens")  # type: ignore[arg-type]
    assert load_model_folder(folder).info == {"steps": 7}
    assert sorted(p.name for p in folder.parent.iterdir()) == ["model"]


def test_folder_can_be_read_by_others(folder: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~umask


def test_no_folder(tmp_path: Path) -> None:
    assert "no such folder" in _error(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert "file: is a file" in _error(tmp_path / "file")


def test_the_folder_of_a_run(folder: Path) -> None:
    (folder.parent / "config.yaml").write_text("fairseq2's: own\n")
    assert f"give its model, {folder}." in _error(folder.parent)


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "tokens.txt"])
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"{name}: is missing" in _error(folder)


def test_missing_weight(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    del weights["encoder.projection.weight"]
    save_file(weights, file)
    assert "weight 'encoder.projection.weight' is missing" in _error(folder)


def test_foreign_weight(folder: Path) -> None:
    _edit_weights(folder, **{"encoder.lm_head": torch.ones(2)})
    assert "weight 'encoder.lm_head' is not of this model" in _error(folder)


def test_ill_shaped_weight(folder: Path) -> None:
    _edit_weights(folder, **{"head.bias": torch.ones(3)})
    assert "weight 'head.bias' has shape [3], but config.yaml asks for [7]" in _error(folder)


def test_truncated_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    assert "model.safetensors: is not a complete safetensors file" in _error(folder)
    file.write_bytes(b"")
    assert "model.safetensors: is not a complete safetensors file" in _error(folder)


class _Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.path,)

    def __init__(self, path: str) -> None:
        self.path = path


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_disguised_pickle_is_not_run(folder: Path, writer: str) -> None:
    bomb = _Bomb(str(folder / "exploded"))
    file = folder / "model.safetensors"
    if writer == "torch":
        torch.save(bomb, file)
    else:
        file.write_bytes(pickle.dumps(bomb))
    assert "is a pickled PyTorch file" in _error(folder)
    assert not (folder / "exploded").exists()


def test_unknown_format(folder: Path) -> None:
    _edit_config(folder, format=2)
    assert "format 2 is unknown, this version reads format 1" in _error(folder)


def test_config_that_is_not_yaml(folder: Path) -> None:
    (folder / "config.yaml").write_text("format: [1")
    assert "is not valid YAML" in _error(folder)


def test_config_with_unknown_or_wrong_settings(folder: Path) -> None:
    _edit_config(folder, kind="tts")
    assert "must be one of encoder, ctc" in _error(folder)
    _edit_config(folder, kind="ctc", encoder={"layrs": 3})
    assert "unknown setting 'layrs'; did you mean 'layers'" in _error(folder)
    _edit_config(folder, encoder=None)
    assert "must have a kind and the settings of an encoder" in _error(folder)
    _edit_config(folder, encoder={}, vocabulary_size=None)
    assert "vocabulary_size must be at least 2" in _error(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers": 10**9}, "layers must be from 0 to 1000"),
        ({"position_layers": 10**9}, "position_layers must be at most 1000"),
        ({"frontend": {"kind": "fbank", "mel_bins": 10**9}}, "mel_bins must be from 1 to 256"),
        ({"layers": 1000}, "asks for a far larger model than that of the"),
        ({"dim": 16 * 10**6}, "asks for a far larger model than that of the"),
        ({"ffn_dim": 10**30}, "asks for a far larger model than that of the"),
        ({"position_kernel": 10**9}, "asks for a far larger model than that of the"),
        ({"squeeze": 10**9}, "asks for a far larger model than that of the"),
        ({"relative_buckets": 10**10, "relative_distance": 10**10}, "asks for a far larger model"),
    ],
)
def test_absurd_sizes_are_refused_before_memory_is_taken(
    folder: Path, changes: dict[str, object], said: str
) -> None:
    encoder = yaml.safe_load((folder / "config.yaml").read_text())["encoder"]
    _edit_config(folder, encoder={**encoder, **changes})
    assert said in _error(folder)


def test_an_absurd_vocabulary_is_refused_before_memory_is_taken(folder: Path) -> None:
    _edit_config(folder, vocabulary_size=10**12)
    assert "asks for a far larger model" in _error(folder)


def test_tokens_of_another_model(folder: Path) -> None:
    Tokens.from_texts(["ab"]).save(folder / "tokens.txt")
    assert "tokens.txt: has 4 tokens, but config.yaml says 7" in _error(folder)


def test_encoder_is_no_recogniser(folder: Path) -> None:
    save_model_folder(folder, _model().encoder)
    with pytest.raises(ModelFolderError, match="not a recogniser; fine-tune it first"):
        load_ctc(folder)


def test_loading_imports_no_training_code(folder: Path) -> None:
    program = (
        "import sys; from speechssl.models.folder import load_ctc; load_ctc(sys.argv[1]); "
        "print([m for m in ('fairseq2', 'lhotse', 'torchaudio', 'jiwer') if m in sys.modules])"
    )
    command = [sys.executable, "-c", program, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
