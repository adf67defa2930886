"""fairseq's checkpoint files come in, compute the same, and go out as they came."""

from __future__ import annotations

import copy
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import soundfile
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.data.batch import collate
from speechssl.data.text import Tokens
from speechssl.decoding.transcriber import Transcriber
from speechssl.errors import CheckpointError, ConfigError
from speechssl.frames import num_frames
from speechssl.interop.fairseq import export_model, import_model, recognises
from speechssl.interop.fairseq.layout import parse_convolutions
from speechssl.interop.transformers.parity import flat_distractors
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.models.folder import (
    load_ctc,
    load_encoder,
    load_model_folder,
    load_objective_weights,
    save_model_folder,
)
from speechssl.models.frontend import FrontendConfig, normalize_waveforms
from speechssl.objectives import build_objective
from speechssl.objectives.base import Objective
from tests.interop import fairseq_files
from tests.interop.fairseq_files import (
    SYMBOLS,
    Choice,
    Dictionary,
    checkpoint_of,
    namespace,
    omega,
    save,
)
from tests.interop.models import build, filled
from tests.interop.padding import (
    assert_real_frames_agree,
    padded_batch,
    states_in_sight_of_padding,
)

LENGTHS = [9000, 5300]
CLUSTERS = 9
CLASSES = {
    "wav2vec2": "Wav2Vec2ForPreTraining",
    "hubert": "HubertModel",
    "wav2vec_ctc": "Wav2Vec2ForCTC",
    "hubert_ctc": "HubertForCTC",
}
both_layouts = pytest.mark.parametrize("layout", ["post", "pre"])
every_model = pytest.mark.parametrize("name", CLASSES)


def heads_of(name: str, model: nn.Module) -> dict[str, Tensor]:
    """HuBERT's heads, which transformers has no class for."""
    torch.manual_seed(3)
    classes = torch.randn(CLUSTERS, 12)
    if name == "hubert_ctc":
        return {"w2v_encoder.w2v_model.label_embs_concat": classes}
    if name != "hubert":
        return {}
    return {
        "final_proj.weight": torch.randn(12, model.config.hidden_size),
        "final_proj.bias": torch.randn(12),
        "label_embs_concat": classes,
    }


def make(
    name: str, folder: Path, layout: str = "post", *, normalize: bool = True
) -> tuple[nn.Module, Path]:
    """A transformers model and the same model in a file of fairseq."""
    model = build(CLASSES[name], layout, vocab_size=len(SYMBOLS))
    folder.mkdir(exist_ok=True)
    checkpoint = checkpoint_of(model, heads_of(name, model), normalize=normalize)
    return model, save(checkpoint, folder / "checkpoint_best.pt")


def waveforms_of(*lengths: int) -> list[Tensor]:
    torch.manual_seed(1)
    return [0.3 * torch.randn(length) + 0.05 for length in lengths]


def their_batches(layout: str, waveforms: list[Tensor]) -> list[dict[str, Tensor]]:
    """Padded and with an attention mask; one by one with group norm, where padding counts."""
    batches = []
    for group in [waveforms] if layout == "pre" else [[waveform] for waveform in waveforms]:
        batch = collate(group)
        mask = torch.arange(batch.waveforms.shape[1]) < batch.lengths[:, None]
        normalized = normalize_waveforms(batch.waveforms, batch.lengths)
        batches.append({"input_values": normalized, "attention_mask": mask.long()})
    return batches


def objective_of(path: Path) -> Objective:
    loaded = load_model_folder(path)
    weights = load_objective_weights(path)
    settings = loaded.info["recipe"]["objective"]
    clusters = len(weights.get("cluster_embeddings", [])) or None
    objective = build_objective(settings, loaded.model.config, clusters).eval()
    objective.load_state_dict(weights)
    return objective


