import json

import numpy as np
import soundfile

from speechssl.models.folder import load_model_folder
from tests.interop.models import VOCABULARY, build, edit, save


def test_in_transcribe_info_and_out(speechssl, tmp_path):
    source = save(build("HubertForCTC", "pre"), tmp_path / "hf")
    result = speechssl("import", source, tmp_path / "model")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'model'}\n"
    assert "proven: 4 outputs equal those of transformers" in result.stderr
    noise = 0.2 * np.random.default_rng(0).standard_normal(16_000)
    soundfile.write(tmp_path / "noise.wav", noise, 16_000)
    text = speechssl("transcribe", tmp_path / "model", tmp_path / "noise.wav").stdout
    assert set("ETAOIN") & set(text)
    facts = speechssl("info", tmp_path / "model").stdout
    assert "HubertForCTC" in facts
    assert f"{len(VOCABULARY)}: <blank> |" in facts

    result = speechssl("export", tmp_path / "model", tmp_path / "out", "--to", "hf")
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["HubertForCTC"]


def test_notes_go_to_stderr(speechssl, tmp_path):
    source = save(build("Wav2Vec2Model"), tmp_path / "hf")
    (source / "preprocessor_config.json").unlink()
    result = speechssl("import", source, tmp_path / "model")
    assert "note: there is no preprocessor_config.json" in result.stderr
    assert load_model_folder(tmp_path / "model").info["imported"]["source"] == str(source)


def test_refusals_are_one_line(fails, tmp_path):
    source = save(build("Wav2Vec2Model"), tmp_path / "hf")
    edit(source / "config.json", hidden_act="relu")
    assert "hidden_act is 'relu'" in fails("import", source, tmp_path / "model")
    edit(source / "config.json", hidden_act="gelu", hidden_size="wide")
    assert "hidden_size: expected a whole number" in fails("import", source, tmp_path / "model")
    assert "no such folder" in fails("import", tmp_path / "nothing", tmp_path / "model")
    edit(source / "config.json", hidden_size=32)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("...")
    assert "is not a model folder" in fails("import", source, tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["thesis.txt"]
