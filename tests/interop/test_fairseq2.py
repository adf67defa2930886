"""fairseq2's cards and checkpoints come in, compute the same, and go out as they came."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fairseq2.models.transformer import TransformerNormOrder
from fairseq2.models.wav2vec2 import (
    Wav2Vec2Config,
    Wav2Vec2EncoderConfig,
    create_wav2vec2_model,
    get_wav2vec2_model_hub,
)
from fairseq2.models.wav2vec2.asr import (
    Wav2Vec2AsrConfig,
    create_wav2vec2_asr_model,
    get_wav2vec2_asr_model_hub,
)
from fairseq2.nn import BatchLayout
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from speechssl.data.batch import collate
from speechssl.data.text import Tokens
from speechssl.errors import CheckpointError
from speechssl.frames import num_frames
from speechssl.interop.fairseq2 import export_model, import_model, recognises
from speechssl.interop.fairseq2.cards import OMNILINGUAL, config_of, find_card, to_plain
from speechssl.interop.fairseq2.layout import encoder_config
from speechssl.interop.fairseq2.parity import their_outputs
from speechssl.interop.fairseq2.reading import read_tensors
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
from speechssl.models.presets import encoder_config as preset_config
from speechssl.objectives import build_objective
from tests.interop.models import filled
from tests.interop.padding import (
    assert_real_frames_agree,
    padded_batch,
    states_in_sight_of_padding,
)
from tests.models.reference import randomize

SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "▁", *"ETAOIN'"]
LENGTHS = [9000, 5300]
FAMILIES = ("wav2vec2", "wav2vec2_asr")
both_layouts = pytest.mark.parametrize("layout", ["post", "pre"])
both_families = pytest.mark.parametrize("family", FAMILIES)


def small_config(family: str, layout: str, **encoder: Any) -> Wav2Vec2Config | Wav2Vec2AsrConfig:
    """``post``: as fairseq2's base; ``pre``: as large_lv60k, XLS-R and the Omnilingual encoders."""
    pre = layout == "pre"
    sizes = {
        "model_dim": 32,
        "feature_dim": 16,
        "feature_extractor_layer_descs": [
            (16, 10, 5), *[(16, 3, 2)] * 4, *[(16, 2, 2)] * 2
        ],
        "pos_conv_kernel_size": 8,
        "num_pos_conv_groups": 2,
        "num_encoder_layers": 2,
        "num_encoder_attn_heads": 2,
        "ffn_inner_dim": 48,
        "norm_order": TransformerNormOrder.PRE if pre else TransformerNormOrder.POST,
        "layer_norm_features": not pre,
        "feature_extractor_bias": pre,
        "feature_extractor_layer_norm_convs": pre,
        "first_pass_dropout_p": 0.1,
    }  # fmt: skip
    settings = Wav2Vec2EncoderConfig(**{**sizes, **encoder})
    if family == "wav2vec2_asr":
        return Wav2Vec2AsrConfig(encoder_config=settings, target_vocab_size=len(SYMBOLS))
    return Wav2Vec2Config(
        encoder_config=settings,
        final_dim=12,
        quantized_dim=8,
        num_codebook_entries=5,
        num_distractors=9,
    )


def build(config: Wav2Vec2Config | Wav2Vec2AsrConfig) -> nn.Module:
    """A model of fairseq2, its weights not those of a fresh one."""
    torch.manual_seed(0)
    asr = isinstance(config, Wav2Vec2AsrConfig)
    model = create_wav2vec2_asr_model(config) if asr else create_wav2vec2_model(config)
    randomize(model)
    for name, parameter in model.named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            parameter.data.mul_(4)  # in a fresh model all frames get the same attention
    if not asr:
        model.quantizer.num_updates.fill_(7)
    return model.eval()


def save(
    model: nn.Module,
    config: Wav2Vec2Config | Wav2Vec2AsrConfig,
    folder: Path,
    *,
    name: str = "model.pt",
    **card: Any,
) -> Path:
    """A folder with the model's card and checkpoint."""
    folder.mkdir(exist_ok=True)
    asr = isinstance(config, Wav2Vec2AsrConfig)
    values = {
        "name": "small",
        "model_family": FAMILIES[asr],
        "model_config": to_plain(config),
        "checkpoint": name,
        **({"tokenizer": "chars.model"} if asr else {}),
        **card,
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(values))
    if asr:
        write_sentencepiece(folder / "chars.model", SYMBOLS)
    if name.endswith(".safetensors"):
        save_file(model.state_dict(), folder / name)
    else:
        torch.save({"model": model.state_dict(), "fs2": True}, folder / name)
    return folder


