from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from speechssl.data.manifest import cuts_path, load_cuts
from speechssl.data.targets import FrameTargets, TargetsMeta, cut_frames
from speechssl.errors import TargetsError
from speechssl.files import sha256


@pytest.fixture
def codebook(tmp_path: Path) -> Path:
    path = tmp_path / "codebook.safetensors"
    path.write_bytes(b"any codebook")
    return path


def make(corpus: Path, codebook: Path) -> FrameTargets:
    meta = TargetsMeta(sha256(codebook), "mfcc", None, clusters=300, frame_rate=50)
    rng = np.random.default_rng(0)
    cuts = load_cuts(cuts_path(corpus, "dev"))
    return FrameTargets.from_labels(
        meta, {cut.id: rng.integers(0, 300, cut_frames(cut)) for cut in cuts}
    )


def test_targets_come_back_as_they_were(corpus: Path, codebook: Path, tmp_path: Path) -> None:
    targets = make(corpus, codebook)
    targets.save(tmp_path / "targets.npz")
    loaded = FrameTargets.load(tmp_path / "targets.npz")
    assert loaded.meta == targets.meta
    cuts = load_cuts(cuts_path(corpus, "dev"))
    for cut in cuts:
        assert torch.equal(loaded[cut.id], targets[cut.id])
        assert loaded[cut.id].dtype == torch.int64
    loaded.check(cuts, tmp_path / "targets.npz", codebook)


def test_every_misfit_is_refused(corpus: Path, codebook: Path, tmp_path: Path) -> None:
    cuts = list(load_cuts(cuts_path(corpus, "dev")))
    targets = make(corpus, codebook)
    path = tmp_path / "targets.npz"

    other_rate = FrameTargets.from_labels(replace(targets.meta, frame_rate=100), {})
    with pytest.raises(TargetsError, match="100 frames a second, the encoder 50"):
        other_rate.check(cuts, path, codebook)

    other_codebook = FrameTargets.from_labels(replace(targets.meta, codebook="0" * 64), {})
    with pytest.raises(TargetsError, match="another codebook"):
        other_codebook.check(cuts, path, codebook)

    labels = {cut.id: targets[cut.id].numpy() for cut in cuts}
    short = {**labels, cuts[2].id: labels[cuts[2].id][:-1]}
    with pytest.raises(TargetsError, match=f"{cuts[2].id}.*frames but"):
        FrameTargets.from_labels(targets.meta, short).check(cuts, path, codebook)

    del labels[cuts[1].id]
    with pytest.raises(TargetsError, match=f"no targets for cut '{cuts[1].id}'"):
        FrameTargets.from_labels(targets.meta, labels).check(cuts, path, codebook)

    codebook.unlink()
    with pytest.raises(TargetsError, match="is missing"):
        targets.check(cuts, path, codebook)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 truncated"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "targets.npz"
    path.write_bytes(content)
    with pytest.raises(TargetsError, match="is not a targets file"):
        FrameTargets.load(path)
    with pytest.raises(TargetsError, match="no such targets"):
        FrameTargets.load(tmp_path / "nothing.npz")


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "targets.npz"
    objects = np.array([print], dtype=object)
    np.savez(path, values=objects, offsets=objects, ids=objects, meta=objects)
    with pytest.raises(TargetsError, match="is not a targets file"):
        FrameTargets.load(path)
