import pytest
import torch

from speechssl.decoding.ahead import compute_batches
from speechssl.decoding.at_once import MOST_BATCHES, batches_at_once
from speechssl.decoding.transcriber import Transcriber
from speechssl.decoding.windows import WHOLE
from speechssl.errors import AudioError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def transcriber(babbler) -> Transcriber:
    return Transcriber(babbler, device="cpu")


@pytest.fixture
def two_threads():
    """Torch computing with two threads, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def recordings() -> list[torch.Tensor]:
    torch.manual_seed(3)
    return [0.1 * torch.randn(3200 + 400 * i) for i in range(7)]


@pytest.mark.parametrize("size", [1, 4], ids=["several batches at once", "one at a time"])
def test_the_same_as_one_by_one(transcriber, two_threads, size):
    """In order, each item with its own samples and log-probabilities."""
    samples = recordings()
    batches = [list(range(7))[first : first + size] for first in range(0, 7, size)]
    found = list(compute_batches(transcriber, samples.__getitem__, batches))
    assert [[item for item, _ in batch] for batch in found] == batches
    for item, computed in (pair for batch in found for pair in batch):
        waveform, log_probs = computed
        assert waveform is samples[item]
        [alone] = transcriber.log_probs([waveform])
        torch.testing.assert_close(log_probs, alone, atol=1e-4, rtol=1e-4)
    assert torch.get_num_threads() == 2


def test_the_caller_takes_one_core_meanwhile(transcriber, two_threads):
    samples = recordings()
    batches = compute_batches(transcriber, samples.__getitem__, [[i] for i in range(7)])
    assert {torch.get_num_threads() for _ in batches} == {1}
    assert torch.get_num_threads() == 2
    next(compute_batches(transcriber, samples.__getitem__, [[0], [1], [2]]))  # and left early
    assert torch.get_num_threads() == 2


def test_what_cannot_be_read(transcriber, two_threads):
    samples = recordings()

    def read(item: int) -> torch.Tensor:
        if item == 2:
            raise AudioError("item 2 is damaged")
        return samples[item]

    found = list(compute_batches(transcriber, read, [[0, 1], [2], [3, 4]]))
    [(item, error)] = found[1]
    assert item == 2
    assert isinstance(error, AudioError)
    assert all(isinstance(computed, tuple) for _, computed in found[0] + found[2])


def test_an_error_while_computing_is_not_lost(transcriber, two_threads):
    def read(item: int) -> torch.Tensor:
        return torch.full((3200,), 1.0, device="meta")  # samples that are not there

    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        list(compute_batches(transcriber, read, [[0], [1], [2]]))


def test_how_many_at_once(two_threads):
    assert batches_at_once(CPU, batches=5) == 2
    assert batches_at_once(CPU, batches=1) == 1  # all cores for the only one
    assert batches_at_once(GPU, batches=100) == 1
    torch.set_num_threads(4 * MOST_BATCHES)
    assert batches_at_once(CPU, batches=100) == MOST_BATCHES


def test_windows_of_a_long_recording(babbler, two_threads):
    """Computed two at a time, in order: the same as one after the other."""
    torch.manual_seed(4)
    samples = 0.1 * torch.randn(100_000)
    short = Transcriber(
        babbler, device="cpu", window_frames=50, overlap_frames=20, batch_seconds=1.0
    )
    assert len(list(short._batches(short._windows([samples], (WHOLE,))))) > 4
    found = list(short.stream_log_probs([samples]))
    torch.set_num_threads(1)
    expected = list(short.stream_log_probs([samples]))
    assert [len(piece) for piece in found] == [len(piece) for piece in expected]
    torch.testing.assert_close(torch.cat(found), torch.cat(expected), atol=1e-4, rtol=1e-4)
