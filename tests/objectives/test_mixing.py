"""Mixing against WavLM's algorithm 1, sample by sample, and what is drawn."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from speechssl.data.batch import SpeechBatch
from speechssl.errors import ConfigError
from speechssl.objectives.mixing import MixingConfig, draw_mixing, mix
from tests.objectives.small import batch_of

ALWAYS = MixingConfig(probability=1.0, noise_probability=0.5)


def draws_of(batch: SpeechBatch, config: MixingConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return draw_mixing(batch, config)


def test_it_is_algorithm_1() -> None:
    batch = batch_of(900, 700, 1000, 400, 800, 600)
    batch.waveforms = batch.waveforms * torch.tensor([1.0, 0.1, 3.0, 0.5, 2.0, 0.0])[:, None]
    draws = draws_of(batch, MixingConfig(probability=0.8, noise_probability=0.5), seed=4)
    mixed = mix(batch, **draws)
    kinds = set()
    for row, length in enumerate(batch.lengths.tolist()):
        expected = batch.waveforms[row].clone()
        partner, ratio = int(draws["partner"][row]), float(draws["ratio_db"][row])
        if math.isfinite(ratio):
            if partner < 0:
                source, source_length = draws["noise"][row], length
            else:
                source, source_length = batch.waveforms[partner], int(batch.lengths[partner])
            primary = float(expected.square().sum()) / length
            secondary = float(source.square().sum()) / source_length
            scale = math.sqrt(primary / (10 ** (ratio / 10) * secondary)) if secondary else 0.0
            samples, start, source_start = draws["stretch"][row].tolist()
            assert source_start + samples <= source_length
            for sample in range(samples):
                expected[start + sample] += scale * source[source_start + sample]
        kinds.add("none" if math.isinf(ratio) else "noise" if partner < 0 else "speech")
        torch.testing.assert_close(mixed.waveforms[row], expected, rtol=1e-4, atol=1e-5)
    assert kinds == {"none", "noise", "speech"}
    assert mixed.lengths is batch.lengths


def test_chances_and_ranges_are_those_of_the_settings() -> None:
    batch = batch_of(*[400] * 4000)
    draws = draws_of(batch, MixingConfig(probability=0.2))
    mixed = draws["ratio_db"].isfinite()
    noisy = mixed & (draws["partner"] < 0)
    assert float(mixed.float().mean()) == pytest.approx(0.2, abs=0.03)
    assert int(noisy.sum()) / int(mixed.sum()) == pytest.approx(0.1, abs=0.04)
    speech = draws["ratio_db"][mixed & ~noisy]
    assert float(speech.min()) >= -5.0
    assert 4.5 < float(speech.max()) <= 5.0
    assert float(draws["ratio_db"][noisy].max()) > 15.0
    assert draws["noise"][noisy].any(dim=1).all()
    assert not draws["noise"][~noisy].any()
    assert float(draws["noise"][noisy].std()) == pytest.approx(1.0, abs=0.03)


def test_stretches_are_up_to_half_of_the_recording_anywhere_in_it() -> None:
    batch = batch_of(*[1000, 600] * 1000)
    draws = draws_of(batch, ALWAYS)
    samples, start, source_start = draws["stretch"].T
    assert int(samples.min()) >= 1
    assert int(start.min()) == 0
    assert int(source_start.min()) == 0
    assert (start + samples <= batch.lengths).all()
    assert 490 < int(samples[::2].max()) <= 500
    assert 290 < int(samples[1::2].max()) <= 300
    assert int((start + samples)[::2].max()) > 990


def test_partners_are_the_others_all_equally_likely() -> None:
    batch = batch_of(*[400] * 5)
    speech_only = MixingConfig(probability=1.0, noise_probability=0.0)
    torch.manual_seed(0)
    seen = torch.zeros(5, 5)
    for _ in range(400):
        seen[torch.arange(5), draw_mixing(batch, speech_only)["partner"]] += 1
    assert not seen.diagonal().any()
    others = seen[~torch.eye(5, dtype=torch.bool)]
    assert ((others - 100).abs() < 45).all()


def test_a_recording_that_is_alone_gets_noise() -> None:
    batch = batch_of(900)
    draws = draws_of(batch, MixingConfig(probability=1.0, noise_probability=0.0))
    assert draws["partner"].tolist() == [-1]
    assert not torch.equal(mix(batch, **draws).waveforms, batch.waveforms)


def test_nothing_is_mixed_in_unless_asked() -> None:
    batch = batch_of(900, 700)
    mixed = mix(batch, **draws_of(batch, MixingConfig()))
    assert torch.equal(mixed.waveforms, batch.waveforms)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"probability": 1.5}, "probability"),
        ({"noise_probability": -0.1}, "noise_probability"),
        ({"speech_ratio_db": (5.0, -5.0)}, "speech_ratio_db"),
        ({"noise_ratio_db": (5.0, -5.0)}, "noise_ratio_db"),
        ({"longest": 0.0}, "longest"),
    ],
)
def test_a_value_out_of_range_is_named(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field} must be"):
        MixingConfig(**values)
