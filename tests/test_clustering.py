from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from lhotse import CutSet
from lhotse.supervision import AlignmentItem

from speechssl.cli.main import group
from speechssl.clustering import (
    LabelConfig,
    LayerFeatures,
    MfccFeatures,
    assign,
    label,
    load_codebook,
    purity,
)
from speechssl.data.manifest import cuts_path, load_cuts
from speechssl.data.targets import FrameTargets, codebook_path, cut_frames, targets_path
from speechssl.errors import ConfigError, TargetsError
from speechssl.files import sha256
from speechssl.frames import num_frames
from speechssl.models.encoder import Encoder
from speechssl.models.folder import save_model_folder
from speechssl.models.presets import encoder_config


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(group, [str(a) for a in arguments])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    encoder = Encoder(encoder_config("tiny", {"dim": 32, "layers": 2, "ffn_dim": 32, "heads": 2}))
    save_model_folder(tmp_path / "model", encoder)
    return tmp_path / "model"


def test_assign_picks_the_nearest_centroid() -> None:
    torch.manual_seed(0)
    frames, codebook = torch.randn(50, 7), torch.randn(9, 7)
    assert torch.equal(assign(frames, codebook), torch.cdist(frames, codebook).argmin(1))


@pytest.mark.parametrize("samples", [400, 719, 720, 16000, 12345])
def test_mfcc_have_the_encoders_frames(samples: int) -> None:
    (frames,) = MfccFeatures()([torch.randn(samples)])
    assert frames.shape == (num_frames(samples), 39)
    assert torch.isfinite(frames).all()
    if len(frames) > 2:
        torch.testing.assert_close(frames.mean(0), torch.zeros(39), atol=1e-4, rtol=0)


def test_mfcc_do_not_depend_on_loudness() -> None:
    torch.manual_seed(0)
    waveform = torch.randn(8000)
    loud, quiet = MfccFeatures()([waveform, 0.1 * waveform])
    torch.testing.assert_close(loud, quiet, atol=1e-2, rtol=0)


def test_layer_features_are_the_layer_of_each_recording_alone(model: Path) -> None:
    waveforms = [torch.randn(9000), torch.randn(4000)]
    features = LayerFeatures(model, 1)
    together = features(waveforms)
    for waveform, frames in zip(waveforms, together):
        torch.testing.assert_close(frames, features([waveform])[0], atol=1e-5, rtol=1e-4)
        assert frames.shape == (num_frames(len(waveform)), 32)
    with pytest.raises(ConfigError, match="layer must be between 0 and 2, but is 7"):
        LayerFeatures(model, 7)


def test_one_codebook_labels_all_splits(corpus_copy: Path, model: Path) -> None:
    for name, more in (("mfcc", []), ("layer", ["--model", model, "--layer", 1])):
        result = cli("label", corpus_copy, "--name", name, "--clusters", 8, *more)
        assert result.exit_code == 0, result.output
        codebook = codebook_path(corpus_copy, name)
        assert len(load_codebook(codebook)) == 8
        for split in ("train", "dev"):
            cuts = load_cuts(cuts_path(corpus_copy, split))
            targets = FrameTargets.load(targets_path(corpus_copy, split, name))
            assert targets.meta.codebook == sha256(codebook)
            assert targets.meta.layer == (1 if more else None)
            for cut in cuts:
                assert len(targets[cut.id]) == cut_frames(cut)
        report = json.loads((corpus_copy / f"targets-{name}.report.json").read_text())
        train = report["splits"]["train"]
        assert train["frames_per_cluster"]["min"] > 0
        assert 1 < train["perplexity"] <= 8
        assert f"perplexity {train['perplexity']}" in result.output
        assert (corpus_copy / f"targets-{name}.png").stat().st_size > 5000


def test_the_same_command_again_changes_nothing_and_another_is_refused(corpus_copy: Path) -> None:
    arguments = ["label", corpus_copy, "--name", "mfcc", "--clusters"]
    assert cli(*arguments, 8).exit_code == 0
    files = [codebook_path(corpus_copy, "mfcc"), targets_path(corpus_copy, "train", "mfcc")]
    before = [sha256(file) for file in files]
    files[1].unlink()
    assert cli(*arguments, 8).exit_code == 0, "a missing split is labelled again"
    assert [sha256(file) for file in files] == before
    refused = cli(*arguments, 9)
    assert refused.exit_code == 2
    assert "other settings (clusters)" in refused.output
    assert [sha256(file) for file in files] == before
    assert cli(*arguments, 9, "--overwrite").exit_code == 0
    assert len(load_codebook(files[0])) == 9


def test_bad_input_is_one_line(corpus_copy: Path, model: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ([tmp_path, "--name", "x"], "no such file"),
        ([corpus_copy, "--name", "x", "--clusters", 1], "between 2 and 65535"),
        ([corpus_copy, "--name", "x", "--clusters", 60000], "are too few for 60000 clusters"),
        ([corpus_copy, "--name", "x", "--model", model], "layer must be the number of a layer"),
        ([corpus_copy, "--name", "x", "--model", corpus_copy, "--layer", 1], "config.yaml"),
    ):
        result = cli("label", *arguments)
        assert result.exit_code == 2, result.output
        assert message in result.output
        assert "Traceback" not in result.output
    codebook_path(corpus_copy, "x").write_bytes(b"no codebook")
    with pytest.raises(TargetsError, match="is not a codebook"):
        label(corpus_copy, "x", ["train"], LabelConfig(clusters=4))


def test_purity_by_hand() -> None:
    perfect = purity([("a", 0), ("a", 1), ("b", 2), ("b", 2)])
    assert perfect["phone_purity"] == 1.0
    assert perfect["pnmi"] == pytest.approx(1.0)
    assert perfect["cluster_purity"] == 0.75
    useless = purity([(unit, cluster) for unit in "ab" for cluster in (0, 1)])
    assert useless["phone_purity"] == 0.5
    assert useless["pnmi"] == pytest.approx(0.0, abs=1e-9)


def test_quality_uses_phone_alignments(corpus_copy: Path) -> None:
    cuts = list(load_cuts(cuts_path(corpus_copy, "train")))
    for cut in cuts:
        supervision = cut.supervisions[0]
        items = [
            AlignmentItem(symbol=letter, start=0.08 * (place + 1), duration=0.08)
            for place, letter in enumerate(supervision.text or "")
        ]
        cut.supervisions[0] = supervision.with_alignment("phone", items)
    CutSet.from_cuts(cuts).to_file(cuts_path(corpus_copy, "train"))
    report = label(corpus_copy, "mfcc", ["train"], LabelConfig(clusters=16))
    numbers = report["splits"]["train"]
    letters = sum(len(cut.supervisions[0].text or "") for cut in cuts)
    assert numbers["aligned_frames"] == pytest.approx(4 * letters, rel=0.05)
    chance = max(np.bincount([ord(c) for cut in cuts for c in cut.supervisions[0].text])) / letters
    assert numbers["phone_purity"] > chance
    assert 0.1 < numbers["pnmi"] < 1