@every_model
@both_layouts
@torch.no_grad()
def test_hidden_states_at_every_layer(name: str, layout: str, tmp_path: Path) -> None:
    model, file = make(name, tmp_path, layout)
    certificate, notes = import_model(str(file), tmp_path / "model")
    assert (certificate.status, notes) == ("proven", [])
    assert ("heads of pretraining" in certificate.note) == (not name.endswith("ctc"))
    encoder, batch = load_encoder(tmp_path / "model"), collate(waveforms_of(*LENGTHS))
    inputs = encoder.project(encoder.normalize(encoder.extract(batch.waveforms, batch.lengths)))
    _, states = encoder.contextualize(inputs, num_frames(batch.lengths), layers=True)
    theirs: list[list[Tensor]] = [[] for _ in states]
    for inputs_of in their_batches(layout, waveforms_of(*LENGTHS)):
        found = model(**inputs_of, output_hidden_states=True).hidden_states
        for rows, state in zip(theirs, found, strict=True):
            rows += list(state)
    for state, rows in zip(states, theirs):
        for ours, expected, length in zip(state, rows, LENGTHS, strict=True):
            frames = num_frames(length)
            torch.testing.assert_close(ours[:frames], expected[:frames], rtol=1e-5, atol=1e-5)


@every_model
@both_layouts
@torch.no_grad()
def test_padded_batch(name: str, layout: str, tmp_path: Path) -> None:
    """Whatever the layout: where both sides hear the same of the padding, all layers agree."""
    model, file = make(name, tmp_path, layout, normalize=False)
    import_model(str(file), tmp_path / "model")
    batch = padded_batch()
    mask = torch.arange(batch.waveforms.shape[1]) < batch.lengths[:, None]
    theirs = model(batch.waveforms, attention_mask=mask.long(), output_hidden_states=True)
    ours = states_in_sight_of_padding(load_encoder(tmp_path / "model"), batch)
    assert_real_frames_agree(ours, theirs.hidden_states, batch)


@both_layouts
@torch.no_grad()
def test_wav2vec_loss_of_the_same_mask_and_distractors(layout: str, tmp_path: Path) -> None:
    model, file = make("wav2vec2", tmp_path, layout)
    import_model(str(file), tmp_path / "model")
    objective, encoder = objective_of(tmp_path / "model"), load_encoder(tmp_path / "model")
    batch = collate(waveforms_of(9000, 9000))
    draws = objective.draw(batch)
    total, count = objective.loss(encoder, batch, **draws).metrics["loss_contrastive"]
    [inputs] = their_batches("pre", waveforms_of(9000, 9000))
    theirs = model(
        **inputs,
        mask_time_indices=draws["mask"],
        sampled_negative_indices=flat_distractors(**draws),
    )
    assert count > 20
    torch.testing.assert_close(total, theirs.contrastive_loss, rtol=1e-5, atol=1e-4)


@both_layouts
@torch.no_grad()
def test_hubert_loss_of_the_same_mask_and_labels(layout: str, tmp_path: Path) -> None:
    model, file = make("hubert", tmp_path, layout)
    import_model(str(file), tmp_path / "model")
    objective, encoder = objective_of(tmp_path / "model"), load_encoder(tmp_path / "model")
    batch = collate(waveforms_of(9000, 9000))
    frames = int(num_frames(9000))
    batch.targets = torch.randint(CLUSTERS, (2, frames))
    draws = objective.draw(batch)
    total, count = objective.loss(encoder, batch, **draws).metrics["loss_masked"]

    [inputs] = their_batches("pre", waveforms_of(9000, 9000))
    model.config.apply_spec_augment = True
    context = model(**inputs, mask_time_indices=draws["mask"]).last_hidden_state[draws["mask"]]
    heads = heads_of("hubert", model)
    projected = F.linear(context, heads["final_proj.weight"], heads["final_proj.bias"])
    labels = heads["label_embs_concat"]
    logits = F.cosine_similarity(projected[:, None], labels[None], dim=-1) / 0.1
    expected = F.cross_entropy(logits, batch.targets[draws["mask"]], reduction="sum")
    assert count > 20
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["wav2vec_ctc", "hubert_ctc"])
@torch.no_grad()
def test_ctc_log_probabilities_and_text(name: str, tmp_path: Path) -> None:
    model, file = make(name, tmp_path, "pre")
    import_model(str(file), tmp_path / "model")
    ours, tokens = load_ctc(tmp_path / "model")
    assert tokens.symbols == ["<blank>", "|", "<pad>", "</s>", "<unk>", *"etaoin'"]
    small = [symbol.lower() for symbol in SYMBOLS]
    places = [small.index(symbol) for symbol in ["<s>", *tokens.symbols[1:]]]
    for waveform in waveforms_of(*LENGTHS):
        [inputs] = their_batches("pre", [waveform])
        logits = model(**inputs).logits
        log_probs, _ = ours(waveform[None], torch.tensor([len(waveform)]))
        expected = logits.log_softmax(-1)[..., places]
        torch.testing.assert_close(log_probs, expected, rtol=1e-5, atol=1e-5)

    noise = 0.2 * np.random.default_rng(0).standard_normal(16_000)
    soundfile.write(tmp_path / "a.wav", noise, 16_000, subtype="FLOAT")
    samples = torch.from_numpy(soundfile.read(tmp_path / "a.wav", dtype="float32")[0])
    [inputs] = their_batches("pre", [samples])
    best = model(**inputs).logits[0].argmax(-1).unique_consecutive()
    written = "".join(small[i] for i in best if i != 0).replace("|", " ")
    text = Transcriber(tmp_path / "model").transcribe_file(tmp_path / "a.wav")
    assert len(text) > 10
    assert text == " ".join(written.split())


