"""Folders as they were published: the switches and files of well-known checkpoints of transformers,
small and with random weights. They come in and transcribe as there, or are refused in one line."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers
from safetensors.torch import load_file, save_file

from speechssl.decoding.transcriber import Transcriber
from speechssl.errors import CheckpointError
from speechssl.interop.transformers.reading import import_transformers
from speechssl.interop.transformers.writing import export_transformers
from speechssl.models.folder import load_encoder
from tests.interop.models import SIZES, VOCABULARY, build, edit, save

GROUP_NORM = {"feat_extract_norm": "group", "conv_bias": False, "do_stable_layer_norm": False}
LAYER_NORM = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
STACK = {"feat_extract_norm": "layer", "num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 19}

FACEBOOK = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
FACEBOOK_TOKENIZER = {
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "do_lower_case": False,
    "return_attention_mask": False,
    "do_normalize": True,
}
FINE_TUNED = ["|", *"abcdefghijklmnopqrstuvwxyz'", "[UNK]", "[PAD]", "<s>", "</s>"]
"""The vocabulary of transformers' example, whose tokenizer adds the last two."""
FINE_TUNED_TOKENIZER = {
    "added_tokens_decoder": {
        str(i): {"content": symbol, "special": symbol.startswith("<")}
        for i, symbol in enumerate(FINE_TUNED)
        if len(symbol) > 1
    },
    "unk_token": "[UNK]",
    "pad_token": "[PAD]",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "word_delimiter_token": "|",
    "replace_word_delimiter_char": " ",
    "do_lower_case": False,
    "target_lang": None,
    "tokenizer_class": "Wav2Vec2CTCTokenizer",
}


@dataclass
class Published:
    """What sets a published folder apart from one that today's transformers writes."""

    architecture: str
    switches: dict[str, Any]
    beside: dict[str, Any] = field(default_factory=dict)
    """What config.json says beyond the network, or in another form."""
    symbols: list[str] | None = None
    tokenizer: dict[str, Any] | None = None
    masked: bool = True
    """Whether there is a mask embedding."""
    pickled: bool = False
    half: bool = False


PUBLISHED = {
    "facebook/wav2vec2-base-960h": Published(
        "Wav2Vec2ForCTC",
        GROUP_NORM,
        {"hidden_dropout_prob": 0.1, "gradient_checkpointing": False},
        FACEBOOK,
        FACEBOOK_TOKENIZER,
        masked=False,
    ),
    "facebook/wav2vec2-large-960h-lv60-self": Published(
        "Wav2Vec2ForCTC", LAYER_NORM, {"layerdrop": 0}, FACEBOOK, FACEBOOK_TOKENIZER, pickled=True
    ),
    "a fine-tuned XLS-R in half precision": Published(
        "Wav2Vec2ForCTC",
        LAYER_NORM,
        {"add_adapter": False, "torch_dtype": "float16"},
        FINE_TUNED,
        FINE_TUNED_TOKENIZER,
        half=True,
    ),
    "a recogniser of early 2021": Published(
        "Wav2Vec2ForCTC",
        GROUP_NORM,
        {},
        FACEBOOK,
        {"tokenizer_class": "Wav2Vec2Tokenizer", "do_lower_case": True},
        pickled=True,
    ),
    "facebook/hubert-large-ls960-ft": Published(
        "HubertForCTC",
        LAYER_NORM,
        {"feat_proj_layer_norm": True, "tokenizer_class": "Wav2Vec2CTCTokenizer"},
        FACEBOOK,
        FACEBOOK_TOKENIZER,
        pickled=True,
    ),
    "facebook/data2vec-audio-base-960h": Published(
        "Data2VecAudioForCTC", STACK, {}, FACEBOOK, FACEBOOK_TOKENIZER, pickled=True
    ),
    "facebook/wav2vec2-base": Published(
        "Wav2Vec2ForPreTraining", GROUP_NORM, {"freeze_feat_extract_train": True}, pickled=True
    ),
    "facebook/wav2vec2-large-lv60": Published("Wav2Vec2ForPreTraining", LAYER_NORM, pickled=True),
    "facebook/hubert-base-ls960": Published(
        "HubertModel", GROUP_NORM, {"feat_proj_layer_norm": True}, pickled=True
    ),
    "microsoft/wavlm-large": Published(
        "WavLMModel", {**LAYER_NORM, "conv_bias": False}, {"replace_prob": 0.5}, pickled=True
    ),
}


