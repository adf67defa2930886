import json

import pytest
import soundfile
import torch

from speechssl.data.text import Tokens
from speechssl.decoding.transcript import Word
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder
from speechssl.models.folder import save_model_folder
from speechssl.models.presets import encoder_config
from tools.bench.long_audio import join, report, transcribe


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    tokens = Tokens.from_texts(["abcdefgh"])
    tiny = {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 64, "position_kernel": 8}
    recogniser = CTCModel(Encoder(encoder_config("tiny", tiny)), len(tokens))
    torch.nn.init.normal_(recogniser.head.weight)
    save_model_folder(tmp_path / "model", recogniser, tokens=tokens)
    return tmp_path / "model"


def test_joined_recording_and_its_report(model, tmp_path, corpus, capsys):
    manifest = corpus / "test" / "cuts.jsonl.gz"
    utterances = join(model, manifest, tmp_path / "long.wav", hours=0.006)
    assert utterances[-1].end == pytest.approx(soundfile.info(tmp_path / "long.wav").duration)
    assert utterances[-1].end > 0.006 * 3600
    for before, after in zip(utterances, utterances[1:]):  # noqa: RUF007
        assert 0.5 <= after.start - before.end <= 1.5
        assert after.start <= after.sound[0] < after.sound[1] <= after.end

    transcribe(model, tmp_path, vad=False)
    result = json.loads((tmp_path / "long.json").read_text())
    assert result["seconds"] == pytest.approx(utterances[-1].end, abs=0.001)
    assert result["words"]

    own = [word for utterance in utterances for word in utterance.words]
    report(utterances, [Word(word.text, word.start, word.end, 0.0) for word in own])
    printed = capsys.readouterr().out
    assert "(+0.00 % relative)" in printed
    assert f"the same {len(own)} words" in printed
    assert "start median 0 ms" in printed