def write_sentencepiece(file: Path, symbols: list[str]) -> None:
    """A SentencePiece model of single characters: the protocol buffer's fields byte by byte."""

    def field(number: int, content: bytes) -> bytes:
        assert len(content) < 128
        return bytes([number << 3 | 2, len(content)]) + content

    def piece(symbol: str, kind: int) -> bytes:
        score = b"\x15\x00\x00\x00\x00"
        return field(1, field(1, symbol.encode()) + score + bytes([3 << 3, kind]))

    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3, "<pad>": 3}  # unknown, control; 1: normal
    numbers = {name: symbols.index(s) for name, s in (("unk", "<unk>"), ("bos", "<s>"))}
    numbers |= {name: symbols.index(s) for name, s in (("eos", "</s>"), ("pad", "<pad>"))}
    trainer = b"\x18\x04"  # model_type: characters
    for place, name in ((40, "unk"), (41, "bos"), (42, "eos"), (43, "pad")):
        key = place << 3
        trainer += bytes([key & 127 | 128, key >> 7, numbers[name]])
    body = b"".join(piece(symbol, kinds.get(symbol, 1)) for symbol in symbols)
    file.write_bytes(body + field(2, trainer) + field(3, field(1, b"identity")))


def waveforms_of(*lengths: int) -> list[Tensor]:
    torch.manual_seed(1)
    return [0.3 * torch.randn(length) + 0.05 for length in lengths]


@torch.no_grad()
def their_states(model: nn.Module, layout: str, waveforms: list[Tensor]) -> list[dict[str, Tensor]]:
    """Padded, with a layout that says so; one by one with group norm, where padding counts."""
    found = []
    for group in [waveforms] if layout == "pre" else [[waveform] for waveform in waveforms]:
        batch = collate(group)
        seqs = batch.waveforms
        if layout == "pre":
            seqs = normalize_waveforms(seqs, batch.lengths)
        lengths = BatchLayout.of(seqs, batch.lengths.tolist())
        states, _ = their_outputs(model, seqs, lengths, {})
        found += [{n: v[row] for n, v in states.items()} for row in range(len(group))]
    return found


@both_families
@both_layouts
@torch.no_grad()
def test_every_layer_and_ctc_of_a_padded_batch(family: str, layout: str, tmp_path: Path) -> None:
    config = small_config(family, layout)
    model = build(config)
    folder = save(model, config, tmp_path / "fs2")
    certificate, [note] = import_model(str(folder), tmp_path / "model")
    assert certificate.status == "proven"
    assert "assumed that the model" in note
    loaded = load_model_folder(tmp_path / "model")
    encoder, batch = load_encoder(tmp_path / "model"), collate(waveforms_of(*LENGTHS))
    inputs = encoder.project(encoder.normalize(encoder.extract(batch.waveforms, batch.lengths)))
    context, states = encoder.contextualize(inputs, num_frames(batch.lengths), layers=True)
    ours = {f"layer {i}": state for i, state in enumerate(states)}
    if family == "wav2vec2_asr":
        ours["log-probabilities"] = loaded.model.log_probs(context)
        small = [symbol.lower() for symbol in SYMBOLS]
        places = [small.index(s) for s in ["<s>", "▁", *loaded.tokens.symbols[2:]]]
    for row, theirs in enumerate(their_states(model, layout, waveforms_of(*LENGTHS))):
        assert theirs.keys() == ours.keys()
        frames = num_frames(LENGTHS[row])
        for name, expected in theirs.items():
            if name == "log-probabilities":
                expected = expected[:, places]
            found = ours[name][row, :frames]
            torch.testing.assert_close(found, expected[:frames], rtol=1e-5, atol=1e-5)


