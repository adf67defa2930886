"""Checkpoints of transformers come in, compute the same, and go out as they came."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from speechssl.config import build as build_config
from speechssl.data.batch import collate
from speechssl.data.text import Tokens
from speechssl.decoding.transcriber import Transcriber
from speechssl.errors import CheckpointError, ModelFolderError
from speechssl.files import sha256
from speechssl.frames import num_frames
from speechssl.interop.transformers.layout import ARCHITECTURES
from speechssl.interop.transformers.parity import flat_distractors
from speechssl.interop.transformers.reading import check_download, import_transformers
from speechssl.interop.transformers.writing import export_transformers
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder
from speechssl.models.folder import (
    load_ctc,
    load_encoder,
    load_model_folder,
    load_objective_weights,
    save_model_folder,
)
from speechssl.models.frontend import normalize_waveforms
from speechssl.models.presets import encoder_config
from speechssl.objectives.contrastive import Contrastive, ContrastiveConfig
from tests.interop.models import PLAIN, VOCABULARY, build, edit, filled, layouts, save
from tests.interop.padding import (
    assert_real_frames_agree,
    padded_batch,
    states_in_sight_of_padding,
)

LENGTHS = [9000, 5300]
both_layouts = pytest.mark.parametrize("layout", ["post", "pre"])
every_class = pytest.mark.parametrize(
    ("architecture", "layout"),
    [(name, layout) for name in sorted(ARCHITECTURES) for layout in layouts(name)],
)
every_recogniser = pytest.mark.parametrize(
    ("architecture", "layout"),
    [(n, layout) for n in sorted(ARCHITECTURES) if n.endswith("CTC") for layout in layouts(n)],
)


def waveforms_of(*lengths: int) -> list[Tensor]:
    torch.manual_seed(1)
    return [0.3 * torch.randn(length) + 0.05 for length in lengths]


def their_batches(layout: str, waveforms: list[Tensor]) -> list[dict[str, Tensor]]:
    """Padded and with an attention mask; one by one where padding counts, with group norm or a
    stack of position convolutions."""
    groups = [waveforms] if layout == "pre" else [[waveform] for waveform in waveforms]
    batches = []
    for group in groups:
        batch = collate(group)
        mask = torch.arange(batch.waveforms.shape[1]) < batch.lengths[:, None]
        normalized = normalize_waveforms(batch.waveforms, batch.lengths)
        batches.append({"input_values": normalized, "attention_mask": mask.long()})
    return batches


def real(values: Tensor, lengths: list[int]) -> list[Tensor]:
    return [row[: num_frames(length)] for row, length in zip(values, lengths)]


@every_class
@torch.no_grad()
def test_hidden_states_at_every_layer(architecture: str, layout: str, tmp_path: Path) -> None:
    model = build(architecture, layout)
    import_transformers(str(save(model, tmp_path / "hf")), tmp_path / "model")
    encoder = load_encoder(tmp_path / "model")
    batch = collate(waveforms_of(*LENGTHS))
    inputs = encoder.project(encoder.normalize(encoder.extract(batch.waveforms, batch.lengths)))
    _, states = encoder.contextualize(inputs, num_frames(batch.lengths), layers=True)
    found = []
    for theirs in their_batches(layout, waveforms_of(*LENGTHS)):
        found.append(model(**theirs, output_hidden_states=True).hidden_states)
    lengths = [LENGTHS] if layout == "pre" else [[length] for length in LENGTHS]
    for number, state in enumerate(states):
        expected = [row for group, own in zip(found, lengths) for row in real(group[number], own)]
        for ours, theirs in zip(real(state, LENGTHS), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert len(states) == len(found[0])


@every_class
@torch.no_grad()
def test_padded_batch_with_attention_mask(architecture: str, layout: str, tmp_path: Path) -> None:
    """Whatever the layout: where both sides hear the same of the padding, all layers agree."""
    model = build(architecture, layout)
    import_transformers(str(save(model, tmp_path / "hf", normalize=False)), tmp_path / "model")
    batch = padded_batch()
    mask = torch.arange(batch.waveforms.shape[1]) < batch.lengths[:, None]
    theirs = model(batch.waveforms, attention_mask=mask.long(), output_hidden_states=True)
    ours = states_in_sight_of_padding(load_encoder(tmp_path / "model"), batch)
    assert_real_frames_agree(ours, theirs.hidden_states, batch)


@pytest.mark.parametrize("architecture", ["Wav2Vec2Model", "HubertModel", "WavLMModel"])
@torch.no_grad()
def test_padded_batch_as_transformers_wants_it_with_group_norm(
    architecture: str, tmp_path: Path
) -> None:
    """Its documentation asks for zeros and no attention mask: the padding is part of the recording,
    in ours if the lengths say so."""
    model = build(architecture, "post")
    folder = save(model, tmp_path / "hf")
    import_transformers(str(folder), tmp_path / "model")
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
    batch = padded_batch()
    waveforms = [row[:length].numpy() for row, length in zip(batch.waveforms, batch.lengths)]
    inputs = extractor(waveforms, sampling_rate=16_000, padding=True, return_tensors="pt")
    assert list(inputs) == ["input_values"]
    theirs = model(**inputs, output_hidden_states=True).hidden_states
    encoder = load_encoder(tmp_path / "model")
    assert encoder.config.frontend.normalize_waveform
    ours = states_in_sight_of_padding(encoder, batch, masked=False)
    for state, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(state, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_where_the_padding_shows_in_data2vec(tmp_path: Path) -> None:
    """A convolution gives something behind a recording's end, and the next one sees it: of the
    transformer's input, the last frames of the shorter recording are others than without padding.
    From there attention carries it everywhere."""
    model = build("Data2VecAudioModel")
    import_transformers(str(save(model, tmp_path / "hf")), tmp_path / "model")
    batch = collate(waveforms_of(*LENGTHS))
    frames = num_frames(batch.lengths)
    encoder = load_encoder(tmp_path / "model")
    inputs = encoder.project(encoder.normalize(encoder.extract(batch.waveforms, batch.lengths)))
    _, ours = encoder.contextualize(inputs, frames, layers=True)
    [inputs] = their_batches("pre", waveforms_of(*LENGTHS))
    theirs = model(**inputs, output_hidden_states=True).hidden_states
    seen = (encoder.config.position_layers - 1) * (encoder.config.position_kernel // 2)
    end = int(frames[1])
    for state, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(state[0], expected[0], rtol=1e-5, atol=1e-5)
    differences = (ours[0] - theirs[0])[1].abs().amax(-1)
    assert differences[: end - seen].max() < 1e-5
    assert differences[end - seen : end].min() > 1e-4
    assert (ours[1] - theirs[1])[1, :end].abs().amax(-1).min() > 1e-4


@both_layouts
@torch.no_grad()
def test_pretraining_loss_of_the_same_mask_and_distractors(layout: str, tmp_path: Path) -> None:
    model = build("Wav2Vec2ForPreTraining", layout)
    import_transformers(str(save(model, tmp_path / "hf")), tmp_path / "model")
    loaded = load_model_folder(tmp_path / "model")
    settings = dict(loaded.info["recipe"]["objective"])
    assert settings.pop("kind") == "contrastive"
    config = build_config(ContrastiveConfig, settings, "objective")
    objective = Contrastive(config, loaded.model.config).eval()
    objective.load_state_dict(load_objective_weights(tmp_path / "model"))

    lengths = LENGTHS if layout == "pre" else [9000, 9000]
    batch = collate(waveforms_of(*lengths))
    draws = objective.draw(batch)
    total, count = objective.loss(loaded.model, batch, **draws).metrics["loss_contrastive"]
    [inputs] = their_batches("pre", waveforms_of(*lengths))
    theirs = model(
        **inputs,
        mask_time_indices=draws["mask"],
        sampled_negative_indices=flat_distractors(**draws),
    )
    assert count > 20
    torch.testing.assert_close(total, theirs.contrastive_loss, rtol=1e-5, atol=1e-4)


@every_recogniser
@torch.no_grad()
def test_ctc_log_probabilities(architecture: str, layout: str, tmp_path: Path) -> None:
    model = build(architecture, layout)
    import_transformers(str(save(model, tmp_path / "hf")), tmp_path / "model")
    ours, tokens = load_ctc(tmp_path / "model")
    small = [symbol.lower() for symbol in VOCABULARY]
    places = [small.index(symbol) for symbol in ["<pad>", *tokens.symbols[1:]]]
    for waveform in waveforms_of(*LENGTHS):
        [inputs] = their_batches("post", [waveform])
        expected = model(**inputs).logits.log_softmax(-1)[..., places]
        log_probs, _ = ours(waveform[None], torch.tensor([len(waveform)]))
        torch.testing.assert_close(log_probs, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("symbols", "tokenizer"),
    [
        (None, {}),
        ([*"abcdefgh '"[:8], "_", "[UNK]", "'", "[PAD]"],
         {"pad_token": "[PAD]", "unk_token": "[UNK]", "word_delimiter_token": "_"}),
        (None, {"do_lower_case": True}),
    ],
    ids=["facebook", "fine-tuned", "lower-case"],
)  # fmt: skip
@every_recogniser
def test_transcribes_as_transformers_does(
    architecture: str,
    layout: str,
    symbols: list[str] | None,
    tokenizer: dict[str, object],
    tmp_path: Path,
) -> None:
    model = build(architecture, layout)
    folder = save(model, tmp_path / "hf", symbols=symbols, **tokenizer)
    import_transformers(str(folder), tmp_path / "model")
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "a.wav", 0.2 * rng.standard_normal(16_000), 16_000, subtype="FLOAT")
    ours = Transcriber(tmp_path / "model").transcribe_file(tmp_path / "a.wav")

    processor = transformers.Wav2Vec2Processor.from_pretrained(folder)
    samples, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    inputs = processor(samples, sampling_rate=rate, return_tensors="pt")
    with torch.no_grad():
        ids = model(**inputs).logits.argmax(-1)
    [theirs] = processor.batch_decode(ids)
    assert len(theirs) > 10
    expected = " ".join(theirs.split())  # ours never has two spaces in a row
    assert ours == (expected if symbols else expected.lower())  # its own are capitals


@every_class
def test_comes_out_bit_for_bit(architecture: str, layout: str, tmp_path: Path) -> None:
    source = save(build(architecture, layout), tmp_path / "hf", do_lower_case=True)
    import_transformers(str(source), tmp_path / "model")
    certificate, notes = export_transformers(tmp_path / "model", tmp_path / "out")
    assert (certificate.status, notes) == ("proven", [])
    before, after = (
        load_file(source / "model.safetensors"),
        load_file(tmp_path / "out" / "model.safetensors"),
    )
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    for file in source.glob("*.json"):
        ours, theirs = (json.loads((f / file.name).read_text()) for f in (tmp_path / "out", source))
        for values in (ours, theirs):
            values.pop("dtype", None), values.pop("torch_dtype", None)
        assert ours == theirs, file.name


@pytest.mark.parametrize(
    ("architecture", "outputs", "changes"),
    [
        ("Wav2Vec2ForPreTraining", 14, {}),
        ("HubertModel", 13, {}),
        ("WavLMModel", 13, {"relative_buckets": 320}),
        ("Data2VecAudioModel", 13, {"position_layers": 5, "position_kernel": 19}),
    ],
)
def test_base_size(
    architecture: str, outputs: int, changes: dict[str, int], tmp_path: Path
) -> None:
    kind = getattr(transformers, architecture)
    with torch.device("meta"):
        model = kind(kind.config_class())
    source = save(filled(model), tmp_path / "hf")
    del model
    certificate, _ = import_transformers(str(source), tmp_path / "model")
    assert certificate.status == "proven"
    assert len(certificate.differences) == outputs
    frontend = {"normalize_waveform": True, "norm": "layer" if "Data" in architecture else "group"}
    assert load_encoder(tmp_path / "model").config == dataclasses.replace(
        encoder_config("base", {"frontend": frontend}),
        activation_dropout=0.1,
        input_dropout=0.0,
        layer_drop=0.1,
        frontend_gradient=1.0,
        **changes,
    )
    export_transformers(tmp_path / "model", tmp_path / "out")
    before, after = (load_file(tmp_path / f / "model.safetensors") for f in ("hf", "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    shutil.rmtree(tmp_path)  # 1.1 GB


def test_files_can_be_read_by_others(tmp_path: Path) -> None:
    import_transformers(str(save(build("HubertModel"), tmp_path / "hf")), tmp_path / "model")
    export_transformers(tmp_path / "model", tmp_path / "out")
    (tmp_path / "plain").touch()
    expected = (tmp_path / "plain").stat().st_mode
    for folder in ("model", "out"):
        files = [path for path in (tmp_path / folder).rglob("*") if path.is_file()]
        assert len(files) >= 5
        assert {path.stat().st_mode for path in files} == {expected}


@pytest.mark.parametrize("names", ["old", "new"])
def test_pickled_weights_with_either_name_of_weight_norm(names: str, tmp_path: Path) -> None:
    source = save(build("HubertModel"), tmp_path / "hf", safe=False)
    assert not (source / "model.safetensors").exists()
    file = source / "pytorch_model.bin"
    weights = torch.load(file, weights_only=True)
    if names == "old":
        stem = "encoder.pos_conv_embed.conv"
        for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
            weights[f"{stem}.{old}"] = weights.pop(f"{stem}.parametrizations.weight.{new}")
        torch.save(weights, file)
    certificate, _ = import_transformers(str(source), tmp_path / "model")
    assert certificate.status == "proven"
    stored = json.loads((tmp_path / "model" / "certificate.json").read_text())
    assert stored["status"] == "proven"
    assert set(stored["differences"]) == {"layer 0", "layer 1", "layer 2"}


def test_weights_in_several_files(tmp_path: Path) -> None:
    source = save(build("Wav2Vec2Model"), tmp_path / "hf")
    build("Wav2Vec2Model").save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    import_transformers(str(source), tmp_path / "one")
    import_transformers(str(tmp_path / "shards"), tmp_path / "many")
    one, many = (load_file(tmp_path / n / "model.safetensors") for n in ("one", "many"))
    assert all(torch.equal(one[name], many[name]) for name in one)
    for place in ("../x.safetensors", "/x.safetensors", ["x"], "a\0b", ""):
        edit(tmp_path / "shards" / "model.safetensors.index.json", weight_map={"a": place})
        with pytest.raises(CheckpointError, match="does not name files of its folder"):
            import_transformers(str(tmp_path / "shards"), tmp_path / "many")


def test_without_mask_embedding_one_is_drawn(tmp_path: Path) -> None:
    source = save(build("Wav2Vec2ForCTC", mask_time_prob=0.0), tmp_path / "hf")
    _, notes = import_transformers(str(source), tmp_path / "model")
    assert any("no mask embedding" in note for note in notes)
    export_transformers(tmp_path / "model", tmp_path / "out")
    assert not [n for n in load_file(tmp_path / "out" / "model.safetensors") if "masked" in n]


@both_layouts
def test_without_preprocessor_the_norm_decides(layout: str, tmp_path: Path) -> None:
    source = save(build("Wav2Vec2Model", layout), tmp_path / "hf")
    (source / "preprocessor_config.json").unlink()
    _, [note] = import_transformers(str(source), tmp_path / "model")
    assert "no preprocessor_config.json" in note
    config = load_encoder(tmp_path / "model").config
    assert config.frontend.normalize_waveform == (layout == "pre")


def test_says_unproven_without_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(build("Wav2Vec2Model"), tmp_path / "hf")
    monkeypatch.setitem(sys.modules, "transformers", None)
    certificate, _ = import_transformers(str(source), tmp_path / "model")
    assert certificate.status == "unproven"
    assert "transformers is not installed" in certificate.summary()
    assert load_model_folder(tmp_path / "model").info["imported"]["parity"] == "unproven"


# What was trained here goes out


def own_model(tmp_path: Path, kind: str, **changes: object) -> Path:
    settings = {**PLAIN, "dim": 32, "layers": 1, "heads": 2, "ffn_dim": 48, "position_kernel": 8}
    frontend = {"kind": "waveform", "channels": 16}
    torch.manual_seed(0)
    config = encoder_config("tiny", {**settings, "frontend": frontend, **changes})
    encoder = Encoder(config)
    path = tmp_path / "own"
    if kind == "ctc":
        tokens = Tokens.from_texts(["да нет"])
        model = CTCModel(encoder, len(tokens))
        torch.nn.init.normal_(model.head.weight)
        save_model_folder(path, model, tokens=tokens, info={"updates": 7})
        return path
    heads = None
    if kind == "contrastive":
        objective = Contrastive(ContrastiveConfig(entries=5, codeword_size=8), config)
        heads = objective.state_dict()
        settings = {"kind": kind, "entries": 5, "codeword_size": 8}
    else:
        heads = {"cluster_embeddings": torch.ones(3, 4)}
        settings = {"kind": kind}
    save_model_folder(path, encoder, objective=heads, info={"recipe": {"objective": settings}})
    return path


def test_own_recogniser_becomes_a_pipeline(tmp_path: Path) -> None:
    path = own_model(tmp_path, "ctc")
    certificate, _ = export_transformers(path, tmp_path / "out")
    assert certificate.status == "proven"
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "out")
    model = transformers.AutoModelForCTC.from_pretrained(tmp_path / "out")
    [waveform] = waveforms_of(9000)
    inputs = processor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        [theirs] = processor.batch_decode(model(**inputs).logits.argmax(-1))
    ours = Transcriber(path).transcribe_waveform(waveform)
    assert set("данет") & set(ours)
    assert ours == " ".join(theirs.split())
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: automatic-speech-recognition" in card
    assert "proven" in card


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [("contrastive", "Wav2Vec2ForPreTraining"), ("clusters", "Wav2Vec2Model")],
)
def test_own_pretrained_model_goes_out(kind: str, architecture: str, tmp_path: Path) -> None:
    path = own_model(tmp_path, kind)
    certificate, notes = export_transformers(path, tmp_path / "out")
    assert ("loss" in certificate.differences) == (kind == "contrastive")
    assert any("'clusters'" in note for note in notes) == (kind == "clusters")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == [architecture]
    assert (
        type(transformers.AutoModel.from_pretrained(tmp_path / "out")).__name__ == "Wav2Vec2Model"
    )
    import_transformers(str(tmp_path / "out"), tmp_path / "back")
    before, after = (load_file(p / "model.safetensors") for p in (path, tmp_path / "back"))
    assert all(torch.equal(before[name], after[name]) for name in after)


@pytest.mark.parametrize(
    ("changes", "architecture"),
    [
        ({"relative_buckets": 24, "relative_distance": 30}, "WavLMModel"),
        ({"position_layers": 2, "norm": "post"}, "Data2VecAudioModel"),
    ],
)
def test_own_model_becomes_the_class_that_has_its_parts(
    changes: dict[str, object], architecture: str, tmp_path: Path
) -> None:
    frontend = {"kind": "waveform", "channels": 16, "norm": "layer"}
    path = own_model(tmp_path, "contrastive", frontend=frontend, **changes)
    certificate, [note] = export_transformers(path, tmp_path / "out")
    assert certificate.status == "proven"
    assert "has no class for pretraining" in note
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == [architecture]


def test_a_network_that_transformers_lacks_stays_here(tmp_path: Path) -> None:
    path = own_model(tmp_path, "clusters", frontend={"kind": "fbank"})
    with pytest.raises(CheckpointError, match=r"frontend.kind is 'fbank'.*only 'waveform'"):
        export_transformers(path, tmp_path / "out")
    path = own_model(tmp_path, "clusters")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("...")
    with pytest.raises(CheckpointError, match="exists already"):
        export_transformers(path, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "own"]


# What cannot come in


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build("Wav2Vec2ForCTC"), tmp_path_factory.mktemp("good") / "hf")


@pytest.fixture
def source(good: Path, tmp_path: Path) -> Path:
    return shutil.copytree(good, tmp_path / "hf")


def refused(source: Path) -> str:
    """The message for a source that must be refused, after which nothing is there."""
    with pytest.raises((CheckpointError, ModelFolderError)) as caught:
        import_transformers(str(source), source.parent / "model")
    assert sorted(p.name for p in source.parent.iterdir() if p != source) == []
    message = str(caught.value)
    assert "\n" not in message
    assert str(source) in message
    return message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["SEWModel"]}, "architectures is SEWModel; supported are Wav2Vec2"),
        ({"architectures": None}, "architectures is missing"),
        ({"model_type": "hubert"}, "model_type is 'hubert'; Wav2Vec2ForCTC needs 'wav2vec2'"),
        ({"conv_kernel": [10, 3, 3, 3, 3, 3, 2]}, r"conv_kernel is \[10, 3, 3, 3, 3, 3, 2\]"),
        ({"conv_dim": [16] * 6 + [32]}, r"have widths \[16, 16, 16, 16, 16, 16, 32\]"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; only 'gelu' has a counterpart"),
        ({"add_adapter": True}, "add_adapter is True"),
        ({"adapter_attn_dim": 16}, "adapter_attn_dim is 16"),
        ({"feat_proj_layer_norm": False}, "feat_proj_layer_norm is False"),
        ({"hidden_dropout": 1.5}, "dropout must be at least 0 and below 1, but is 1.5"),
        ({"num_attention_heads": 3}, r"heads must be a divisor of dim \(32\), but is 3"),
        ({"hidden_size": 64}, "has shape .* but the settings of config.json ask for"),
        ({"vocab_size": 99}, "has no symbol for 87 of the head's 99 outputs"),
    ],
)
def test_settings_without_counterpart(
    source: Path, changes: dict[str, object], message: str
) -> None:
    edit(source / "config.json", **changes)
    assert re.search(message, refused(source))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("preprocessor_config.json", {"sampling_rate": 8000}, "sampling_rate is 8000"),
        (
            "preprocessor_config.json",
            {"feature_extractor_type": "SeamlessM4TFeatureExtractor"},
            "feature_extractor_type is 'Seamless",
        ),
        (
            "tokenizer_config.json",
            {"tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer"},
            "tokenizer_class is 'Wav2Vec2Phoneme",
        ),
        ("tokenizer_config.json", {"pad_token": "[PAD]"}, "has no '[PAD]', which stands for the"),
        ("vocab.json", {"eng": {"a": 1}}, "the id of 'eng' must be a number"),
        ("vocab.json", {"T": 5}, "have the same id 5"),
        ("vocab.json", {"T": None, "sch": 6}, "a symbol must be one character, is 'sch'"),
    ],
)
def test_text_and_audio_settings_without_counterpart(
    source: Path, file: str, changes: dict[str, object], message: str
) -> None:
    edit(source / file, **changes)
    assert message in refused(source)


def test_missing_and_malformed_files(source: Path, tmp_path: Path) -> None:
    (source / "vocab.json").unlink()
    assert "vocab.json: is missing" in refused(source)
    (source / "config.json").write_text("{")
    assert "config.json: is not valid JSON" in refused(source)
    (source / "config.json").write_text("[]")
    assert "config.json: must hold a JSON object" in refused(source)
    (source / "config.json").unlink()
    assert "config.json: is missing" in refused(source)
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        import_transformers(str(source / "model.safetensors"), tmp_path / "model")
    with pytest.raises(CheckpointError, match="no such folder"):
        import_transformers(str(tmp_path / "no" / "where"), tmp_path / "model")


def test_missing_foreign_and_ill_typed_tensors(source: Path) -> None:
    file = source / "model.safetensors"
    weights = load_file(file)
    norm = "wav2vec2.encoder.layers.1.layer_norm.bias"
    save_file({n: w for n, w in weights.items() if n != norm}, file)
    assert f"tensor '{norm}' is missing" in refused(source)
    save_file({**weights, "wav2vec2.adapter.proj.weight": torch.ones(2)}, file)
    assert "tensor 'wav2vec2.adapter.proj.weight' has no counterpart" in refused(source)
    save_file({**weights, norm: torch.ones(32, dtype=torch.int8)}, file)
    assert "is of type torch.int8" in refused(source)
    file.unlink()
    assert "has neither model.safetensors nor pytorch_model.bin" in refused(source)


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_code_is_not_run(source: Path, legacy: bool) -> None:
    weights: dict[str, object] = dict(load_file(source / "model.safetensors"))
    (source / "model.safetensors").unlink()
    weights["lm_head.bias"] = _Bomb(source / "exploded")
    torch.save(weights, source / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    assert "holds pickled code beside tensors, which was not run" in refused(source)
    assert not (source / "exploded").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("kept", [0, 0.6])
def test_truncated_weights(source: Path, name: str, kept: float) -> None:
    file = source / name
    if name == "pytorch_model.bin":
        torch.save(load_file(source / "model.safetensors"), file)
        (source / "model.safetensors").unlink()
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    assert f"{name}: is not a complete" in refused(source)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(source: Path, value: float) -> None:
    weights = load_file(source / "model.safetensors")
    weights["lm_head.bias"][3] = value
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    assert "'lm_head.bias' holds NaN or infinite numbers" in refused(source)


def test_a_failed_import_leaves_the_old_model(source: Path, tmp_path: Path) -> None:
    import_transformers(str(source), tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    edit(source / "config.json", add_adapter=True)
    with pytest.raises(CheckpointError):
        import_transformers(str(source), tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


def test_a_single_convolution_of_data2vec_has_no_counterpart(tmp_path: Path) -> None:
    source = save(build("Data2VecAudioModel", num_conv_pos_embeddings=1), tmp_path / "hf")
    assert "num_conv_pos_embeddings is 1; a position embedding" in refused(source)


def test_downloads_are_compared_with_the_hubs_hash(tmp_path: Path) -> None:
    """The hub's cache: files named by their SHA-256, and links to them."""
    weights = tmp_path / "weights"
    weights.write_bytes(b"as published")
    stored = tmp_path / "blobs" / sha256(weights)
    stored.parent.mkdir()
    weights.rename(stored)
    link = tmp_path / "snapshots" / "model.safetensors"
    link.parent.mkdir()
    link.symlink_to(stored)
    check_download(link)
    stored.write_bytes(b"as published, nearly")
    with pytest.raises(CheckpointError, match="is not what the Hugging Face hub published"):
        check_download(link)


def test_hub_name_while_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CheckpointError, match="cannot be fetched from the Hugging Face hub"):
        import_transformers("nobody/nothing", tmp_path / "model")
    assert not (tmp_path / "model").exists()
