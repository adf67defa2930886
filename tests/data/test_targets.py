from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from speechssl.data.index import Cuts
from speechssl.data.manifest import cuts_path
from speechssl.data.targets import FrameTargets, TargetsMeta, id_key, write_targets
from speechssl.errors import TargetsError
from speechssl.files import sha256
from tests.memory import peaks

META = TargetsMeta("c" * 64, "m" * 64, "mfcc", None, clusters=300, frame_rate=50)

Labels = dict[str, NDArray[np.int64]]


@pytest.fixture
def codebook(tmp_path: Path) -> Path:
    path = tmp_path / "codebook.safetensors"
    path.write_bytes(b"any codebook")
    return path


@pytest.fixture
def meta(codebook: Path) -> TargetsMeta:
    return replace(META, codebook=sha256(codebook))


@pytest.fixture
def cuts(corpus_copy: Path) -> Cuts:
    return Cuts.open(cuts_path(corpus_copy, "dev"))


@pytest.fixture
def labels(cuts: Cuts) -> Labels:
    rng = np.random.default_rng(0)
    return {id_: rng.integers(0, 300, frames) for id_, frames in zip(cuts.ids(), cuts.frames)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "targets.safetensors"


def write(path: Path, meta: TargetsMeta, labels: Labels) -> FrameTargets:
    write_targets(path, meta, labels.items())
    return FrameTargets.load(path)


@pytest.mark.parametrize("together", [3, 1 << 22], ids=["in parts", "at once"])
def test_targets_come_back_as_they_were(
    path: Path,
    meta: TargetsMeta,
    cuts: Cuts,
    labels: Labels,
    codebook: Path,
    together: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("speechssl.data.targets.CHECKED_TOGETHER", together)
    monkeypatch.setattr("speechssl.data.targets.COUNTED_TOGETHER", together)
    targets = write(path, meta, labels)
    assert targets.meta == meta
    assert len(targets) == len(labels)
    for cut_id, clusters in labels.items():
        assert cut_id in targets
        assert torch.equal(targets[cut_id], torch.from_numpy(clusters))
    assert "another cut" not in targets
    with pytest.raises(KeyError):
        targets["another cut"]
    everything = np.concatenate(list(labels.values()))
    np.testing.assert_array_equal(targets.usage(), np.bincount(everything, minlength=300))
    targets.check(cuts, path, codebook)


def test_many_cuts_are_found_and_none_that_is_not_there(path: Path) -> None:
    lengths = np.random.default_rng(0).integers(0, 9, 3000)
    targets = write(path, META, {f"cut {i}": np.full(n, i % 300) for i, n in enumerate(lengths)})
    for i, length in enumerate(lengths):
        assert targets[f"cut {i}"].tolist() == [i % 300] * length
    assert not any(f"cut {i}" in targets for i in range(3000, 6000))


def test_no_cuts_are_targets_too(path: Path) -> None:
    targets = write(path, META, {})
    assert len(targets) == 0
    assert "any" not in targets
    assert targets.usage().sum() == 0


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="needs Linux's list of maps")
def test_targets_are_mapped_and_not_read(path: Path, meta: TargetsMeta, labels: Labels) -> None:
    targets = write(path, meta, labels)
    assert str(path) in Path("/proc/self/maps").read_text()
    assert len(targets) == len(labels)


def write_zeros(path: Path, cuts: int, frames: int) -> None:
    write_targets(path, META, ((f"cut {i}", np.zeros(frames)) for i in range(cuts)))


def test_memory_for_writing_does_not_hold_the_targets(path: Path) -> None:
    _, few, many = peaks(write_zeros, (path, 1, 1), (path, 100, 500), (path, 2000, 500))
    assert many - few < 2000 * 500 / 4, "a quarter of a byte a frame"


def test_every_misfit_is_refused(
    path: Path, meta: TargetsMeta, cuts: Cuts, labels: Labels, codebook: Path
) -> None:
    other_rate = write(path, replace(meta, frame_rate=100), {})
    with pytest.raises(TargetsError, match="100 frames a second, the encoder 50"):
        other_rate.check(cuts, path, codebook)

    other_codebook = write(path, replace(meta, codebook="0" * 64), labels)
    with pytest.raises(TargetsError, match="another codebook"):
        other_codebook.check(cuts, path, codebook)

    second, third = list(labels)[1:3]
    short = write(path, meta, {**labels, third: labels[third][:-1]})
    count = len(labels[third])
    with pytest.raises(TargetsError, match=f"{third}' has {count} frames but {count - 1} targets"):
        short.check(cuts, path, codebook)
    long = write(path, meta, {**labels, third: np.append(labels[third], 0)})
    with pytest.raises(TargetsError, match=f"{third}' has {count} frames but {count + 1} targets"):
        long.check(cuts, path, codebook)

    missing = write(path, meta, {id_: labels[id_] for id_ in labels if id_ != second})
    with pytest.raises(TargetsError, match=f"no targets for cut '{second}'"):
        missing.check(cuts, path, codebook)

    complete = write(path, meta, labels)
    codebook.unlink()
    with pytest.raises(TargetsError, match="is missing"):
        complete.check(cuts, path, codebook)


def test_what_is_no_targets_file_is_refused(path: Path, labels: Labels) -> None:
    def refuses(problem: str) -> None:
        with pytest.raises(TargetsError, match=f"is not a targets file.*{problem}") as refused:
            FrameTargets.load(path)
        assert "\n" not in str(refused.value)

    with pytest.raises(TargetsError, match="no such targets"):
        FrameTargets.load(path)
    for content in (b"", b"not safetensors", b"PK\x03\x04 an archive"):
        path.write_bytes(content)
        refuses("")

    write(path, META, labels)
    whole = path.read_bytes()
    for length in (4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refuses("")

    good = {
        "keys": np.array([3, 5]),
        "spans": np.array([[0, 2], [2, 4]]),
        "values": np.zeros(4, np.uint16),
    }
    stamp = {"meta": json.dumps(asdict(META))}
    save_file(good, path, stamp)
    assert len(FrameTargets.load(path)) == 2
    for damage, problem in (
        ({"values": np.zeros(3, np.uint16)}, "table of cuts is damaged"),
        ({"keys": np.array([5, 3])}, "table of cuts is damaged"),
        ({"keys": np.array([3, 3])}, "table of cuts is damaged"),
        ({"spans": np.array([[-1, 2], [2, 4]])}, "table of cuts is damaged"),
        ({"spans": np.array([[2, 0], [2, 4]])}, "table of cuts is damaged"),
        ({"spans": np.array([0, 2])}, "other types or shapes"),
        ({"keys": np.array([3])}, "other types or shapes"),
        ({"values": np.zeros(4, np.int64)}, "other types or shapes"),
    ):
        save_file({**good, **damage}, path, stamp)
        refuses(problem)
    save_file(good, path)
    refuses("meta")
    save_file(good, path, {"meta": json.dumps({"clusters": 3})})
    refuses("missing")
    save_file({"values": good["values"]}, path, stamp)
    refuses("keys")


@pytest.mark.parametrize("there_before", [False, True], ids=["new", "again"])
def test_an_interruption_leaves_no_half_file(
    path: Path, labels: Labels, there_before: bool
) -> None:
    if there_before:
        write(path, META, labels)
    before = {file.name: file.read_bytes() for file in path.parent.glob("*") if file.is_file()}

    def interrupted() -> Iterator[tuple[str, NDArray[np.int64]]]:
        yield "first", np.arange(50)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_targets(path, META, interrupted())
    after = {file.name: file.read_bytes() for file in path.parent.glob("*") if file.is_file()}
    assert after == before


def test_repeated_ids_are_refused(path: Path) -> None:
    twice = [("one", np.arange(3)), ("two", np.arange(2)), ("one", np.arange(4))]
    with pytest.raises(TargetsError, match="two cuts have the same id"):
        write_targets(path, META, twice)
    assert not path.exists()


def test_keys_are_the_same_everywhere() -> None:
    assert id_key("an251-fash-b") == 8798757411524383111
    assert id_key("ähnlich") == -8413887230990610469
