from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio.compliance.kaldi
import torchaudio.functional
from click.testing import CliRunner, Result
from lhotse import MonoCut
from lhotse.supervision import AlignmentItem
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

from speechssl import extraction
from speechssl.cli.main import group
from speechssl.clustering import (
    FrameSample,
    LabelConfig,
    assign,
    draw_usage,
    fit_codebook,
    fit_kmeans,
    label,
    label_cuts,
    load_codebook,
    purity,
)
from speechssl.data.index import Cuts
from speechssl.data.manifest import cuts_path, load_cuts, save_cuts
from speechssl.data.targets import (
    FrameTargets,
    TargetsMeta,
    codebook_path,
    cut_frames,
    targets_path,
    write_targets,
)
from speechssl.errors import AudioError, ConfigError, TargetsError
from speechssl.extraction import FRAMES_TOGETHER, LayerFeatures, MfccFeatures
from speechssl.files import sha256
from speechssl.frames import num_frames
from speechssl.models.encoder import Encoder
from speechssl.models.folder import save_model_folder
from speechssl.models.presets import encoder_config
from tests.memory import peaks


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(group, [str(a) for a in arguments])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    encoder = Encoder(encoder_config("tiny", {"dim": 32, "layers": 2, "ffn_dim": 32, "heads": 2}))
    save_model_folder(tmp_path / "model", encoder)
    return tmp_path / "model"


def many_cuts(data_dir: Path, count: int) -> list[MonoCut]:
    """``count`` cuts of the training recordings, over and over."""
    cuts = list(load_cuts(cuts_path(data_dir, "train")))
    return [
        MonoCut.from_dict({**cuts[i % len(cuts)].to_dict(), "id": f"cut-{i}"}) for i in range(count)
    ]


def error(frames: NDArray[np.float32], centroids: NDArray[np.float32]) -> float:
    """Mean squared distance of each frame to its nearest centroid."""
    distances = torch.cdist(torch.from_numpy(frames).double(), torch.from_numpy(centroids).double())
    return float(distances.min(1).values.square().mean())


def test_assign_picks_the_nearest_centroid() -> None:
    torch.manual_seed(0)
    frames, codebook = torch.randn(FRAMES_TOGETHER + 50, 7), torch.randn(9, 7)
    assert torch.equal(assign(frames, codebook), torch.cdist(frames, codebook).argmin(1))


@pytest.mark.parametrize("samples", [400, 719, 720, 16000, 12345])
def test_mfcc_have_the_encoders_frames(samples: int) -> None:
    (frames,) = MfccFeatures()([torch.randn(samples)])
    assert frames.shape == (num_frames(samples), 39)
    assert torch.isfinite(frames).all()
    if len(frames) > 2:
        torch.testing.assert_close(frames.mean(0), torch.zeros(39), atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [400, 1000, 16000, 160 * FRAMES_TOGETHER + 5000])
def test_mfcc_are_kaldis(samples: int) -> None:
    torch.manual_seed(0)
    waveform = 0.1 * torch.randn(samples) * torch.linspace(0, 1, samples)
    mfcc = torchaudio.compliance.kaldi.mfcc(
        waveform[None], sample_frequency=16_000, frame_shift=10, use_energy=False
    ).T
    first = torchaudio.functional.compute_deltas(mfcc)
    frames = torch.cat([mfcc, first, torchaudio.functional.compute_deltas(first)]).T[::2]
    expected = (frames - frames.mean(0)) / (frames.std(0, correction=0) + 1e-5)
    torch.testing.assert_close(MfccFeatures()([waveform])[0], expected, atol=1e-3, rtol=0)


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


def test_a_sample_that_fits_is_everything() -> None:
    sample = FrameSample(megabytes=0.01, seed=0)
    frames = np.random.default_rng(0).standard_normal((250, 10)).astype(np.float32)
    for start in range(0, 250, 60):
        sample.add(frames[start : start + 60])
    np.testing.assert_array_equal(sample.frames, frames)


