"""Weights of torchaudio come in, compute the same, and go out as they came."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.data.batch import PADDING_TARGET, SpeechBatch, collate
from speechssl.data.text import Tokens
from speechssl.errors import CheckpointError
from speechssl.frames import num_frames
from speechssl.interop.torchaudio import export_model, import_model, recognises
from speechssl.interop.torchaudio.parity import given_mask_loss
from speechssl.interop.torchaudio.sources import find_source, pipelines, tokens_of
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder
from speechssl.models.folder import (
    load_ctc,
    load_encoder,
    load_model_folder,
    load_objective_weights,
    save_model_folder,
)
from speechssl.models.presets import encoder_config
from speechssl.objectives import build_objective
from speechssl.objectives.clusters import Clusters
from tests.interop.models import PLAIN, edit, filled
from tests.interop.padding import (
    assert_real_frames_agree,
    padded_batch,
    states_in_sight_of_padding,
)
from tests.interop.torchaudio_models import EXTRA, LABELS, LAYOUTS, SIZES, build, save

LENGTHS = [9000, 5300]

both_layouts = pytest.mark.parametrize("layout", sorted(LAYOUTS))
recognisers = pytest.mark.parametrize("factory", ["wav2vec2_model", "wavlm_model"])


def waveforms() -> SpeechBatch:
    torch.manual_seed(1)
    return collate([0.3 * torch.randn(length) + 0.05 for length in LENGTHS])


def their_states(model: Any, waveform: Tensor, lengths: Tensor | None) -> list[Tensor]:
    """The outputs of all layers; the last one with the norm that stands behind it."""
    states, _ = model.extract_features(waveform, lengths)
    head, model.aux = model.aux, None
    states[-1] = model(waveform, lengths)[0]
    model.aux = head
    return states


@recognisers
@both_layouts
@torch.no_grad()
def test_hidden_states_at_every_layer(factory: str, layout: str, tmp_path: Path) -> None:
    model, description = build(factory, layout)
    certificate, _ = import_model(str(save(model, tmp_path / "ta", description)), tmp_path / "m")
    assert certificate.status == "proven"
    assert set(certificate.differences) == {"layer 0", "layer 1", "layer 2"}
    encoder, batch = load_encoder(tmp_path / "m"), waveforms()
    inputs = encoder.project(encoder.normalize(encoder.extract(batch.waveforms, batch.lengths)))
    counts = num_frames(batch.lengths)
    _, states = encoder.contextualize(inputs, counts, layers=True)
    for row, (length, count) in enumerate(zip(LENGTHS, counts.tolist())):
        alone = their_states(model, batch.waveforms[row : row + 1, :length], None)
        for ours, theirs in zip(states[1:], alone, strict=True):
            torch.testing.assert_close(ours[row, :count], theirs[0], rtol=1e-5, atol=1e-5)


@recognisers
@both_layouts
@torch.no_grad()
def test_padded_batch(factory: str, layout: str, tmp_path: Path) -> None:
    """Whatever the layout: where both sides hear the same of the padding, all layers agree.
    torchaudio's WavLM takes no lengths and hears all of it."""
    model, description = build(factory, layout)
    import_model(str(save(model, tmp_path / "ta", description)), tmp_path / "m")
    batch, told = padded_batch(), factory != "wavlm_model"
    theirs = their_states(model, batch.waveforms, batch.lengths if told else None)
    _, *ours = states_in_sight_of_padding(load_encoder(tmp_path / "m"), batch, masked=told)
    assert_real_frames_agree(ours, theirs, batch)


@recognisers
@both_layouts
@torch.no_grad()
def test_ctc_log_probabilities(factory: str, layout: str, tmp_path: Path) -> None:
    model, description = build(factory, layout, aux_num_out=len(LABELS))
    source = save(model, tmp_path / "ta", description, labels=["-", "E", "|", *LABELS[3:]])
    import_model(str(source), tmp_path / "model")
    ours, tokens = load_ctc(tmp_path / "model")
    assert tokens.symbols == ["<blank>", "|", "e", *map(str.lower, LABELS[3:])]
    batch = waveforms()
    for row, length in enumerate(LENGTHS):
        waveform = batch.waveforms[row : row + 1, :length]
        expected = model(waveform)[0].log_softmax(-1)[..., [0, 2, 1, *range(3, len(LABELS))]]
        log_probs, _ = ours(waveform, torch.tensor([length]))
        torch.testing.assert_close(log_probs, expected, rtol=1e-5, atol=1e-5)


