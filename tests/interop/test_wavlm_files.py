"""The files of WavLM that Microsoft published (WavLM-Base.pt and the like) come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from speechssl.data.batch import collate
from speechssl.errors import CheckpointError, ConfigError
from speechssl.frames import num_frames
from speechssl.interop.fairseq import export_model, import_model
from speechssl.interop.projects import find_project
from speechssl.models.folder import load_encoder, load_model_folder
from tests.interop.fairseq_files import settings_of, tensors_of
from tests.interop.models import build

LENGTHS = [9000, 5300]


def save(model: torch.nn.Module, file: Path, **changes: Any) -> Path:
    """A transformers model as Microsoft keeps it: settings in one plain dict, and the tensors."""
    config = model.config
    cfg = {
        **{name: value for name, value in settings_of(model).items() if name != "_name"},
        "relative_position_embedding": True,
        "gru_rel_pos": True,
        "num_buckets": config.num_buckets,
        "max_distance": config.max_bucket_distance,
        "normalize": config.do_stable_layer_norm,
        **changes,
    }
    torch.save({"cfg": cfg, "model": tensors_of(model)}, file)
    return file


@pytest.mark.parametrize("layout", ["post", "pre"])
@torch.no_grad()
def test_hidden_states_at_every_layer(layout: str, tmp_path: Path) -> None:
    model = build("WavLMModel", layout)
    file = save(model, tmp_path / "WavLM.pt", normalize=False)
    certificate, notes = find_project(str(file)).import_model(str(file), tmp_path / "model")
    assert (certificate.status, notes) == ("proven", [])
    encoder = load_encoder(tmp_path / "model")
    assert (encoder.config.relative_buckets, encoder.config.relative_distance) == (24, 30)
    torch.manual_seed(1)
    waveforms = [0.3 * torch.randn(length) for length in LENGTHS]
    batch = collate(waveforms)
    ours = encoder.hidden_states(batch.waveforms, batch.lengths, range(3))
    for row, waveform in enumerate(waveforms):  # alone: with group norm padding counts there
        theirs = model(waveform[None], output_hidden_states=True).hidden_states
        for state, expected in zip(ours, theirs, strict=True):
            alone = state[row, : num_frames(len(waveform))]
            torch.testing.assert_close(alone, expected[0], rtol=1e-5, atol=1e-5)


def test_the_settings_come_along_and_fairseq_does_not_get_it_back(tmp_path: Path) -> None:
    file = save(build("WavLMModel", "pre"), tmp_path / "WavLM.pt")
    import_model(str(file), tmp_path / "model")
    loaded = load_model_folder(tmp_path / "model")
    assert load_encoder(tmp_path / "model").config.frontend.normalize_waveform
    assert loaded.info["imported"]["architecture"] == "wavlm"
    assert "recipe" not in loaded.info
    with pytest.raises(CheckpointError, match="relative_buckets is 24, which fairseq does not"):
        export_model(tmp_path / "model", tmp_path / "out")


def test_a_bias_without_gates_is_refused(tmp_path: Path) -> None:
    file = save(build("WavLMModel"), tmp_path / "WavLM.pt", gru_rel_pos=False)
    with pytest.raises((CheckpointError, ConfigError), match="gru_rel_pos is False") as caught:
        import_model(str(file), tmp_path / "model")
    assert str(file) in str(caught.value)
    assert not (tmp_path / "model").exists()