def test_a_sample_is_drawn_evenly_in_bounded_memory() -> None:
    numbers = np.arange(40_000, dtype=np.float32)[:, None]
    sample = FrameSample(megabytes=0.008, seed=0)
    in_one_go = FrameSample(megabytes=0.008, seed=0)
    in_one_go.add(numbers)
    for start in range(0, len(numbers), 777):
        sample.add(numbers[start : start + 777])
        assert sample.frames.nbytes <= 8000
    np.testing.assert_array_equal(sample.frames, in_one_go.frames)
    drawn = sample.frames[:, 0]
    assert len(set(drawn)) == 2000, "no frame is drawn twice"
    tenths = np.bincount((drawn // 4000).astype(int), minlength=10)
    assert abs(tenths - 200).max() < 4 * np.sqrt(200), "from early and late alike"


def test_kmeans_finds_blobs_large_and_small() -> None:
    rng = np.random.default_rng(0)
    centres = 10 * rng.standard_normal((12, 6))
    owners = rng.permutation(np.repeat(np.arange(12), [2000] * 6 + [200] * 6))
    frames = (centres[owners] + rng.standard_normal((len(owners), 6))).astype(np.float32)
    centroids = fit_kmeans(frames.copy(), 12, seed=0)
    distances = torch.cdist(torch.from_numpy(centres).float(), torch.from_numpy(centroids))
    assert sorted(distances.argmin(1).tolist()) == list(range(12))
    assert distances.min(1).values.max() < 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kmeans_is_no_worse_than_mini_batches(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames, unseen = (rng.standard_t(5, (2, 6000, 8)) @ rng.standard_normal((8, 8))).astype("f4")
    small = MiniBatchKMeans(30, batch_size=1000, n_init=5, random_state=seed).fit(frames)
    centroids = fit_kmeans(frames.copy(), 30, seed)
    assert error(frames, centroids) < error(frames, small.cluster_centers_)
    assert error(unseen, centroids) < 1.01 * error(unseen, small.cluster_centers_)
    assert np.unique(assign(torch.from_numpy(frames), torch.from_numpy(centroids))).size == 30


def fit_random_frames(count: int, clusters: int) -> None:
    frames = np.random.default_rng(0).standard_normal((count, 64), dtype=np.float32)
    fit_kmeans(frames, clusters, seed=0)


def test_kmeans_makes_no_copy_of_the_frames() -> None:
    _, most = peaks(fit_random_frames, (100, 2), (60_000, 4))
    assert most < 1.7 * 60_000 * 64 * 4


def label_with_a_small_sample(path: Path) -> None:
    extraction.BATCH_SECONDS, extraction.SORTED_TOGETHER = 3.0, 8
    meta = TargetsMeta("", "", "mfcc", None, clusters=4, frame_rate=50)
    cuts, features = Cuts.open(path), MfccFeatures()
    codebook = fit_codebook(cuts, features, LabelConfig(clusters=4, fit_mb=0.05))
    write_targets(path.parent / "targets", meta, label_cuts(cuts, features, codebook, "labels"))


def test_memory_does_not_grow_with_the_hours(corpus_copy: Path) -> None:
    paths = [corpus_copy / f"{count}" / "cuts.jsonl.gz" for count in (12, 24, 160)]
    for path in paths:
        save_cuts(many_cuts(corpus_copy, int(path.parent.name)), path)
    _, few, many = peaks(label_with_a_small_sample, *[(path,) for path in paths])
    all_frames = sum(cut_frames(cut) for cut in many_cuts(corpus_copy, 160))
    assert many - few < 0.25 * all_frames * 39 * 4
    assert len(FrameTargets.load(paths[-1].parent / "targets")) == 160


def test_the_codebook_depends_on_the_seed_and_nothing_else(
    corpus_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def codebook(seed: int) -> bytes:
        label(corpus_copy, "x", ["train"], LabelConfig(8, seed=seed, fit_mb=0.03), overwrite=True)
        return codebook_path(corpus_copy, "x").read_bytes()

    first = codebook(0)
    assert codebook(1) != first
    monkeypatch.setattr(extraction, "BATCH_SECONDS", 2.0)
    assert codebook(0) == first


def test_an_unreadable_recording_is_left_out(
    corpus_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "BATCH_SECONDS", 0.1)  # each cut is a batch of its own
    cuts = many_cuts(corpus_copy, 120)
    bad = min(cuts, key=lambda cut: cut.duration)
    bad.recording.sources[0].source = "/nowhere.wav"
    save_cuts(cuts, cuts_path(corpus_copy, "train"))
    label(corpus_copy, "x", ["train"], LabelConfig(clusters=4))
    targets = FrameTargets.load(targets_path(corpus_copy, "train", "x"))
    assert len(targets) == 119
    assert bad.id not in targets
    assert all(len(targets[cut.id]) == cut_frames(cut) for cut in cuts if cut is not bad)


def test_an_interrupted_run_goes_on(corpus_copy: Path) -> None:
    config = LabelConfig(clusters=4)
    dev = cuts_path(corpus_copy, "dev")
    shutil.copyfile(dev, corpus_copy / "kept.jsonl.gz")
    broken = list(load_cuts(dev))
    broken[-1].recording.sources[0].source = "/nowhere.wav"
    save_cuts(broken, dev)
    with pytest.raises(AudioError):
        label(corpus_copy, "x", ["train", "dev"], config)
    done = [codebook_path(corpus_copy, "x"), targets_path(corpus_copy, "train", "x")]
    before = [file.stat().st_mtime_ns for file in done]
    assert not targets_path(corpus_copy, "dev", "x").exists()
    assert not list(corpus_copy.rglob(".tmp-*"))
    shutil.copyfile(corpus_copy / "kept.jsonl.gz", dev)
    label(corpus_copy, "x", ["train", "dev"], config)
    assert [file.stat().st_mtime_ns for file in done] == before
    assert len(FrameTargets.load(targets_path(corpus_copy, "dev", "x"))) == len(broken)


def test_a_split_whose_manifest_changed_is_labelled_again(corpus_copy: Path) -> None:
    config = LabelConfig(clusters=4)
    label(corpus_copy, "x", ["train", "dev"], config)
    train = sha256(targets_path(corpus_copy, "train", "x"))
    cuts = list(load_cuts(cuts_path(corpus_copy, "dev")))
    save_cuts([*cuts, cuts[0].with_id("new")], cuts_path(corpus_copy, "dev"))
    report = label(corpus_copy, "x", ["train", "dev"], config)
    assert report["splits"]["dev"]["cuts"] == len(cuts) + 1
    assert "new" in FrameTargets.load(targets_path(corpus_copy, "dev", "x"))
    assert sha256(targets_path(corpus_copy, "train", "x")) == train


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
            assert targets.meta.manifest == sha256(cuts_path(corpus_copy, split))
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
        ([tmp_path, "--name", "x"], "holds no train/cuts.jsonl.gz"),
        ([corpus_copy, "--name", "x", "--clusters", 1], "between 2 and 65535"),
        ([corpus_copy, "--name", "x", "--clusters", 60000], "are too few for 60000 clusters"),
        ([corpus_copy, "--name", "x", "--fit-mb", 0.001], "6 frames are too few for 100 clusters"),
        ([corpus_copy, "--name", "x", "--fit-mb", 0], "fit_mb must be positive"),
        ([corpus_copy, "--name", "x", "--fit-mb", "inf"], "fit_mb must be positive"),
        ([corpus_copy, "--name", "x", "--layer", 4], "layer must be left out without a model"),
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


def test_a_split_without_frames_is_drawn_too(tmp_path: Path) -> None:
    usage = {"train": np.array([3, 1]), "dev": np.zeros(2, np.int64)}
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        draw_usage(tmp_path / "usage.png", "x", usage)
    assert (tmp_path / "usage.png").stat().st_size > 0


def test_purity_by_hand() -> None:
    perfect = purity(np.array([[1, 1, 0], [0, 0, 2]]))
    assert perfect["aligned_frames"] == 4
    assert perfect["phone_purity"] == 1.0
    assert perfect["pnmi"] == pytest.approx(1.0)
    assert perfect["cluster_purity"] == 0.75
    useless = purity(np.array([[1, 1], [1, 1]]))
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
    save_cuts(cuts, cuts_path(corpus_copy, "train"))
    report = label(corpus_copy, "mfcc", ["train"], LabelConfig(clusters=16))
    numbers = report["splits"]["train"]
    letters = sum(len(cut.supervisions[0].text or "") for cut in cuts)
    assert numbers["aligned_frames"] == pytest.approx(4 * letters, rel=0.05)
    chance = max(np.bincount([ord(c) for cut in cuts for c in cut.supervisions[0].text])) / letters
    assert numbers["phone_purity"] > chance
    assert 0.1 < numbers["pnmi"] < 1