def objective_of(folder: Path) -> Clusters:
    """HuBERT's heads as going on with pretraining needs them."""
    loaded, weights = load_model_folder(folder), load_objective_weights(folder)
    settings = loaded.info["recipe"]["objective"]
    encoder = load_encoder(folder).config
    objective = build_objective(settings, encoder, len(weights["cluster_embeddings"]))
    objective.load_state_dict(weights)
    assert isinstance(objective, Clusters)
    return objective.eval()


@both_layouts
@torch.no_grad()
def test_hubert_loss_of_the_same_mask(layout: str, tmp_path: Path) -> None:
    model, description = build("hubert_pretrain_model", layout)
    certificate, notes = import_model(
        str(save(model, tmp_path / "ta", description)), tmp_path / "model"
    )
    assert (certificate.status, notes) == ("proven", [])
    assert "loss" in certificate.differences
    encoder, objective = load_encoder(tmp_path / "model"), objective_of(tmp_path / "model")
    assert (objective.config.mask.probability, objective.config.mask.span) == (0.7, 5)
    assert encoder.config.frontend_gradient == 0.1

    batch = waveforms()
    counts = num_frames(batch.lengths)
    targets = [torch.randint(7, (count,)) for count in counts.tolist()]
    batch.targets = nn.utils.rnn.pad_sequence(targets, True, PADDING_TARGET)
    draws = objective.draw(batch)
    total, count = objective.loss(encoder, batch, **draws).metrics["loss_masked"]
    assert count > 20
    if layout == "pre":
        theirs = given_mask_loss(
            model, batch.waveforms, batch.targets, batch.lengths, draws["mask"]
        )
    else:
        theirs = torch.zeros(())
        for row, (length, frames) in enumerate(zip(LENGTHS, counts.tolist())):
            waveform, labels = batch.waveforms[row, :length], batch.targets[row, :frames]
            mask = draws["mask"][row, :frames]
            theirs += given_mask_loss(model, waveform[None], labels[None], None, mask[None])
    torch.testing.assert_close(total, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("factory", "head"),
    [(factory, {}) for factory in sorted(EXTRA)]
    + [(factory, {"aux_num_out": len(LABELS)}) for factory in ("wav2vec2_model", "wavlm_model")],
    ids=[*sorted(EXTRA), "wav2vec2_model-ctc", "wavlm_model-ctc"],
)
@both_layouts
def test_comes_out_bit_for_bit(
    factory: str, layout: str, head: dict[str, int], tmp_path: Path
) -> None:
    model, description = build(factory, layout, **head)
    source = save(model, tmp_path / "ta", description, normalize_waveform=layout == "pre")
    import_model(str(source), tmp_path / "model")
    certificate, notes = export_model(tmp_path / "model", tmp_path / "out")
    assert (certificate.status, notes) == ("proven", [])
    before = torch.load(source / "weights.pth", weights_only=True)
    after = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    description = json.loads((source / "torchaudio.json").read_text())
    exported = json.loads((tmp_path / "out" / "torchaudio.json").read_text())
    assert exported == {"labels": None, **description}