@both_layouts
@torch.no_grad()
def test_padded_batch(layout: str, tmp_path: Path) -> None:
    """Whatever the layout: where both sides hear the same of the padding, all layers agree."""
    config = small_config("wav2vec2", layout)
    model = build(config)
    folder = save(model, config, tmp_path / "fs2", normalize_waveform=False)
    import_model(str(folder), tmp_path / "model")
    batch = padded_batch()
    padded = BatchLayout.of(batch.waveforms, batch.lengths.tolist())
    theirs, _ = their_outputs(model, batch.waveforms, padded, {})
    ours = states_in_sight_of_padding(load_encoder(tmp_path / "model"), batch)
    assert_real_frames_agree(ours, list(theirs.values()), batch)


@both_layouts
@torch.no_grad()
def test_pretraining_loss_as_fairseq2_computes_it(layout: str, tmp_path: Path) -> None:
    """The whole loss: contrastive, diversity, and the penalty on the features."""
    config = small_config("wav2vec2", layout)
    model = build(config)
    import_model(str(save(model, config, tmp_path / "fs2")), tmp_path / "model")
    loaded = load_model_folder(tmp_path / "model")
    objective = build_objective(loaded.info["recipe"]["objective"], loaded.model.config).eval()
    objective.load_state_dict(load_objective_weights(tmp_path / "model"))
    batch = collate(waveforms_of(9000))
    draws = objective.draw(batch)
    loss = objective.loss(loaded.model, batch, **draws)

    model.masker.mask_factory = lambda **_: draws["mask"]
    model._sample_distractors = lambda targets: targets[0][draws["distractors"]][None]
    waveforms = batch.waveforms
    if layout == "pre":
        waveforms = normalize_waveforms(waveforms, batch.lengths)
    with torch.compiler.set_stance("force_eager"):
        theirs, _ = model(waveforms, BatchLayout.of(waveforms))
    assert loss.count > 10
    torch.testing.assert_close(loss.sum, theirs.aggregate, rtol=1e-5, atol=1e-4)
    contrastive, _ = loss.metrics["loss_contrastive"]
    torch.testing.assert_close(contrastive, theirs.contrastive, rtol=1e-5, atol=1e-4)


