import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from speechssl.data.audio import read_audio
from speechssl.decoding.beam import BeamDecoder
from speechssl.decoding.settings import DecodingSettings
from speechssl.decoding.transcriber import Transcriber
from speechssl.devices import multiplies_int8
from speechssl.errors import AudioError, ConfigError, ModelFolderError
from speechssl.frames import num_frames
from speechssl.models.folder import save_model_folder
from tests.decoding.conftest import TOKENS, random_model


def noise(seconds: float) -> Tensor:
    torch.manual_seed(int(100 * seconds))
    return torch.randn(int(16_000 * seconds)) * torch.rand(int(16_000 * seconds))


# --- long recordings -------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [48_000, 48_399, 48_400, 51_234, 100_001])
def test_stitched_equals_whole(near_sighted, samples):
    waveform = noise(samples / 16_000)
    [whole] = Transcriber(near_sighted).log_probs([waveform])
    short = Transcriber(near_sighted, window_frames=60, overlap_frames=20)
    [stitched] = short.log_probs([waveform])
    assert stitched.shape == whole.shape == (num_frames(len(waveform)), 10)
    torch.testing.assert_close(stitched, whole, atol=1e-4, rtol=1e-4)


def test_this_test_can_fail(near_sighted):
    """Without overlap the borders of the windows are seen in the result."""
    waveform = noise(3)
    [whole] = Transcriber(near_sighted).log_probs([waveform])
    [stitched] = Transcriber(near_sighted, window_frames=60, overlap_frames=0).log_probs([waveform])
    assert (stitched - whole).abs().max() > 1e-2


def test_long_recordings_never_enter_the_model_whole(babbler):
    transcriber = Transcriber(babbler, window_frames=60, overlap_frames=20)
    seen: list[int] = []
    transcriber.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    transcriber.transcribe([noise(5), noise(0.5)])
    assert max(seen) == 400 + 59 * 320


def test_no_word_is_cut_or_doubled_at_the_seams(near_sighted):
    """Words, times and confidences of a stream in windows are those of the whole recording."""
    waveform = torch.cat([noise(2), torch.zeros(9000), noise(9), torch.zeros(7000), noise(1)])
    [whole] = Transcriber(near_sighted).transcripts([waveform])
    short = Transcriber(near_sighted, window_frames=60, overlap_frames=20)
    streamed = short.stream_transcript(waveform.split(5000))
    assert len(whole.words) > 5
    assert streamed.text == whole.text
    for left, right in zip(streamed.words, whole.words):
        assert (left.start, left.end) == (right.start, right.end)
        assert left.confidence == pytest.approx(right.confidence, abs=1e-3)
        assert left.symbols == right.symbols
    assert streamed.seconds == whole.seconds == 13.0


def test_spans_are_transcribed_as_recordings_of_their_own(babbler):
    waveform = noise(3)
    for pause in (12_000, 36_000):
        waveform[pause : pause + 4000] *= 1e-4
    transcriber = Transcriber(babbler)
    parts = [(8000, 20_000), (32_000, 44_444)]
    streamed = transcriber.stream_transcript(waveform.split(1000), parts)
    alone = transcriber.transcripts([waveform[start:stop] for start, stop in parts])
    assert streamed.text == " ".join(transcript.text for transcript in alone)
    assert streamed.seconds == 3.0
    expected = [
        time + start / 16_000
        for (start, _), transcript in zip(parts, alone)
        for word in transcript.words
        for time in (word.start, word.end)
    ]
    found = [time for word in streamed.words for time in (word.start, word.end)]
    assert found == pytest.approx(expected, abs=0.002)
    nothing = transcriber.stream_transcript(waveform.split(1000), [])
    assert (nothing.words, nothing.seconds) == ([], 3.0)


def test_no_word_lasts_through_a_silence(near_sighted):
    transcriber = Transcriber(near_sighted)
    for seconds in (1.0, 1.1, 1.2, 1.3):
        waveform = torch.cat([noise(seconds), torch.zeros(20_000), noise(seconds)])
        [transcript] = transcriber.transcripts([waveform])
        middle = len(waveform) / 32_000
        before, behind = (
            [w for w in transcript.words if (w.start > middle) == later] for later in (False, True)
        )
        assert before
        assert behind
        assert max(word.end for word in before) < middle


def test_transcripts(babbler):
    waveforms = [noise(1), noise(0.01), noise(2)]
    transcripts = Transcriber(babbler).transcripts(waveforms)
    assert [t.text for t in transcripts] == Transcriber(babbler).transcribe(waveforms)
    for waveform, transcript in zip(waveforms, transcripts):
        assert transcript.text == " ".join(word.text for word in transcript.words)
        assert transcript.seconds == pytest.approx(len(waveform) / 16_000, abs=1e-3)
        reached = 0.0
        for word in transcript.words:
            assert reached <= word.start < word.end <= transcript.seconds
            assert 0 < word.confidence <= 1
            assert "".join(symbol.text for symbol in word.symbols) == word.text
            assert word.symbols[0].start == word.start
            assert word.symbols[-1].end == word.end
            reached = word.end
    assert transcripts[1].words == []


def test_times_go_on_behind_the_first_minute(babbler):
    words = Transcriber(babbler).stream_transcript(noise(65).split(160_000)).words
    assert words[-1].end > 64
    assert all(a.end <= b.start for a, b in pairwise(words))


