import json

import numpy as np
import pytest
import soundfile
import torch
import transformers

from speechssl.models.folder import load_model_folder
from tests.interop.models import VOCABULARY, build, edit, save
from tests.interop.torchaudio_models import build as torchaudio_model
from tests.interop.torchaudio_models import save as save_for_torchaudio


def test_in_transcribe_info_and_out(speechssl, tmp_path):
    source = save(build("HubertForCTC", "pre"), tmp_path / "hf")
    result = speechssl("import", source, tmp_path / "model")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'model'}\n"
    assert "proven: 4 outputs equal those of transformers" in result.stderr
    noise = 0.2 * np.random.default_rng(0).standard_normal(16_000)
    soundfile.write(tmp_path / "noise.wav", noise, 16_000)
    text = speechssl("transcribe", tmp_path / "model", tmp_path / "noise.wav").stdout
    assert set("etaoin") & set(text)
    facts = speechssl("info", tmp_path / "model").stdout
    assert "HubertForCTC" in facts
    assert f"{len(VOCABULARY)}: <blank> |" in facts

    result = speechssl("export", tmp_path / "model", tmp_path / "out", "--to", "hf")
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["HubertForCTC"]


@pytest.mark.parametrize("architecture", ["Wav2Vec2ForCTC", "HubertForCTC"])
def test_transcribes_files_as_transformers_does(speechssl, tmp_path, architecture):
    """A folder as transformers writes it: import, then transcribe, beside greedy decoding."""
    model = build(architecture, "pre")
    source = save(model, tmp_path / "hf")
    assert speechssl("import", source, tmp_path / "model").exit_code == 0
    files = []
    for number, seconds in enumerate([0.9, 0.6, 1.2]):
        noise = 0.2 * np.random.default_rng(number).standard_normal(round(16_000 * seconds))
        files.append(tmp_path / f"{number}.wav")
        soundfile.write(files[-1], noise, 16_000)
    exact = ("--precision", "fp32")
    lines = speechssl("transcribe", tmp_path / "model", *files, *exact).stdout.splitlines()
    processor = transformers.Wav2Vec2Processor.from_pretrained(source)
    for file, line in zip(files, lines, strict=True):
        samples, _ = soundfile.read(file, dtype="float32")
        inputs = processor(samples, sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            [theirs] = processor.batch_decode(model(**inputs).logits.argmax(-1))
        assert line.split("\t")[-1] == " ".join(theirs.split()).lower()  # theirs is all capitals
        assert len(line) > 10


def test_torchaudio_in_and_out(speechssl, fails, tmp_path):
    network, description = torchaudio_model("wav2vec2_model")
    source = save_for_torchaudio(network, tmp_path / "ta", description)
    result = speechssl("import", source, tmp_path / "model")
    assert result.exit_code == 0, result.output
    assert "proven: 3 outputs equal those of torchaudio" in result.stderr
    assert "note: the checkpoint has no mask embedding" in result.stderr
    assert "wav2vec2_model" in speechssl("info", tmp_path / "model").stdout
    result = speechssl("export", tmp_path / "model", tmp_path / "out", "--to", "torchaudio")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "model.pt").is_file()
    (source / "torchaudio.json").unlink()
    message = fails("import", source, tmp_path / "again", "--from", "torchaudio")
    assert "torchaudio.json: is missing" in message


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
    nothing = tmp_path / "nothing"
    assert "no such file or folder" in fails("import", nothing, tmp_path / "model")
    assert "no such folder" in fails("import", nothing, tmp_path / "model", "--from", "hf")
    assert "is no project" in fails("import", source, tmp_path / "model", "--from", "kaldi")
    edit(source / "config.json", hidden_size=32)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("...")
    assert "is not a model folder" in fails("import", source, tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["thesis.txt"]


def test_nothing_is_overwritten_unless_asked(speechssl, fails, tmp_path):
    source = save(build("Wav2Vec2Model"), tmp_path / "hf")
    model, out = tmp_path / "model", tmp_path / "out"
    model.mkdir()  # an empty folder is no loss
    assert speechssl("import", source, model).exit_code == 0
    (model / "notes.txt").write_text("mine")
    assert fails("import", source, model) == (
        f"error: {model}: exists; give --overwrite to replace it.\n"
    )
    missing = fails("import", tmp_path / "missing", model)  # said before anything is read
    assert "give --overwrite" in missing
    assert (model / "notes.txt").is_file()
    assert speechssl("import", source, model, "--overwrite").exit_code == 0
    assert not (model / "notes.txt").exists()

    export = ("export", model, out, "--to", "hf")
    assert speechssl(*export).exit_code == 0
    (out / "notes.txt").write_text("mine")
    assert f"error: {out}: exists; give --overwrite" in fails(*export)
    assert (out / "notes.txt").is_file()
    assert speechssl(*export, "--overwrite").exit_code == 0
    assert {"config.json", "model.safetensors"} <= {file.name for file in out.iterdir()}
    assert not (out / "notes.txt").exists()
    assert f"# {out.name}" in (out / "README.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "model", "out"]


def test_only_what_it_wrote_is_overwritten(speechssl, fails, tmp_path):
    source = save(build("Wav2Vec2Model"), tmp_path / "hf")
    assert speechssl("import", source, tmp_path / "model").exit_code == 0
    for command in (
        ("import", source, source),
        ("export", tmp_path / "model", tmp_path / "model", "--to", "hf"),
        ("export", tmp_path / "model", source, "--to", "hf"),
        ("export", tmp_path / "model", tmp_path / "hf" / "config.json", "--to", "hf"),
    ):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert "exists and is not" in fails(*command, "--overwrite")
        assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_failed_export_leaves_the_old_one(speechssl, fails, tmp_path):
    source = save(build("Wav2Vec2Model"), tmp_path / "hf")
    model, out = tmp_path / "model", tmp_path / "out"
    assert speechssl("import", source, model).exit_code == 0
    assert speechssl("export", model, out, "--to", "hf").exit_code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (model / "model.safetensors").write_bytes(b"damaged")
    assert "model.safetensors" in fails("export", model, out, "--to", "hf", "--overwrite")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