@every_model
def test_comes_out_bit_for_bit(name: str, tmp_path: Path) -> None:
    _, file = make(name, tmp_path, "pre")
    import_model(str(file), tmp_path / "model")
    certificate, notes = export_model(tmp_path / "model", tmp_path / "out")
    assert (certificate.status, notes) == ("proven", [])
    before = torch.load(file, weights_only=True)
    after = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)
    assert after["cfg"] == before["cfg"]
    assert before["model"].keys() == after["model"].keys()
    for tensor, value in before["model"].items():
        assert torch.equal(value, after["model"][tensor]), tensor
    import_model(str(tmp_path / "out" / "checkpoint.pt"), tmp_path / "back")
    weights = [(tmp_path / f / "model.safetensors").read_bytes() for f in ("model", "back")]
    assert weights[0] == weights[1]


def test_base_size(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = transformers.Wav2Vec2ForPreTraining(transformers.Wav2Vec2Config())
    file = save(checkpoint_of(filled(model), normalize=False), tmp_path / "checkpoint_best.pt")
    del model
    certificate, _ = import_model(str(file), tmp_path / "model")
    assert certificate.status == "proven"
    assert len(certificate.differences) == 12
    sizes = load_encoder(tmp_path / "model").config
    assert (sizes.dim, sizes.layers, sizes.heads, sizes.ffn_dim) == (768, 12, 12, 3072)
    export_model(tmp_path / "model", tmp_path / "out")
    files = (file, tmp_path / "out" / "checkpoint.pt")
    before, after = (torch.load(f, weights_only=True)["model"] for f in files)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[tensor]) for tensor, value in before.items())
    shutil.rmtree(tmp_path)  # 1.1 GB


@pytest.mark.parametrize("name", ["wav2vec2", "wav2vec_ctc"])
def test_settings_in_every_form_that_fairseq_had(name: str, tmp_path: Path) -> None:
    """A plain dict, omegaconf's objects, and before both an argparse.Namespace in torch's old file
    format; the dictionary beside the file or in it."""
    plain = checkpoint_of(build(CLASSES[name], vocab_size=len(SYMBOLS)))
    inside = {"target_dictionary": Dictionary(SYMBOLS)}
    cfg = plain["cfg"]
    chosen = copy.deepcopy(cfg)
    chosen["model"].get("w2v_args", chosen)["model"]["extractor_mode"] = Choice("default")
    forms: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "plain": (plain, {}),
        "omegaconf": ({**plain, "cfg": omega(chosen), "task_state": inside}, {"dictionary": False}),
        "namespace": (
            {**plain, "cfg": None, "args": namespace(cfg)},
            {"_use_new_zipfile_serialization": False},
        ),
    }
    found = []
    for form, (checkpoint, how) in forms.items():
        folder = tmp_path / form
        folder.mkdir()
        assert recognises(str(save(checkpoint, folder / "c.pt", **how)))
        import_model(str(folder / "c.pt"), folder / "model")
        found.append(load_model_folder(folder / "model"))
    first = found[0]
    for other in found[1:]:
        assert other.tokens == first.tokens
        assert other.info.get("recipe") == first.info.get("recipe")
        before, after = first.model.state_dict(), other.model.state_dict()
        assert all(torch.equal(value, after[tensor]) for tensor, value in before.items())
    configs = {load_encoder(tmp_path / form / "model").config for form in forms}
    [config] = configs
    assert config.frontend_gradient == 0.1
    assert config.layer_drop == (0.05 if name == "wav2vec_ctc" else 0.0)
    assert config.activation_dropout == (0.2 if name == "wav2vec_ctc" else 0.0)