def test_other_readings_are_those_of_one_piece(babbler):
    transcriber = Transcriber(babbler)
    transcriber.decoder = BeamDecoder(TOKENS, DecodingSettings(beam=5, nbest=3))
    [short] = transcriber.transcripts([noise(2)])
    assert len(short.alternatives) == 2
    assert short.text not in [text for text, _ in short.alternatives]
    parts = [(0, 16_000), (16_000, 32_000)]
    assert transcriber.stream_transcript([noise(2)], parts).alternatives == []


def test_memory_does_not_grow_with_the_recording(babbler):
    """The samples of the longer recording alone are 58 MB."""
    code = """
import resource, sys, torch
from speechssl.decoding.transcriber import Transcriber

transcriber = Transcriber(sys.argv[1], window_frames=500, overlap_frames=50, batch_seconds=20)
peaks = []
for minutes in (1, 15):
    transcriber.stream_transcript(torch.randn(160_000) for _ in range(6 * minutes))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(peaks[1] - peaks[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(babbler)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 30


# --- batches ---------------------------------------------------------------------------------


def test_batch_equals_one_by_one(babbler):
    transcriber = Transcriber(babbler, window_frames=60, overlap_frames=20)
    waveforms = [noise(seconds) for seconds in (0.5, 1.1, 0.01, 2.0, 0.9, 1.3)]
    together = transcriber.log_probs(waveforms)
    for waveform, log_probs in zip(waveforms, together):
        [alone] = transcriber.log_probs([waveform])
        assert log_probs.shape == (num_frames(len(waveform)), 10)
        torch.testing.assert_close(log_probs, alone, atol=1e-4, rtol=1e-4)
    texts = [transcriber.transcribe_waveform(waveform) for waveform in waveforms]
    assert transcriber.transcribe(waveforms) == texts
    assert texts[2] == ""  # shorter than one frame
    assert all(texts[:2])


def test_no_more_is_computed_at_once_than_asked_for(babbler):
    transcriber = Transcriber(babbler, batch_seconds=2)
    seen: list[torch.Size] = []
    transcriber.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    transcriber.transcribe([noise(seconds) for seconds in (0.5, 0.9, 3.0, 0.6, 0.8)])
    assert max(shape.numel() for shape in seen[1:]) <= 2 * 16_000
    assert seen[0] == (1, 3 * 16_000)  # what is longer is computed alone
    assert sum(shape[0] for shape in seen) == 5


def test_short_stretches_behind_a_long_one_are_padded_to_it(babbler):
    transcriber = Transcriber(babbler, batch_seconds=4)
    seen: list[torch.Size] = []
    transcriber.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    parts = [(0, 32_000), *((start, start + 8000) for start in range(32_000, 80_000, 8000))]
    transcriber.stream_transcript([noise(5)], parts)
    assert sum(shape[0] for shape in seen) == 7
    assert max(shape.numel() for shape in seen) <= 4 * 16_000


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_lower_precision_is_close(babbler, precision):
    if precision == "int8" and not multiplies_int8(torch.device("cpu")):
        pytest.skip("this processor does not multiply 8-bit integers")
    waveforms = [noise(1), noise(2)]
    exact = Transcriber(babbler).log_probs(waveforms)
    rough = Transcriber(babbler, precision=precision).log_probs(waveforms)
    for left, right in zip(exact, rough):
        assert right.dtype == torch.float32
        assert 0 < (left.exp() - right.exp()).abs().mean() < 0.02
    if precision == "int8":  # what is not of integers is as precise as auto is
        others = Transcriber(babbler, precision="auto").log_probs(waveforms)
        assert not any(left.equal(right) for left, right in zip(others, rough))


def test_nothing_to_transcribe(babbler):
    transcriber = Transcriber(babbler)
    assert transcriber.transcribe([]) == []
    assert transcriber.transcribe([torch.zeros(0), torch.zeros(399)]) == ["", ""]


def test_same_text_twice_and_no_gradient(babbler):
    transcriber = Transcriber(babbler)
    waveform = noise(1)
    assert transcriber.transcribe_waveform(waveform) == transcriber.transcribe_waveform(waveform)
    assert not transcriber.log_probs([waveform])[0].requires_grad


# --- files -----------------------------------------------------------------------------------


def test_file_equals_waveform(babbler, corpus):
    transcriber = Transcriber(babbler)
    for path in sorted((corpus / "audio").glob("test-*.wav")):
        text = transcriber.transcribe_waveform(read_audio(path))
        assert transcriber.transcribe_file(path) == text


def test_errors(babbler, tmp_path):
    with pytest.raises(ModelFolderError):
        Transcriber(tmp_path / "nothing")
    broken = random_model()
    torch.nn.init.constant_(broken.head.bias, torch.nan)
    save_model_folder(tmp_path / "model", broken, tokens=TOKENS)
    with pytest.raises(ModelFolderError, match="weights that are NaN"):
        Transcriber(tmp_path / "model")
    with pytest.raises(ConfigError, match="device 'abacus'"):
        Transcriber(babbler, device="abacus")
    with pytest.raises(AudioError):
        Transcriber(babbler).transcribe_file(tmp_path / "nothing.wav")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_equals_cpu(babbler):
    waveforms = [noise(1), noise(2)]
    on_cpu = Transcriber(babbler, device="cpu").log_probs(waveforms)
    on_gpu = Transcriber(babbler, device="cuda").log_probs(waveforms)
    for left, right in zip(on_cpu, on_gpu):
        torch.testing.assert_close(left, right, atol=1e-2, rtol=1e-2)
