from __future__ import annotations

import shutil
from pathlib import Path

import lhotse
import numpy as np
import pytest
import torch
from lhotse.dataset.collation import collate_custom_field

from speechssl import extraction, feature_shards
from speechssl.data.audio import read_cut
from speechssl.data.manifest import cuts_path, load_cuts, save_cuts
from speechssl.data.shards import write_shards
from speechssl.data.targets import cut_frames
from speechssl.errors import (
    AudioError,
    ConfigError,
    ManifestError,
    ModelFolderError,
    RunFolderError,
)
from speechssl.extraction import ModelLayers
from speechssl.feature_shards import write_features
from speechssl.models.encoder import Encoder
from speechssl.models.folder import save_model_folder
from speechssl.models.presets import encoder_config


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    encoder = Encoder(encoder_config("tiny", {"dim": 16, "layers": 2, "ffn_dim": 16, "heads": 2}))
    path = tmp_path_factory.mktemp("features") / "model"
    save_model_folder(path, encoder)
    return path


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (extraction, feature_shards):
        monkeypatch.setattr(module, "SORTED_TOGETHER", 5)


def read(out: Path) -> dict[str, lhotse.MonoCut]:
    return {cut.id: cut for cut in lhotse.CutSet.from_shar(in_dir=out / "shar")}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_lhotse_reads_the_layers_of_each_cut(
    corpus: Path, model: Path, tmp_path: Path, dtype: str, small_shards: None
) -> None:
    path = cuts_path(corpus, "train")
    assert write_features(model, path, tmp_path / "out", [2, 0], dtype=dtype) == 12  # type: ignore[arg-type]
    assert len(list((tmp_path / "out" / "shar").iterdir())) == 3 * 3
    written, layers = read(tmp_path / "out"), ModelLayers(model, [2, 0])
    for cut in load_cuts(path):
        found = written[cut.id]
        assert found.supervisions == cut.supervisions
        (expected,) = layers([read_cut(cut)])
        for loaded, frames in zip((found.load_layer_2(), found.load_layer_0()), expected):
            assert loaded.dtype == dtype
            assert loaded.shape == (cut_frames(cut), 16)
            rounding = 1e-5 if dtype == "float32" else 2e-3
            np.testing.assert_allclose(loaded, frames.numpy(), atol=rounding, rtol=rounding)


def test_a_corpus_in_shar(corpus_copy: Path, model: Path, tmp_path: Path) -> None:
    ids = {cut.id for cut in load_cuts(cuts_path(corpus_copy, "dev"))}
    write_shards(corpus_copy)
    cuts_path(corpus_copy, "dev").unlink()
    path = cuts_path(corpus_copy, "dev")
    assert write_features(model, path, tmp_path / "out", [1]) == 4
    assert write_features(model, path, tmp_path / "out", [1]) == 0, "all are there already"
    assert set(read(tmp_path / "out")) == ids


def test_cuts_anywhere_in_a_recording(corpus_copy: Path, model: Path, tmp_path: Path) -> None:
    path = cuts_path(corpus_copy, "test")
    cut = next(iter(load_cuts(path)))
    parts = [
        cut.truncate(offset=0.2, duration=0.4).with_id("speaker/part.one"),
        cut.truncate(duration=0.02).with_id("too short for a frame"),
        cut.with_id("whole"),
    ]
    save_cuts(parts, path)
    assert write_features(model, path, tmp_path / "out", [1]) == 2
    written = read(tmp_path / "out")
    assert set(written) == {"speaker/part.one", "whole"}
    part = written["speaker/part.one"]
    np.testing.assert_allclose(
        part.load_layer_1(),
        ModelLayers(model, [1])([read_cut(parts[0])])[0][0].numpy(),
        atol=1e-5,
    )
    assert part.load_audio().shape[1] == parts[0].num_samples
    later = written["whole"].truncate(offset=0.1, duration=0.2)
    np.testing.assert_array_equal(later.load_layer_1(), written["whole"].load_layer_1()[5:15])
    batch, lengths = collate_custom_field(
        lhotse.CutSet.from_cuts(written.values()), "layer_1", pad_value=0
    )
    assert batch.shape == (2, int(lengths.max()), 16)


@pytest.mark.parametrize("cut_id", ["a//b", "./a", "a/"])
def test_ids_that_lhotse_would_not_find(
    cut_id: str, corpus_copy: Path, model: Path, tmp_path: Path
) -> None:
    path = cuts_path(corpus_copy, "test")
    save_cuts([next(iter(load_cuts(path))).with_id(cut_id)], path)
    with pytest.raises(ManifestError, match="Lhotse cannot read features of an id"):
        write_features(model, path, tmp_path / "out", [1])
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_finite(corpus: Path, tmp_path: Path) -> None:
    encoder = Encoder(encoder_config("tiny", {"dim": 16, "layers": 1, "ffn_dim": 16, "heads": 2}))
    torch.nn.init.constant_(encoder.norm.bias, torch.nan)
    save_model_folder(tmp_path / "model", encoder)
    with pytest.raises(ModelFolderError, match="holds weights that are NaN or infinite"):
        write_features(tmp_path / "model", cuts_path(corpus, "dev"), tmp_path / "out", [1])


def test_an_interrupted_run_goes_on(
    corpus_copy: Path, model: Path, tmp_path: Path, small_shards: None
) -> None:
    path, out = cuts_path(corpus_copy, "train"), tmp_path / "out"
    cuts = list(load_cuts(path))
    audio = Path(cuts[-1].recording.sources[0].source)
    moved = shutil.copyfile(audio, tmp_path / "moved.wav")
    cuts[-1].recording.sources[0].source = str(moved)
    save_cuts(cuts, path)
    moved.unlink()
    with pytest.raises(AudioError):
        write_features(model, path, out, [1])
    done = sorted((out / "shar").iterdir())
    assert [file.name for file in done] == ["cuts.000000.jsonl.gz", "layer_1.000000.tar"]
    assert not list(out.glob(".tmp-*")), "nothing half-written is left"
    before = [file.stat().st_mtime_ns for file in done]
    shutil.copyfile(audio, moved)
    assert write_features(model, path, out, [1]) == 7
    assert [file.stat().st_mtime_ns for file in done] == before
    assert set(read(out)) == {cut.id for cut in cuts}
    assert write_features(model, path, out, [1]) == 0


def test_other_features_are_not_mixed_in(corpus: Path, model: Path, tmp_path: Path) -> None:
    path, out = cuts_path(corpus, "dev"), tmp_path / "out"
    with pytest.raises(ConfigError, match="layer must be between 0 and 2, but is 5"):
        write_features(model, path, out, [5])
    with pytest.raises(ConfigError, match="layers must be different ones"):
        write_features(model, path, out, [1, 1])
    write_features(model, path, out, [1])
    with pytest.raises(RunFolderError, match=r"other settings \(layers, dtype\)"):
        write_features(model, path, out, [2], dtype="float16")
    with pytest.raises(RunFolderError, match=r"other settings \(manifest\)"):
        write_features(model, cuts_path(corpus, "test"), out, [1])
    for damaged in ("[]", "{"):
        (out / "settings.json").write_text(damaged)
        with pytest.raises(RunFolderError, match=r"other settings \(model, layers"):
            write_features(model, path, out, [1])
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").write_text("precious")
    with pytest.raises(RunFolderError, match="exists and holds no features"):
        write_features(model, path, tmp_path / "own", [1])
