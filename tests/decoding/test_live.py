from itertools import pairwise

import torch

from speechssl.decoding.live import FINAL_SECONDS, listen
from speechssl.decoding.segments import PAUSE_FRAMES
from speechssl.decoding.transcriber import Transcriber
from speechssl.frames import FRAME_RATE


def noise(seconds: float) -> torch.Tensor:
    torch.manual_seed(int(10 * seconds))
    return torch.randn(round(16_000 * seconds)) * torch.rand(round(16_000 * seconds))


SPEECH = torch.cat(
    [torch.zeros(20_000), noise(2), torch.zeros(16_000), noise(1.5), torch.zeros(30_000), noise(1)]
)
"""Three utterances with pauses."""


def test_final_text_is_that_of_the_whole_recording(near_sighted):
    """The model sees little around a frame, so what is kept is what the whole would give."""
    transcriber = Transcriber(near_sighted)
    [whole] = transcriber.transcripts([SPEECH])
    for block, step in ((1600, 0.5), (333, 0.3), (40_000, 1.0)):
        updates = list(listen(transcriber, SPEECH.split(block), step_seconds=step))
        final = [word for update in updates if update.final for word in update.words]
        assert " ".join(word.text for word in final) == whole.text != ""
        assert all(left.end <= right.start + 1e-6 for left, right in pairwise(final))


def test_a_pause_makes_final(near_sighted):
    """Each utterance is one final update, which comes when it is promised."""
    step = 0.5
    updates = list(listen(Transcriber(near_sighted), SPEECH.split(1600), step_seconds=step))
    final = [update for update in updates if update.final]
    assert len(final) == 3
    for update in final[:2]:
        waited = update.heard_seconds - update.words[-1].symbols[-1].start
        assert FINAL_SECONDS - PAUSE_FRAMES / FRAME_RATE <= waited <= FINAL_SECONDS + 2 * step


def test_tentative_text_comes_with_every_step(near_sighted):
    updates = list(listen(Transcriber(near_sighted), SPEECH.split(1600), step_seconds=0.5))
    tentative = [update for update in updates if not update.final]
    heard = [update.heard_seconds for update in tentative]
    assert all(later - earlier > 0.4 for earlier, later in pairwise(heard))
    first_words = next(update for update in tentative if update.words)
    assert first_words.heard_seconds <= 20_000 / 16_000 + 1.0  # soon after the first sound
    assert not first_words.final
    assert all(update.computing_seconds > 0 for update in updates)


def test_endless_speech_becomes_final_too(babbler):
    updates = list(listen(Transcriber(babbler), noise(50).split(16_000), step_seconds=5.0))
    final = [update for update in updates if update.final]
    assert len(final) >= 2
    assert final[0].heard_seconds < 45


def test_nothing_to_hear(babbler):
    transcriber = Transcriber(babbler)
    assert list(listen(transcriber, [])) == []
    assert [update.text for update in listen(transcriber, [torch.zeros(100)])] == []
