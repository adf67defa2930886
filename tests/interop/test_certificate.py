from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from speechssl.errors import CheckpointError
from speechssl.interop.certificate import TOLERANCE, compare, probe, unproven
from speechssl.interop.conversion import Ours
from speechssl.interop.transformers.parity import certify
from speechssl.interop.transformers.reading import import_transformers
from speechssl.models.folder import load_encoder
from tests.interop.models import build, save


def test_the_largest_difference_of_each_output_is_kept() -> None:
    theirs = {"layer 0": torch.zeros(3), "layer 1": torch.tensor([-4.0, 1.0])}
    ours = {"layer 0": torch.tensor([0.0, -3e-5, 1e-5]), "layer 1": torch.tensor([-4.0, 1.0])}
    certificate = compare(ours, theirs, "other 1.0", "two outputs")
    assert certificate.status == "proven"
    assert certificate.differences == pytest.approx({"layer 0": 3e-5, "layer 1": 0.0})
    assert certificate.largest_values == {"layer 0": 0.0, "layer 1": 4.0}
    assert "3.0e-05 (layer 0)" in certificate.summary()
    assert json.loads(certificate.to_json())["library"] == "other 1.0"


@pytest.mark.parametrize("largest", [0.1, 1.0, 500.0])
def test_rounding_grows_with_the_values(largest: float) -> None:
    allowed = TOLERANCE * max(1.0, largest)
    theirs = {"loss": torch.tensor([largest, 0.0])}
    compare({"loss": torch.tensor([largest, 0.9 * allowed])}, theirs, "other", "")
    for wrong in (1.1 * allowed, torch.nan, torch.inf):
        with pytest.raises(CheckpointError, match="loss differs by"):
            compare({"loss": torch.tensor([largest, wrong])}, theirs, "other", "")
    with pytest.raises(CheckpointError, match="loss differs by inf"):
        compare(theirs, {"loss": torch.tensor([largest, torch.inf])}, "other", "")


def test_unproven_names_the_extra() -> None:
    certificate = unproven("transformers", "interop")
    assert certificate.status == "unproven"
    assert "pip install -e '.[interop]'" in certificate.summary()


def test_the_probe_is_fixed_and_padded() -> None:
    first, second = probe(), probe()
    assert torch.equal(first.waveforms, second.waveforms)
    assert first.lengths[1] < first.lengths[0] == first.waveforms.shape[1]
    assert 0.1 < first.waveforms.abs().max() < 1.0


@pytest.mark.parametrize("part", ["norm.bias", "layers.1.attention.query.weight"])
def test_one_wrong_tensor_is_found(part: str, tmp_path: Path) -> None:
    folder = save(build("HubertModel"), tmp_path / "hf")
    import_transformers(str(folder), tmp_path / "model")
    encoder = load_encoder(tmp_path / "model")
    assert certify(Ours(encoder), folder, "HubertModel").status == "proven"
    encoder.get_parameter(part).data.mul_(1.5)
    with pytest.raises(CheckpointError, match=r"does not give the outputs.*layer \d differs"):
        certify(Ours(encoder), folder, "HubertModel")