def write(published: Published, folder: Path) -> Path:
    """The folder, with no more settings and files than there were when it was published."""
    symbols = published.symbols or VOCABULARY
    model = build(published.architecture, **published.switches, vocab_size=len(symbols))
    save(model.half() if published.half else model, folder, symbols=symbols)
    weights = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for name, value in load_file(folder / "model.safetensors").items()
        if published.masked or not name.endswith("masked_spec_embed")
    }
    for file in folder.iterdir():
        if file.name != "vocab.json":
            file.unlink()
    if published.pickled:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": [published.architecture],
        "model_type": model.config.model_type,
        "vocab_size": len(symbols),
        **{name: value for name, value in SIZES.items() if hasattr(model.config, name)},
        **published.switches,
        **published.beside,
    }
    preprocessor = {
        "do_normalize": True,
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0,
        "return_attention_mask": published.switches["feat_extract_norm"] == "layer",
        "sampling_rate": 16_000,
    }
    files = {"config": config, "preprocessor_config": preprocessor}
    if published.tokenizer is not None:
        files["tokenizer_config"] = published.tokenizer
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    return folder


def their_text(architecture: str, folder: Path, samples: Any) -> str:
    """What transformers' greedy decoding writes."""
    model = getattr(transformers, architecture).from_pretrained(folder).float().eval()
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
    tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**extractor(samples, sampling_rate=16_000, return_tensors="pt")).logits
    return str(tokenizer.decode(logits[0].argmax(-1)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_comes_in_transcribes_and_goes_out(name: str, tmp_path: Path) -> None:
    published = PUBLISHED[name]
    folder = write(published, tmp_path / "hf")
    certificate, notes = import_transformers(str(folder), tmp_path / "model")
    assert certificate.status == "proven"
    assert len(notes) == (0 if published.masked else 1)
    if published.tokenizer is not None:
        noise = 0.2 * np.random.default_rng(0).standard_normal(16_000)
        soundfile.write(tmp_path / "a.wav", noise, 16_000, subtype="FLOAT")
        samples, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
        theirs = their_text(published.architecture, folder, samples)
        assert len(theirs) > 10
        ours = Transcriber(tmp_path / "model").transcribe_file(tmp_path / "a.wav")
        expected = " ".join(theirs.split())
        assert ours in (expected, expected.lower())  # small letters where theirs are all capitals
    certificate, notes = export_transformers(tmp_path / "model", tmp_path / "out")
    assert (certificate.status, notes) == ("proven", [])


def test_waveforms_are_normalised_as_transformers_5_says(tmp_path: Path) -> None:
    """It keeps what preprocessor_config.json said in processor_config.json."""
    folder = write(PUBLISHED["facebook/wav2vec2-base-960h"], tmp_path / "hf")
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": settings}))
    import_transformers(str(folder), tmp_path / "model")
    assert load_encoder(tmp_path / "model").config.frontend.normalize_waveform
    export_transformers(tmp_path / "model", tmp_path / "out")
    exported = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert exported == settings
    settings["sampling_rate"] = 8000
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": settings}))
    assert "processor_config.json: sampling_rate is 8000" in refused(folder)


# What is refused


def refused(source: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        import_transformers(str(source), source.parent / "refused")
    assert not (source.parent / "refused").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter_attn_dim": 16}, "adapter_attn_dim is 16"),  # facebook/mms-1b-all
        ({"conv_pos_batch_norm": True}, "conv_pos_batch_norm is True"),  # utter-project/mHuBERT-147
        ({"feat_proj_layer_norm": False}, "feat_proj_layer_norm is False"),  # ntu-spml/distilhubert
        ({"architectures": ["WavLMForXVector"]}, "architectures is WavLMForXVector"),
        ({"architectures": ["Wav2Vec2ConformerForCTC"]}, "architectures is Wav2Vec2Conformer"),
    ],
)
def test_networks_without_counterpart(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = write(PUBLISHED["facebook/hubert-large-ls960-ft"], tmp_path / "hf")
    edit(folder / "config.json", **changes)
    assert message in refused(folder)


def test_nothing_large_is_fetched_from_the_hub_for_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's cache without network: the settings are there, and weights come with the second
    request only."""
    folder = write(PUBLISHED["facebook/wav2vec2-base-960h"], tmp_path / "hf")
    revision = "0" * 40
    repository = tmp_path / "cache" / "models--facebook--wav2vec2-base-960h"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    (repository / "snapshots").mkdir()
    snapshot = folder.rename(repository / "snapshots" / revision)
    weights = (snapshot / "model.safetensors").rename(tmp_path / "weights")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    name = "facebook/wav2vec2-base-960h"
    with pytest.raises(CheckpointError, match="has neither model"):
        import_transformers(name, tmp_path / "model")
    edit(snapshot / "config.json", hidden_act="relu")
    with pytest.raises(CheckpointError, match="hidden_act is 'relu'"):
        import_transformers(name, tmp_path / "model")
    edit(snapshot / "config.json", hidden_act="gelu")
    weights.rename(snapshot / "model.safetensors")
    certificate, _ = import_transformers(name, tmp_path / "model")
    assert certificate.status == "proven"