def test_the_model_card_says_how_to_load(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {**PLAIN, "dim": 32, "layers": 1, "heads": 2, "ffn_dim": 48, "position_kernel": 8}
    frontend = {"kind": "waveform", "channels": 16, "normalize_waveform": True}
    encoder = Encoder(encoder_config("tiny", {**sizes, "frontend": frontend}))
    tokens = Tokens.from_texts(["да нет"])
    save_model_folder(tmp_path / "own", CTCModel(encoder, len(tokens)).eval(), tokens=tokens)
    export_model(tmp_path / "own", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    code = card.split("```python\n")[1].split("```")[0].replace('"out/', f'"{tmp_path}/out/')
    waveform = 1e-3 * torch.randn(1, 4000)  # quiet: what is added to the variance tells
    names: dict[str, Any] = {"waveform": waveform}
    exec(code, names)
    ours, _ = load_ctc(tmp_path / "own")
    with torch.no_grad():
        theirs = names["model"](names["waveform"])[0].log_softmax(-1)
        log_probs, _ = ours(waveform, torch.tensor([4000]))
    assert json.loads((tmp_path / "out" / "torchaudio.json").read_text())["labels"][2:] == [
        *tokens.symbols[2:]
    ]
    torch.testing.assert_close(log_probs, theirs, rtol=1e-3, atol=1e-4)


def test_base_size_named_as_a_pipelines_file(tmp_path: Path) -> None:
    """A recogniser's file as torchaudio publishes it has outputs that nobody uses."""
    bundle = torchaudio.pipelines.WAV2VEC2_ASR_BASE_960H
    with torch.device("meta"):
        model = torchaudio.models.wav2vec2_model(**{**bundle._params, "aux_num_out": 32})
    filled(model).aux.bias.data.normal_()
    file = tmp_path / "wav2vec2_fairseq_base_ls960_asr_ls960.pth"
    torch.save(model.state_dict(), file)
    assert recognises(str(file))
    certificate, _ = import_model(str(file), tmp_path / "model")
    assert certificate.status == "proven"
    assert len(certificate.differences) == 14
    recogniser, tokens = load_ctc(tmp_path / "model")
    assert tokens.symbols[1:] == [label.lower() for label in bundle.get_labels()[1:]]
    kept = [row for row in range(32) if row not in (1, 2, 3)]
    assert torch.equal(recogniser.head.bias, model.aux.bias[kept])
    export_model(tmp_path / "model", tmp_path / "out")
    after = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    before = model.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        value = value[kept] if name.startswith("aux.") else value
        assert torch.equal(value, after[name]), name
    shutil.rmtree(tmp_path)  # 1.1 GB


@pytest.mark.parametrize("name", ["HUBERT_BASE", "WAVLM_LARGE", "VOXPOPULI_ASR_BASE_10K_DE"])
def test_pipelines_come_from_torchs_cache(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / pipelines()[name]._path
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not yet all of it")
    assert recognises(name)
    source = find_source(name)
    assert source.file == file
    assert source.description.factory == ("wavlm_model" if "WAVLM" in name else "wav2vec2_model")
    with pytest.raises(CheckpointError, match=f"{file}: is not a complete PyTorch file"):
        import_model(name, tmp_path / "model")


def test_every_pipeline_has_a_description_that_fits() -> None:
    found = pipelines()
    assert len(found) >= 28
    assert "MMS_FA" not in found  # aligns, and has no space between words
    for bundle in found.values():
        if hasattr(bundle, "get_labels"):
            labels = list(bundle.get_labels())
            assert len(labels) == bundle._params["aux_num_out"]
            tokens_of(labels, "here")


def test_offline_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    server = "http://127.0.0.1:9/"  # the port where everything is thrown away: nobody listens
    monkeypatch.setattr("speechssl.interop.torchaudio.sources.SERVER", server)
    with pytest.raises(CheckpointError) as caught:
        import_model("HUBERT_BASE", tmp_path / "model")
    assert "HUBERT_BASE: cannot be fetched from http://127" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()
    assert not list((tmp_path / "hub" / "checkpoints").iterdir())


# What cannot come in


def refused(source: Path) -> str:
    """The message for a source that must be refused, after which nothing is there."""
    with pytest.raises(CheckpointError) as caught:
        import_model(str(source), source.parent / "model")
    assert [path.name for path in source.parent.iterdir()] == [source.name]
    message = str(caught.value)
    assert "\n" not in message
    assert str(source) in message
    return message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factory": "wavlm_model"}, "torchaudio cannot build wavlm_model with these arguments"),
        ({"factory": "conformer_rnnt_model"}, "must be a function of torchaudio.models that begin"),
        ({"factory": "wav2vec2_base", "arguments": {}}, "has shape .* but the settings of"),
        (
            {
                "factory": "wavlm_model",
                "arguments": {**SIZES, **LAYOUTS["post"], **EXTRA["wavlm_model"]},
            },
            "tensor .*rel_attn_embed.* is missing",
        ),
        ({"factory": "wav2vec2_model\n", "arguments": {}}, "must be a function of"),
        (
            {"arguments": {**SIZES, **LAYOUTS["post"], "encoder_ff_interm_features": 10**13}},
            "torchaudio cannot build wav2vec2_model with these arguments",
        ),
        ({"weights": "x"}, "unknown setting 'weights'"),
        ({"arguments": [1]}, "arguments: expected a mapping"),
        ({"labels": ["-", "|"]}, "the head has 9 outputs, but there are 2 labels"),
        ({"labels": [*"-ABETAOIN"]}, "have no '|', the space between words"),
        ({"labels": ["-", "|", "TH", *"TAOIN'"]}, "must be one character, is 'TH'"),
    ],
)
def test_descriptions_without_counterpart(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model, description = build("wav2vec2_model", aux_num_out=len(LABELS))
    source = save(model, tmp_path / "ta", {**description, **changes})
    assert re.search(message, refused(source))


def test_other_convolutions_and_losses(tmp_path: Path) -> None:
    layers = [[16, 10, 5], *[[16, 3, 2]] * 6]
    model, description = build("wav2vec2_model", extractor_conv_layer_config=layers)
    assert "have kernels and strides" in refused(save(model, tmp_path / "a", description))
    (tmp_path / "b").mkdir()
    model, description = build("hubert_pretrain_model", skip_masked=True)
    assert "skip_masked is True" in refused(save(model, tmp_path / "b" / "ta", description))


def test_missing_files_and_tensors(tmp_path: Path) -> None:
    model, description = build("wav2vec2_model")
    source = save(model, tmp_path / "ta", description)
    weights = model.state_dict()
    norm = "encoder.transformer.layers.1.layer_norm.bias"
    torch.save({n: w for n, w in weights.items() if n != norm}, source / "weights.pth")
    assert f"tensor '{norm}' is missing" in refused(source)
    torch.save({**weights, "aux.bias": torch.ones(3)}, source / "weights.pth")
    assert "tensor 'aux.bias' has no counterpart" in refused(source)
    (source / "more.pt").touch()
    assert "must hold one file" in refused(source)
    (source / "more.pt").unlink()
    edit(source / "torchaudio.json", factory=None)
    assert "torchaudio.json" in refused(source)
    (source / "torchaudio.json").unlink()
    assert "torchaudio.json: is missing; write there" in refused(source)
    with pytest.raises(CheckpointError, match="no such file or folder, and no pipeline"):
        import_model(str(tmp_path / "HUBERT_BAS"), tmp_path / "model")


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.path,)


def test_pickled_code_is_not_run_and_truncated_files_are_refused(tmp_path: Path) -> None:
    model, description = build("wav2vec2_model")
    source = save(model, tmp_path / "ta", description)
    file = source / "weights.pth"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "is not a complete PyTorch file" in refused(source)
    torch.save({**model.state_dict(), "x": _Bomb(tmp_path / "exploded")}, file)
    assert "holds pickled code beside tensors, which was not run" in refused(source)


def test_a_network_that_torchaudio_lacks_stays_here(tmp_path: Path) -> None:
    sizes = {**PLAIN, "dim": 32, "layers": 1, "heads": 2, "ffn_dim": 48, "position_kernel": 8}
    encoder = Encoder(encoder_config("tiny", sizes))
    save_model_folder(tmp_path / "own", encoder)
    with pytest.raises(CheckpointError, match=r"frontend.kind is 'fbank'.*only 'waveform'"):
        export_model(tmp_path / "own", tmp_path / "out")
    frontend = {"kind": "waveform", "channels": 16}
    stacked = {**sizes, "frontend": frontend, "position_layers": 2}
    save_model_folder(tmp_path / "own", Encoder(encoder_config("tiny", stacked)))
    with pytest.raises(CheckpointError, match=r"position_layers is 2.*torchaudio does not have"):
        export_model(tmp_path / "own", tmp_path / "out")
    encoder = Encoder(encoder_config("tiny", {**sizes, "frontend": frontend}))
    objective = build_objective(
        {"kind": "clusters", "similarity_temperature": 0.2}, encoder.config, 5
    )
    info = {"recipe": {"objective": {"kind": "clusters", "similarity_temperature": 0.2}}}
    save_model_folder(tmp_path / "own", encoder, objective=objective.state_dict(), info=info)
    with pytest.raises(CheckpointError, match=r"similarity_temperature is 0\.2"):
        export_model(tmp_path / "own", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_heads_of_clusters_made_here_go_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {**PLAIN, "dim": 32, "layers": 1, "heads": 2, "ffn_dim": 48, "position_kernel": 8}
    frontend = {"kind": "waveform", "channels": 16}
    encoder = Encoder(encoder_config("tiny", {**sizes, "frontend": frontend})).eval()
    objective = build_objective({"kind": "clusters"}, encoder.config, 5)
    info = {"recipe": {"objective": {"kind": "clusters"}}}
    save_model_folder(tmp_path / "own", encoder, objective=objective.state_dict(), info=info)
    certificate, _ = export_model(tmp_path / "own", tmp_path / "out")
    assert "loss" in certificate.differences
    model = find_source(str(tmp_path / "out")).description.network("here")
    assert isinstance(model, torchaudio.models.HuBERTPretrainModel)
    assert model.mask_generator.mask_prob == 0.8
    tensors = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    ours = objective.state_dict()["cluster_embeddings"]
    assert torch.equal(tensors["logit_generator.label_embeddings"], ours)
    assert F.normalize(ours).isfinite().all()
