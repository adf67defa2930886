import pytest
import torch

from speechssl.models.squeeze import Squeeze


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 6, 7])
def test_squeezed_frames_are_joined_and_split_in_order(frames: int) -> None:
    torch.manual_seed(0)
    squeeze = Squeeze(48, 3)
    inputs = torch.randn(2, frames, 48)
    joined = squeeze(inputs)
    assert joined.shape[1] == squeeze.count(torch.tensor([frames])) == (frames + 2) // 3
    parts = squeeze.join.weight.split(48, dim=1)  # one for each of the joined frames
    for number in range(frames // 3):
        three = inputs[:, 3 * number : 3 * number + 3]
        expected = sum(frame @ part.T for frame, part in zip(three.unbind(1), parts))
        torch.testing.assert_close(joined[:, number], expected + squeeze.join.bias)
    split = squeeze.undo(joined, frames)
    repeated = squeeze.repeat(joined, frames)
    assert split.shape == repeated.shape == inputs.shape
    for frame in range(frames):
        source, place = joined[:, frame // 3], slice(48 * (frame % 3), 48 * (frame % 3) + 48)
        expected = source @ squeeze.split.weight[place].T + squeeze.split.bias[place]
        torch.testing.assert_close(split[:, frame], expected)
        assert torch.equal(repeated[:, frame], source)
