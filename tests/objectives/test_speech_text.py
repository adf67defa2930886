"""Speech and text against CLIP's loss as figure 3 writes it, and missing transcripts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from speechssl.data.batch import SpeechBatch
from speechssl.errors import ConfigError, ManifestError
from speechssl.frames import num_frames
from speechssl.models.encoder import Encoder
from speechssl.objectives.speech_text import SpeechText, SpeechTextConfig, TextEncoder
from tests.models.reference import randomize
from tests.objectives.gradients import assert_same_gradients
from tests.objectives.small import FBANK, batch_of

CONFIG = SpeechTextConfig(text_dim=64, text_layers=1, projection_size=12)


def transcribed(*texts: str) -> SpeechBatch:
    batch = batch_of(*[4000 + 800 * index for index in range(len(texts))])
    batch.texts = list(texts)
    return batch


def models() -> tuple[Encoder, SpeechText]:
    torch.manual_seed(0)
    encoder, objective = Encoder(FBANK), SpeechText(CONFIG, FBANK)
    randomize(encoder)
    objective.read.eval()  # no dropout
    return encoder, objective


def test_it_is_the_loss_of_figure_3_gradients_too() -> None:
    encoder, objective = models()
    batch = transcribed("one", "twenty two", "ほげ")
    draws = objective.draw(batch)
    loss = objective.loss(encoder, batch, **draws)

    speech, text = [], []
    for row, length in enumerate(batch.lengths.tolist()):
        mask = draws["mask"][row : row + 1, : num_frames(length)]
        context, _ = encoder(batch.waveforms[row : row + 1, :length], torch.tensor([length]), mask)
        speech.append(objective.project_speech(context[0].mean(dim=0)))
        letters = torch.tensor([list(batch.texts[row].encode())])
        inputs = objective.read.embedding(letters)
        read = objective.read.transformer.contextualize(inputs, torch.tensor([letters.shape[1]]))
        text.append(objective.project_text(read[0].mean(dim=0)))
    left, right = (F.normalize(torch.stack(side), dim=1) for side in (speech, text))
    logits = left @ right.T * objective.log_scale.exp()
    labels = torch.arange(3)
    expected = (
        F.cross_entropy(logits, labels, reduction="sum")
        + F.cross_entropy(logits.T, labels, reduction="sum")
    ) / 2
    assert loss.count == 3
    torch.testing.assert_close(loss.sum, expected, rtol=1e-4, atol=1e-4)
    found = (logits.argmax(dim=1) == labels).sum() + (logits.argmax(dim=0) == labels).sum()
    assert float(loss.metrics["accuracy"][0]) == float(found) / 2
    assert_same_gradients(loss.sum, expected, encoder, objective)


def test_recordings_of_the_same_words_are_no_wrong_answers() -> None:
    encoder, objective = models()
    batch = transcribed("yes", "no", "yes")
    draws = objective.draw(batch)
    loss = objective.loss(encoder, batch, **draws)
    assert loss.count == 3
    trivial = torch.tensor([2.0, 3.0, 2.0]).log().sum()  # candidates of each
    assert float(loss.metrics["loss_trivial"][0]) == pytest.approx(float(trivial))
    batch.texts = ["yes", "yes", "yes"]
    alike = objective.loss(encoder, batch, **draws)
    assert alike.count == 0
    assert float(alike.sum.detach()) == 0.0


def test_transcripts_are_read_alone_whatever_stands_beside_them() -> None:
    torch.manual_seed(0)
    read = TextEncoder(64, 2).eval()
    together = read(["a", "a longer one"], torch.device("cpu"))
    alone = read(["a"], torch.device("cpu"))
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("texts", [["yes", ""], []], ids=["one", "all"])
def test_a_missing_transcript_is_named(texts: list[str]) -> None:
    encoder, objective = models()
    batch = transcribed("yes", "no")
    batch.texts = texts
    cut = len(texts) - 1 if texts else 0
    with pytest.raises(ManifestError, match=f"^cut {cut}: has no transcript"):
        objective(encoder, batch)


def test_the_scale_begins_as_the_temperature_says_and_is_bounded() -> None:
    encoder, objective = models()
    batch = transcribed("yes", "no")
    torch.nn.init.constant_(objective.log_scale, 50.0)
    total, count = objective(encoder, batch).metrics["temperature"]
    assert float(total) / count == pytest.approx(0.01)
    fresh = SpeechText(SpeechTextConfig(temperature=0.5), FBANK)
    assert float(fresh.log_scale.detach().exp()) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"text_dim": 100}, "text_dim"),
        ({"text_layers": 0}, "text_layers"),
        ({"projection_size": 0}, "projection_size"),
    ],
)
def test_a_value_out_of_range_is_named(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field} must be"):
        SpeechTextConfig(**values)
