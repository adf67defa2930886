import pytest
import torch

from speechssl.decoding.windows import Tape, cut_windows
from speechssl.frames import HOP_SAMPLES, min_samples, num_frames


def stream(samples: int, block: int = 7000) -> list[torch.Tensor]:
    """Blocks in which each sample is its own position."""
    return list(torch.arange(samples, dtype=torch.float32).split(block))


def kept(windows, spans=((0, None),)) -> list[list[int]]:
    """The frames kept of each span, by the position of their first sample in the recording."""
    found: list[list[int]] = [[] for _ in spans]
    for window in windows:
        first = int(window.samples[0])
        found[window.span] += [first + f * HOP_SAMPLES for f in range(window.start, window.stop)]
    return found


@pytest.mark.parametrize("frames", [1, 2, 99, 100, 101, 102, 119, 120, 180, 181, 182, 500, 1000])
@pytest.mark.parametrize("extra", [0, 319])
def test_every_frame_is_kept_once(frames, extra):
    samples = min_samples(frames) + extra
    windows = list(cut_windows(stream(samples), window_frames=100, overlap_frames=20))
    assert kept(windows) == [[frame * HOP_SAMPLES for frame in range(num_frames(samples))]]
    for i, window in enumerate(windows):
        assert 0 <= window.start < window.stop <= num_frames(len(window.samples)) <= 100
        assert i == 0 or window.start >= 10  # half of the overlap on either side
        assert i == len(windows) - 1 or window.stop <= 90
        assert len(windows) == 1 or num_frames(len(window.samples)) == 100


@pytest.mark.parametrize("frames", [99, 100, 101, 102, 119, 181, 182, 183, 501])
def test_windows_begin_on_a_grid(frames):
    windows = list(cut_windows(stream(min_samples(frames)), 100, 21, grid_frames=4))
    assert kept(windows) == [[frame * HOP_SAMPLES for frame in range(frames)]]
    firsts = [int(window.samples[0]) // HOP_SAMPLES for window in windows]
    assert all(first % 4 == 0 for first in firsts)
    assert all(num_frames(len(window.samples)) <= 100 for window in windows)


def test_by_hand():
    windows = list(cut_windows(stream(min_samples(250)), window_frames=100, overlap_frames=20))
    firsts = [int(window.samples[0]) // HOP_SAMPLES for window in windows]
    assert firsts == [0, 80, 150]
    assert [(w.start, w.stop) for w in windows] == [(0, 90), (10, 85), (15, 100)]


def test_spans():
    spans = [(1000, 5000), (5100, 5300), (20_000, 60_123), (70_000, None)]
    windows = list(cut_windows(stream(80_000), 100, 20, spans))
    expected = [
        [start + frame * HOP_SAMPLES for frame in range(num_frames((stop or 80_000) - start))]
        for start, stop in spans
    ]
    assert kept(windows, spans) == expected
    assert expected[1] == []  # shorter than a frame
    assert max(int(window.samples[-1]) for window in windows if window.span == 2) < 60_123


def test_nothing():
    assert list(cut_windows([], 100, 20)) == []
    assert list(cut_windows(stream(399), 100, 20)) == []
    assert list(cut_windows(stream(9000), 100, 20, [])) == []


def test_tape_forgets():
    tape = Tape(stream(100_000, 1000))
    assert tape.read(0, 3).tolist() == [0, 1, 2]
    assert tape.read(50_000, 50_002).tolist() == [50_000, 50_001]
    assert len(tape._held) <= 1000
    assert tape.read(99_999, 200_000).tolist() == [99_999]
    assert tape.read(150_000, 200_000).tolist() == []
    assert tape.read_samples == 100_000