# What was trained here goes out


def small_config(frontend: Literal["waveform", "fbank"]) -> EncoderConfig:
    return EncoderConfig(
        frontend=FrontendConfig(kind=frontend, channels=16),
        dim=32,
        layers=2,
        heads=2,
        ffn_dim=48,
        norm="pre",
        position_kernel=8,
    )


@pytest.mark.parametrize("kind", ["ctc", "ctc in capitals", "contrastive", "clusters", "best_rq"])
def test_own_models_go_out_and_come_back(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = small_config("waveform")
    encoder = Encoder(config)
    if "ctc" in kind:
        tokens = Tokens.from_texts(["да нет"])
        if "capitals" in kind:
            tokens = Tokens([*tokens.symbols[:2], *map(str.upper, tokens.symbols[2:])])
        save_model_folder(tmp_path / "own", CTCModel(encoder, len(tokens)), tokens=tokens)
    else:
        settings = {"kind": kind, **({} if kind == "best_rq" else {"projection_size": 12})}
        objective = build_objective(settings, config, 5 if kind == "clusters" else None)
        info = {"recipe": {"objective": settings}}
        heads = objective.state_dict()
        save_model_folder(tmp_path / "own", encoder, objective=heads, info=info)
    certificate, notes = export_model(tmp_path / "own", tmp_path / "out")
    assert certificate.status == "proven"
    assert any("'best_rq'" in note for note in notes) == (kind == "best_rq")
    import_model(str(tmp_path / "out" / "checkpoint.pt"), tmp_path / "back")
    before, after = (load_model_folder(tmp_path / f) for f in ("own", "back"))
    if "ctc" in kind:
        assert (tmp_path / "out" / "dict.ltr.txt").read_text().startswith("| 1\n")
        waveforms, lengths = torch.randn(1, 9000), torch.tensor([9000])
        ours, theirs = (m.model(waveforms, lengths)[0].exp() for m in (before, after))
        places = [after.tokens.symbols.index(symbol.lower()) for symbol in before.tokens.symbols]
        torch.testing.assert_close(theirs[..., places], ours, rtol=1e-5, atol=1e-6)
        assert len(after.tokens) == len(before.tokens) + 3
        return
    returned = after.model.state_dict()
    assert all(torch.equal(v, returned[name]) for name, v in before.model.state_dict().items())
    heads, again = (load_objective_weights(tmp_path / f) for f in ("own", "back"))
    if kind == "clusters":
        assert any("class k + 4" in note for note in notes)
        heads["cluster_embeddings"] = again["cluster_embeddings"]
        own = load_objective_weights(tmp_path / "own")["cluster_embeddings"]
        assert torch.equal(again["cluster_embeddings"][4:], own)
    if kind != "best_rq":
        assert heads.keys() == again.keys()
        assert all(torch.equal(value, again[name]) for name, value in heads.items())


def test_a_network_that_fairseq_lacks_stays_here(tmp_path: Path) -> None:
    save_model_folder(tmp_path / "own", Encoder(small_config("fbank")))
    with pytest.raises(CheckpointError, match=r"frontend.kind is 'fbank'.*only 'waveform'"):
        export_model(tmp_path / "own", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# What cannot come in


@pytest.mark.parametrize("layers", [0, 1])
def test_without_layers_the_position_embedding_is_compared(layers: int, tmp_path: Path) -> None:
    encoder = Encoder(replace(small_config("waveform"), layers=layers))
    save_model_folder(tmp_path / "model", encoder)
    certificate, _ = export_model(tmp_path / "model", tmp_path / "out")
    assert list(certificate.differences) == [f"layer {layers}"]


def test_fairseq_has_no_projection_between_equal_widths(tmp_path: Path) -> None:
    config = small_config("waveform")
    narrow = replace(config, dim=config.frontend.channels)
    save_model_folder(tmp_path / "model", Encoder(narrow))
    with pytest.raises(CheckpointError, match="model: conv_feature_layers and encoder_embed_dim"):
        export_model(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def refused(file: Path) -> str:
    """The message for a file that must be refused, after which nothing is there."""
    before = sorted(path.name for path in file.parent.iterdir())
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        import_model(str(file), file.parent / "model")
    assert sorted(path.name for path in file.parent.iterdir()) == before
    message = str(caught.value)
    assert "\n" not in message
    assert str(file.parent) in message
    return message


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("model", {"_name": "data2vec_audio"}, "holds model 'data2vec_audio'; supported are wav2"),
        ("model", {"layer_type": "conformer"}, "layer_type is 'conformer'; only 'transformer'"),
        ("model", {"pos_conv_depth": 5}, "pos_conv_depth is 5; only 1"),
        ("model", {"activation_fn": "relu"}, "activation_fn is 'relu'; only 'gelu'"),
        ("model", {"conv_feature_layers": "[(16, 10, 5)] * 7"}, "conv_feature_layers is"),
        ("model", {"conv_feature_layers": "__import__('os').mkdir('x')"}, "conv_feature_layers is"),
        ("model", {"encoder_attention_heads": 3}, r"heads must be a divisor of dim \(32\)"),
        ("model", {"encoder_embed_dim": "wide"}, "encoder_embed_dim: expected a whole number"),
        ("model", {"encoder_embed_dim": 64}, "has shape .* but the settings in it ask for"),
        ("model", {"encoder_layers": 3}, "'encoder.layers.2.* is missing"),
        ("model", {"encoder_layers": 1}, "'encoder.layers.1.* has no counterpart"),
        ("model", {"encoder_embed_dim": 16}, "encoder_embed_dim are both 16; fairseq has no proj"),
        ("model", {"_name": ["wav2vec2"]}, "holds model .*; supported are"),
        ("task", {"sample_rate": 8000}, "sample_rate is 8000; only 16000"),
    ],
)
def test_settings_without_counterpart(
    section: str, changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    checkpoint = checkpoint_of(build("Wav2Vec2ForPreTraining"))
    checkpoint["cfg"][section].update(changes)
    assert re.search(message, refused(save(checkpoint, tmp_path / "c.pt")))


def test_what_is_added_to_the_blank_has_no_counterpart(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(build("Wav2Vec2ForCTC", vocab_size=len(SYMBOLS)))
    checkpoint["cfg"]["model"]["blank_weight"] = 2.0
    assert "blank_weight is 2.0; only 0" in refused(save(checkpoint, tmp_path / "c.pt"))


def test_parts_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(build("HubertModel"))
    heads = checkpoint["task_state"]
    file = tmp_path / "c.pt"
    for dictionaries in ([], {"km": 1}, 5):
        checkpoint["task_state"] = {"dictionaries": dictionaries}
        import_model(str(save(checkpoint, file)), tmp_path / "model")
        shutil.rmtree(tmp_path / "model")
    endless: list[object] = []
    endless.append(endless)
    checkpoint["task_state"] = {"dictionaries": endless}
    assert "its settings contain themselves" in refused(save(checkpoint, file))
    checkpoint["task_state"] = heads
    mask = checkpoint["model"]["mask_emb"]
    for part in (mask.to_sparse(), mask.to("meta"), mask[:1].expand(10**13)):
        checkpoint["model"]["mask_emb"] = part
        assert "does not hold all of tensor 'mask_emb'" in refused(save(checkpoint, file))


def test_losses_without_counterpart_are_a_note(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(build("Wav2Vec2ForPreTraining"))
    checkpoint["cfg"]["model"]["codebook_negatives"] = 100
    _, [note] = import_model(str(save(checkpoint, tmp_path / "c.pt")), tmp_path / "model")
    assert "codebook_negatives=100" in note


def test_missing_parts(tmp_path: Path) -> None:
    model = build("Wav2Vec2ForCTC", vocab_size=len(SYMBOLS))
    checkpoint = checkpoint_of(model)
    file = save(checkpoint, tmp_path / "c.pt")
    (tmp_path / "dict.ltr.txt").write_text("| 1\nE x\n")
    assert "line 2 must be a symbol and a count" in refused(file)
    (tmp_path / "dict.ltr.txt").write_text("| 1\nEIN 1\n")
    assert "must be one character, is 'EIN'" in refused(file)
    (tmp_path / "dict.ltr.txt").unlink()
    assert "dict.ltr.txt: is missing" in refused(file)
    bias = checkpoint["model"].pop("w2v_encoder.proj.bias")
    file = save(checkpoint, tmp_path / "c.pt")
    assert "'w2v_encoder.proj.bias' is missing" in refused(file)
    checkpoint["model"]["w2v_encoder.proj.bias"] = bias.fill_(torch.nan)
    message = "'w2v_encoder.proj.bias' holds NaN or infinite numbers"
    assert message in refused(save(checkpoint, tmp_path / "c.pt"))
    checkpoint["cfg"]["model"]["w2v_args"] = None
    assert "has no w2v_args" in refused(save(checkpoint, tmp_path / "c.pt"))
    checkpoint["cfg"] = None
    assert "holds no settings" in refused(save(checkpoint, tmp_path / "c.pt"))
    torch.save([1], file)
    assert "does not hold tensors by name" in refused(file)
    assert "is missing" in refused(tmp_path / "no.pt")


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["cfg", "extra_state"])
def test_pickled_code_is_not_run(place: str, legacy: bool, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(build("Wav2Vec2ForPreTraining"))
    checkpoint[place] = {"task": omega({"a": 1}), "x": _Bomb(tmp_path / "exploded")}
    file = save(checkpoint, tmp_path / "c.pt", _use_new_zipfile_serialization=not legacy)
    assert "asks to run posix.mkdir" in refused(file)
    assert not (tmp_path / "exploded").exists()


def test_harmless_names_are_never_imported(tmp_path: Path) -> None:
    """The stand-ins are for classes by name; what has such a name here is left alone."""
    checkpoint = checkpoint_of(build("Wav2Vec2ForPreTraining"))
    checkpoint["cfg"] = omega(checkpoint["cfg"])
    file = save(checkpoint, tmp_path / "c.pt")
    made: list[object] = []
    original = fairseq_files.DictConfig.__init__
    fairseq_files.DictConfig.__init__ = lambda *_: made.append(1)  # type: ignore[method-assign]
    try:
        with fairseq_files.foreign_modules():
            import_model(str(file), tmp_path / "model")
    finally:
        fairseq_files.DictConfig.__init__ = original  # type: ignore[method-assign]
    assert made == []


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kept", [0, 0.3, 0.9])
def test_truncated_files(kept: float, legacy: bool, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(build("Wav2Vec2ForPreTraining"))
    file = save(checkpoint, tmp_path / "c.pt", _use_new_zipfile_serialization=not legacy)
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    assert "is not a complete PyTorch file" in refused(file)


def test_files_that_promise_too_much(tmp_path: Path) -> None:
    """A text that says it is longer than any memory."""
    (tmp_path / "c.pt").write_bytes(b"\x80\x04\x8d" + (1 << 62).to_bytes(8, "little"))
    assert not recognises(str(tmp_path / "c.pt"))
    assert "is not a complete PyTorch file" in refused(tmp_path / "c.pt")


def test_convolutions_are_read_not_evaluated() -> None:
    layers = parse_convolutions("[(512,10,5)]+[(512,3,2)]*4 + [(512,2,2)] + [(512, 2, 2)]")
    assert layers == [(512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2]
    for text in ("", "[", "7", "[(512, 10, 5)] * 10**9", "f()", "[1] + (2,)", "(" * 500):
        with pytest.raises(ConfigError, match="conv_feature_layers is"):
            parse_convolutions(text)