@both_families
@both_layouts
def test_comes_out_bit_for_bit(family: str, layout: str, tmp_path: Path) -> None:
    config = small_config(family, layout)
    model = build(config)
    folder = save(
        model, config, tmp_path / "fs2", name="model.safetensors", normalize_waveform=True
    )
    _, notes = import_model(str(folder), tmp_path / "model")
    certificate, more = export_model(tmp_path / "model", tmp_path / "out")
    assert (certificate.status, notes, more) == ("proven", [], [])
    before = load_file(folder / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    cards = [
        yaml.safe_load(f.read_text()) for f in (folder / "small.yaml", tmp_path / "out/card.yaml")
    ]
    assert cards[0]["model_config"] == cards[1]["model_config"]
    import_model(str(tmp_path / "out"), tmp_path / "back")
    weights = [(tmp_path / f / "model.safetensors").read_bytes() for f in ("model", "back")]
    assert weights[0] == weights[1]


def test_vocabulary_of_a_sentencepiece_model(tmp_path: Path) -> None:
    config = small_config("wav2vec2_asr", "pre")
    import_model(str(save(build(config), config, tmp_path / "fs2")), tmp_path / "model")
    _, tokens = load_ctc(tmp_path / "model")
    assert tokens.symbols == ["<blank>", "|", "<pad>", "</s>", "<unk>", *"etaoin'"]


def test_paths_relative_to_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config("wav2vec2_asr", "post")
    save(build(config), config, tmp_path / "fs2")
    monkeypatch.chdir(tmp_path)
    import_model("fs2", Path("model"))
    assert load_model_folder(tmp_path / "model").info["imported"]["source"] == "fs2"


def test_base_size(tmp_path: Path) -> None:
    config = get_wav2vec2_model_hub().get_arch_config("base")
    with torch.device("meta"):
        model = create_wav2vec2_model(config)
    filled(model).quantizer.num_updates.zero_()
    name = "model.safetensors"
    folder = save(model, config, tmp_path / "fs2", name=name, model_arch="base", model_config={})
    certificate, _ = import_model(str(folder), tmp_path / "model")
    assert certificate.status == "proven"
    assert len(certificate.differences) == 14
    expected = preset_config("base", {"input_dropout": 0.0})
    assert load_encoder(tmp_path / "model").config == expected
    export_model(tmp_path / "model", tmp_path / "out")
    before, after = (load_file(f / name) for f in (folder, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[tensor]) for tensor, value in before.items())
    shutil.rmtree(tmp_path)  # 1.1 GB


@pytest.mark.parametrize("key", OMNILINGUAL, ids=":".join)
def test_omnilingual_architectures(key: tuple[str, str], tmp_path: Path) -> None:
    """As their package registers them, which need not be here; XLS-R has the same shapes."""
    family, arch = key
    card = {"name": "omni", "model_family": family, "model_arch": arch, "checkpoint": "x.pt"}
    (tmp_path / "omni.yaml").write_text(yaml.safe_dump(card))
    assert recognises(str(tmp_path / "omni.yaml"))
    config = config_of(find_card(str(tmp_path / "omni.yaml")))
    ours = encoder_config(config.encoder_config, True)
    sizes = {"300m": (1024, 24), "1b": (1280, 48), "3b": (2048, 60), "7b": (2048, 128)}
    assert (ours.dim, ours.layers) == sizes[arch.removesuffix("_v2")]
    assert (ours.norm, ours.heads, ours.frontend.norm) == ("pre", 16, "layer")
    if family == "wav2vec2_asr":
        assert config.target_vocab_size == (10288 if arch.endswith("_v2") else 9812)
        assert not config.use_masking
    else:
        assert (config.quantized_dim, config.final_dim) == (1024, 1024)
        assert config.codebook_sampling_temperature[1] == 0.1


def test_a_recogniser_without_mask_embedding(tmp_path: Path) -> None:
    config = small_config("wav2vec2_asr", "pre")
    config.use_masking = False
    folder = save(build(config), config, tmp_path / "fs2", normalize_waveform=True)
    _, [note] = import_model(str(folder), tmp_path / "model")
    assert "no mask embedding" in note
    export_model(tmp_path / "model", tmp_path / "out")
    assert not [n for n in load_file(tmp_path / "out/model.safetensors") if "masker" in n]


def test_shares_of_several_processes(tmp_path: Path) -> None:
    """As fairseq2's trainer saves them under FSDP: each has a part of the rows."""
    config = small_config("wav2vec2", "post")
    model = build(config)
    whole = save(model, config, tmp_path / "whole")
    parts = save(model, config, tmp_path / "parts", checkpoint="model")
    folder = parts / "model" / "pp_00" / "tp_00"
    folder.mkdir(parents=True)
    halves = {}
    for name, value in model.state_dict().items():
        whole_rows = value.dim() > 0 and len(value) == 1
        halves[name] = (value, value[:0]) if whole_rows else (value, value)
        if value.dim() > 0 and len(value) > 1:
            halves[name] = value.chunk(2)
    for rank in range(2):
        torch.save({n: h[rank].clone() for n, h in halves.items()}, folder / f"sdp_{rank:02d}.pt")
    for source in (whole, parts):
        import_model(str(source), tmp_path / f"{source.name}-model")
    weights = [(tmp_path / f"{n}-model/model.safetensors").read_bytes() for n in ("whole", "parts")]
    assert weights[0] == weights[1]


def test_shares_of_a_hundred_processes_are_in_their_order(tmp_path: Path) -> None:
    for rank in range(101):
        torch.save({"rows": torch.tensor([float(rank)])}, tmp_path / f"sdp_{rank:02d}.pt")
    tensors, _ = read_tensors(tmp_path, small_config("wav2vec2", "post"))
    assert tensors["rows"].tolist() == list(range(101))
    torch.save({"columns": torch.ones(1)}, tmp_path / "sdp_07.pt")
    with pytest.raises(CheckpointError, match="'rows' is not a tensor in all sdp"):
        read_tensors(tmp_path, small_config("wav2vec2", "post"))


# What was trained here goes out, and fairseq2 loads it by name


def own_model(path: Path, frontend: Any, kind: str) -> Encoder | CTCModel:
    torch.manual_seed(0)
    sizes = {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 48, "norm": "pre", "position_kernel": 8}
    kind_of_frontend = FrontendConfig(kind=frontend, channels=16)
    encoder = Encoder(EncoderConfig(frontend=kind_of_frontend, **sizes))
    if kind == "ctc":
        tokens = Tokens.from_texts(["да нет"])
        model = CTCModel(encoder, len(tokens))
        save_model_folder(path, model, tokens=tokens)
        return model.eval()
    heads = {"cluster_embeddings": torch.ones(3, 4)}
    save_model_folder(
        path, encoder, objective=heads, info={"recipe": {"objective": {"kind": "clusters"}}}
    )
    return encoder.eval()


LOAD_BY_NAME = """
import json, sys, soundfile, torch  # soundfile brings the libsndfile that fairseq2 asks for
from fairseq2 import init_fairseq2
from fairseq2.assets import get_asset_store
from fairseq2.models.wav2vec2.asr import get_wav2vec2_asr_model_hub
from fairseq2.nn import BatchLayout
from speechssl.interop.fairseq2.family import get_speech_model_hub, register

init_fairseq2(extras=register)
waveform = torch.sin(torch.arange(4000).square() * 1e-4)[None]
found = {}
for name in sys.argv[1:]:
    if get_asset_store().retrieve_card(name).field("model_family").as_(str) == "wav2vec2_asr":
        model = get_wav2vec2_asr_model_hub().load_model(name).eval()
        output = model(waveform, BatchLayout.of(waveform))[0].log_softmax(-1)
    else:
        model = get_speech_model_hub().load_model(name).eval()
        output = model(waveform, torch.tensor([4000]))[0]
    found[name] = [type(model).__name__, output.detach().flatten().tolist()]
found["presets"] = sorted(get_speech_model_hub().get_archs())
found["large"] = get_speech_model_hub().get_arch_config("large").encoder.dim
print(json.dumps(found))
"""


def test_fairseq2_loads_ours_by_name(tmp_path: Path) -> None:
    cards = {
        "fbank-encoder": ("fbank", "encoder", "Encoder"),
        "fbank-recogniser": ("fbank", "ctc", "CTCModel"),
        "recogniser": ("waveform", "ctc", "Wav2Vec2AsrModel"),
    }
    models = {}
    for name, (frontend, kind, _) in cards.items():
        models[name] = own_model(tmp_path / "own" / name, frontend, kind)
        certificate, notes = export_model(tmp_path / "own" / name, tmp_path / "assets" / name)
        assert certificate.status == "proven"
        assert any("speechssl_model" in note for note in notes) == (frontend == "fbank")
    environment = {
        **os.environ,
        "FAIRSEQ2_USER_ASSET_DIR": str(tmp_path / "assets"),
        "FAIRSEQ2_NO_PROGRESS": "1",
        "OMP_NUM_THREADS": "1",
    }
    run = subprocess.run(
        [sys.executable, "-c", LOAD_BY_NAME, *cards],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["presets"] == ["base", "large", "small", "tiny"]
    assert found["large"] == 1024
    waveform = torch.sin(torch.arange(4000).square() * 1e-4)[None]
    for name, (_, _, kind) in cards.items():
        with torch.no_grad():
            expected, _ = models[name](waveform, torch.tensor([4000]))
        assert found[name][0] == kind
        output = torch.tensor(found[name][1]).view_as(expected)
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "family"),
    [({"frontend_gradient": 0.0}, "wav2vec2_asr"), ({"dim": 16}, "speechssl_model")],
)
def test_networks_at_the_edge_of_theirs(
    changes: dict[str, Any], family: str, tmp_path: Path
) -> None:
    """A frozen frontend, and one that is as wide as the encoder (fairseq2 has no projection)."""
    sizes = {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 48, "position_kernel": 8}
    encoder = Encoder(EncoderConfig(frontend=FrontendConfig(channels=16), **{**sizes, **changes}))
    tokens = Tokens.from_texts(["да нет"])
    save_model_folder(tmp_path / "own", CTCModel(encoder, len(tokens)), tokens=tokens)
    certificate, _ = export_model(tmp_path / "own", tmp_path / "out")
    assert certificate.status == "proven"
    card = yaml.safe_load((tmp_path / "out" / "card.yaml").read_text())
    assert card["model_family"] == family


