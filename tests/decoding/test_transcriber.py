from pathlib import Path

import pytest
import torch
from torch import Tensor

from speechssl.data.audio import read_audio
from speechssl.data.text import Tokens
from speechssl.decoding.transcriber import Transcriber, windows
from speechssl.errors import AudioError, ConfigError, ModelFolderError
from speechssl.frames import num_frames
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder
from speechssl.models.folder import save_model_folder
from speechssl.models.presets import encoder_config

TOKENS = Tokens.from_texts(["abcdefgh"])
TINY = {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 64, "position_kernel": 8}


def save(path: Path, model: CTCModel) -> Path:
    save_model_folder(path, model, tokens=TOKENS)
    return path


def random_model(**changes: object) -> CTCModel:
    torch.manual_seed(0)
    model = CTCModel(Encoder(encoder_config("tiny", {**TINY, **changes})), len(TOKENS))
    torch.nn.init.normal_(model.head.weight)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("recogniser") / "model", random_model())


@pytest.fixture(scope="module")
def near_sighted(tmp_path_factory) -> Path:
    """A recogniser that sees 8 frames around each frame and no more.

    Its attention adds nothing, and no statistics are taken over the recording.
    """
    model = random_model(frontend={"kind": "waveform", "channels": 16, "norm": "layer"})
    for name, weight in model.named_parameters():
        if "attention" in name:
            torch.nn.init.zeros_(weight)
    return save(tmp_path_factory.mktemp("near-sighted") / "model", model)


def noise(seconds: float) -> Tensor:
    torch.manual_seed(int(100 * seconds))
    return torch.randn(int(16_000 * seconds)) * torch.rand(int(16_000 * seconds))


# --- windows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [101, 102, 119, 120, 180, 181, 182, 500, 1000])
def test_windows_cover_every_frame_once(frames):
    parts = windows(frames, window=100, overlap=20)
    kept = [frame for _, start, stop in parts for frame in range(start, stop)]
    assert kept == list(range(frames))
    for i, (first, start, stop) in enumerate(parts):
        assert 0 <= first <= start < stop <= first + 100 <= frames
        assert i == 0 or start - first >= 10  # half of the overlap on either side
        assert i == len(parts) - 1 or first + 100 - stop >= 10


def test_windows_by_hand():
    assert windows(250, window=100, overlap=20) == [
        (0, 0, 90),
        (80, 90, 165),
        (150, 165, 250),
    ]


# --- long recordings -------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [48_000, 48_399, 48_400, 51_234, 100_001])
def test_stitched_equals_whole(near_sighted, samples):
    waveform = noise(samples / 16_000)
    [whole] = Transcriber(near_sighted).log_probs([waveform])
    short = Transcriber(near_sighted, window_frames=60, overlap_frames=20)
    [stitched] = short.log_probs([waveform])
    assert stitched.shape == whole.shape == (num_frames(len(waveform)), len(TOKENS))
    torch.testing.assert_close(stitched, whole, atol=1e-4, rtol=1e-4)


def test_this_test_can_fail(near_sighted):
    """Without overlap the borders of the windows are seen in the result."""
    waveform = noise(3)
    [whole] = Transcriber(near_sighted).log_probs([waveform])
    [stitched] = Transcriber(near_sighted, window_frames=60, overlap_frames=0).log_probs([waveform])
    assert (stitched - whole).abs().max() > 1e-2


def test_long_recordings_never_enter_the_model_whole(folder):
    transcriber = Transcriber(folder, window_frames=60, overlap_frames=20)
    seen: list[int] = []
    transcriber.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    transcriber.transcribe([noise(5), noise(0.5)])
    assert max(seen) == 400 + 59 * 320


# --- batches ---------------------------------------------------------------------------------


def test_batch_equals_one_by_one(folder):
    transcriber = Transcriber(folder, window_frames=60, overlap_frames=20)
    waveforms = [noise(seconds) for seconds in (0.5, 1.1, 0.01, 2.0, 0.9, 1.3)]
    together = transcriber.log_probs(waveforms)
    for waveform, log_probs in zip(waveforms, together):
        [alone] = transcriber.log_probs([waveform])
        assert log_probs.shape == (num_frames(len(waveform)), len(TOKENS))
        torch.testing.assert_close(log_probs, alone, atol=1e-4, rtol=1e-4)
    texts = [transcriber.transcribe_waveform(waveform) for waveform in waveforms]
    assert transcriber.transcribe(waveforms) == texts
    assert texts[2] == ""  # shorter than one frame
    assert all(texts[:2])


def test_nothing_to_transcribe(folder):
    transcriber = Transcriber(folder)
    assert transcriber.transcribe([]) == []
    assert transcriber.transcribe([torch.zeros(0), torch.zeros(399)]) == ["", ""]


def test_same_text_twice_and_no_gradient(folder):
    transcriber = Transcriber(folder)
    waveform = noise(1)
    assert transcriber.transcribe_waveform(waveform) == transcriber.transcribe_waveform(waveform)
    assert not transcriber.log_probs([waveform])[0].requires_grad


# --- files -----------------------------------------------------------------------------------


def test_file_equals_waveform(folder, corpus):
    transcriber = Transcriber(folder)
    for path in sorted((corpus / "audio").glob("test-*.wav")):
        text = transcriber.transcribe_waveform(read_audio(path))
        assert transcriber.transcribe_file(path) == text


def test_errors(folder, tmp_path):
    with pytest.raises(ModelFolderError):
        Transcriber(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="device 'abacus'"):
        Transcriber(folder, device="abacus")
    with pytest.raises(AudioError):
        Transcriber(folder).transcribe_file(tmp_path / "nothing.wav")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_equals_cpu(folder):
    waveforms = [noise(1), noise(2)]
    on_cpu = Transcriber(folder, device="cpu").log_probs(waveforms)
    on_gpu = Transcriber(folder, device="cuda").log_probs(waveforms)
    for left, right in zip(on_cpu, on_gpu):
        torch.testing.assert_close(left, right, atol=1e-2, rtol=1e-2)
