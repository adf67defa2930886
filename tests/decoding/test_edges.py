import numpy as np
import pytest
import torch

from speechssl.decoding.edges import (
    LAG_SECONDS,
    LEAD_SECONDS,
    REACH_SECONDS,
    LevelMeter,
    word_edges,
)


def sound(*parts: tuple[float, float]) -> torch.Tensor:
    """Noise of some (seconds, amplitude) after one another."""
    generator = torch.Generator().manual_seed(0)
    pieces = [a * torch.randn(round(16_000 * s), generator=generator) for s, a in parts]
    return torch.cat(pieces)


def levels(samples: torch.Tensor) -> np.ndarray:
    meter = LevelMeter()
    for block in samples.split(1234):
        meter.push(block)
    return meter.levels(0.0, len(samples) / 16_000)


def test_levels():
    samples = sound((1.0, 0.1), (0.5, 0.001))
    measured = levels(samples)
    assert measured.shape == (150,)
    assert np.median(measured[:100]) == pytest.approx(-20, abs=1)
    assert np.median(measured[100:]) == pytest.approx(-60, abs=1)
    whole = 10 * np.log10(np.square(samples.numpy().reshape(-1, 160)).mean(1))
    np.testing.assert_allclose(measured, whole, atol=1e-3)
    meter = LevelMeter()
    assert meter.levels(0.0, 1.0).shape == (0,)
    assert [len(block) for block in meter.listen(samples.split(1000))] == [1000] * 24
    assert meter.seconds == 1.5
    np.testing.assert_allclose(meter.levels(0.5, 0.2), whole[50:70], atol=1e-3)


def test_a_word_reaches_as_far_as_its_sound():
    """Sound from 1.0 to 2.0 and 2.5 to 3.0; the letters are written somewhere inside of it."""
    samples = sound((1.0, 1e-4), (1.0, 0.1), (0.5, 1e-4), (0.5, 0.1), (1.0, 1e-4))
    edges = word_edges([(1.2, 1.7), (2.7, 2.8)], 4.0, levels(samples))
    np.testing.assert_allclose(edges, [(1.0, 2.0), (2.5, 3.0)], atol=0.011)


def test_sound_is_followed_through_short_silences_and_not_too_far():
    samples = sound((1.0, 1e-4), (0.3, 0.1), (0.04, 1e-4), (0.2, 0.1), (1.0, 1e-4))
    [(start, end)] = word_edges([(1.1, 1.2)], 2.54, levels(samples))
    assert (start, end) == (pytest.approx(1.0, abs=0.011), pytest.approx(1.54, abs=0.011))
    samples = sound((1.0, 1e-4), (2.0, 0.1), (1.0, 1e-4))
    [(start, end)] = word_edges([(2.5, 2.9)], 4.0, levels(samples))
    assert (start, end) == (pytest.approx(2.5 - REACH_SECONDS), pytest.approx(3.0, abs=0.011))


def test_sound_after_a_silence_belongs_to_no_word():
    samples = sound((1.0, 1e-4), (0.3, 0.1), (0.1, 1e-4), (0.1, 0.1), (1.0, 1e-4))
    [(_, end)] = word_edges([(1.1, 1.2)], 2.5, levels(samples))
    assert end == pytest.approx(1.3, abs=0.011)


def test_a_word_ends_where_the_room_is_heard_again():
    """Fading sound is part of it; the noise of a room is not, even before digital silence."""
    fading, room = (0.2, 0.01), (0.2, 0.0005)
    samples = torch.cat([sound((0.5, 1e-4), (0.5, 0.1), fading, room), torch.zeros(16_000)])
    assert np.isfinite(levels(samples)).all()
    [(_, end)] = word_edges([(0.6, 0.9)], 2.4, levels(samples))
    assert end == pytest.approx(1.2, abs=0.011)


@pytest.mark.parametrize("with_levels", [False, True])
def test_where_the_sound_does_not_tell(with_levels):
    steady = levels(sound((4.0, 0.1))) if with_levels else None
    edges = word_edges([(1.0, 1.2), (2.0, 2.5), (2.55, 3.0)], 3.02, steady)
    np.testing.assert_allclose(edges[0], (1.0 - LEAD_SECONDS, 1.2 + LAG_SECONDS))
    assert edges[1][0] == pytest.approx(2.0 - LEAD_SECONDS)
    assert 2.5 < edges[1][1] < 2.55  # they share what there is
    assert edges[2][0] == pytest.approx(edges[1][1])
    assert edges[2][1] == pytest.approx(3.02)  # never beyond the end


def test_never_overlapping_nor_shrinking():
    rng = np.random.default_rng(0)
    for _ in range(50):
        times = np.sort(rng.uniform(0, 10, 12)).round(2)
        written = [(a, b + 0.02) for a, b in zip(times[::2], times[1::2])]
        written = [w for i, w in enumerate(written) if i == 0 or w[0] >= written[i - 1][1]]
        edges = word_edges(written, 10.1, rng.uniform(-60, -20, 1010).astype(np.float32))
        reached = 0.0
        for (start, end), (first, last) in zip(edges, written):
            assert reached <= start + 1e-9
            assert start <= first + 1e-9
            assert end >= last - 1e-9
            reached = end
    assert word_edges([], 1.0) == []