def test_an_encoder_of_other_objectives_gets_new_heads(tmp_path: Path) -> None:
    encoder = own_model(tmp_path / "own", "waveform", "encoder")
    _, notes = export_model(tmp_path / "own", tmp_path / "out")
    assert any("heads, which fairseq2's wav2vec2 must have, are new" in note for note in notes)
    import_model(str(tmp_path / "out"), tmp_path / "back")
    again = load_encoder(tmp_path / "back").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in encoder.state_dict().items())


# What cannot come in


def refused(source: Path, model: Path) -> str:
    """The message for a source that must be refused, after which nothing is there."""
    with pytest.raises(CheckpointError) as caught:
        import_model(str(source), model)
    assert not model.exists()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_conformer": True}, "use_conformer is True; only False"),
        ({"use_fbank": True}, "use_fbank is True; only False"),
        ({"pos_encoder_type": "rotary"}, "pos_encoder_type is 'rotary'; only 'conv'"),
        ({"layer_norm_features": False}, "layer_norm_features is False with norm_order POST"),
        ({"num_encoder_attn_heads": 3}, r"heads must be a divisor of dim \(32\)"),
        ({"feature_extractor_layer_descs": [[16, 4, 4]] * 7}, "feature_extractor_layer_descs is"),
        ({"model_dim": 64}, "has shape .* but the card's settings ask for"),
        ({"num_encoder_layers": 3}, "'encoder.layers.2.* is missing"),
        ({"model_dims": 64}, "fairseq2 says: .*"),
    ],
)
def test_settings_without_counterpart(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = small_config("wav2vec2", "post")
    folder = save(build(config), config, tmp_path / "fs2")
    card = yaml.safe_load((folder / "small.yaml").read_text())
    card["model_config"]["encoder_config"].update(changes)
    (folder / "small.yaml").write_text(yaml.safe_dump(card))
    assert re.search(message, refused(folder, tmp_path / "model"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_family": "llama"}, "is of family 'llama'; supported are wav2vec2 and"),
        ({"model_arch": "huge"}, "fairseq2 says: model_arch field"),
        ({"checkpoint": "nothing.pt"}, "nothing.pt: is missing"),
        ({"checkpoint": "."}, "is a folder without the sdp_*.pt"),
        ({"normalize_waveform": "no"}, "normalize_waveform must be true or false, but is 'no'"),
        ({"tokenizer": "nothing.model"}, "fairseq2 says: "),
        ({"tokenizer": None, "tokens": "few.txt"}, "has 3 symbols for 12 outputs"),
    ],
)
def test_cards_without_counterpart(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = small_config("wav2vec2_asr", "post")
    folder = save(build(config), config, tmp_path / "fs2", **changes)
    (folder / "few.txt").write_text("<s>\n▁\na\n")
    assert message in refused(folder, tmp_path / "model")


def test_known_names_and_unknown_ones(tmp_path: Path) -> None:
    assert recognises("wav2vec2_base")
    assert not recognises("facebook/wav2vec2-base")
    assert not recognises("nobody_knows_this")
    assert not recognises(str(tmp_path))
    assert "no card of this name" in refused(Path("nobody_knows_this"), tmp_path / "model")


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.path,)


def test_damaged_and_malicious_checkpoints(tmp_path: Path) -> None:
    config = small_config("wav2vec2", "post")
    model = build(config)
    folder = save(model, config, tmp_path / "fs2")
    whole = (folder / "model.pt").read_bytes()
    (folder / "model.pt").write_bytes(whole[: len(whole) // 2])
    assert "is not a complete PyTorch file" in refused(folder, tmp_path / "model")
    torch.save(
        {"model": model.state_dict(), "x": _Bomb(tmp_path / "exploded")}, folder / "model.pt"
    )
    assert "asks to run posix.mkdir" in refused(folder, tmp_path / "model")
    assert not (tmp_path / "exploded").exists()
    state = model.state_dict()
    torch.save({"model": {**state, "extra": torch.ones(2)}}, folder / "model.pt")
    assert "'extra' has no counterpart" in refused(folder, tmp_path / "model")
    state["final_proj.bias"].fill_(torch.nan)
    torch.save({"model": state}, folder / "model.pt")
    assert "'final_proj.bias' holds NaN" in refused(folder, tmp_path / "model")
    for changes in ({"quantizer.num_updates": "many"}, {3: torch.ones(1)}):
        torch.save({"model": {**model.state_dict(), **changes}}, folder / "model.pt")
        assert "fairseq2 says" in refused(folder, tmp_path / "model")


def test_arch_of_fairseq2_itself_is_preferred() -> None:
    assert not {arch for _, arch in OMNILINGUAL} & get_wav2vec2_asr_model_hub().get_archs()
