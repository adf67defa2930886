"""transformers: its wav2vec 2.0 and HuBERT models, with SDPA attention."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.frames import SAMPLE_RATE, num_frames
from tools.bench.cases import CLUSTERS, VOCABULARY, Case, by_length, transcripts, waveforms
from tools.bench.systems import (
    BATCH_SECONDS,
    LOADING_SECONDS,
    LOADING_WORKERS,
    Setup,
    Work,
    conv_layers,
    corpus_files,
    count,
    padding_share,
)

START_UP = """
from transformers import Wav2Vec2Config, Wav2Vec2Model
Wav2Vec2Model(Wav2Vec2Config(
    hidden_size=256, num_hidden_layers=6, num_attention_heads=4, intermediate_size=1024,
    conv_dim=(256,) * 7, num_conv_pos_embeddings=32, do_stable_layer_norm=True))
"""


def _settings(case: Case) -> dict[str, Any]:
    """The case's encoder in the words of ``Wav2Vec2Config`` and ``HubertConfig``."""
    config = case.encoder
    channels, kernels, strides = zip(*conv_layers(config.frontend.channels))
    return {
        "hidden_size": config.dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.ffn_dim,
        "do_stable_layer_norm": config.norm == "pre",
        "feat_extract_norm": config.frontend.norm,
        "conv_bias": config.frontend.bias,
        "conv_dim": channels,
        "conv_kernel": kernels,
        "conv_stride": strides,
        "num_conv_pos_embeddings": config.position_kernel,
        "num_conv_pos_embedding_groups": config.position_groups,
        "hidden_dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "feat_proj_dropout": config.input_dropout,
        "layerdrop": 0.0,
        "vocab_size": VOCABULARY,
        "attn_implementation": "sdpa",
    }


def pretrain(setup: Setup) -> Work:
    """``Wav2Vec2ForPreTraining`` with the masks and negatives of its example script, or
    ``HubertModel`` with a head of ours, because transformers has no loss for HuBERT."""
    if setup.case.objective == "clusters":
        return _clusters(setup)
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining
    from transformers.models.wav2vec2.modeling_wav2vec2 import (
        _compute_mask_indices,
        _sample_negative_indices,
    )

    settings = {**_settings(setup.case), "feat_quantizer_dropout": 0.1}
    model = Wav2Vec2ForPreTraining(Wav2Vec2Config(**settings))
    batch = torch.stack(waveforms(setup.case)).to(setup.device)
    shape = (len(batch), num_frames(batch.shape[1]))

    def run() -> Tensor:
        mask = _compute_mask_indices(shape, 0.65, 10, min_masks=2)
        negatives = _sample_negative_indices(shape, 100, mask)
        output = model(
            batch,
            mask_time_indices=torch.tensor(mask, device=setup.device),
            sampled_negative_indices=torch.tensor(negatives, device=setup.device),
        )
        return output.loss / mask.sum()

    note = "Wav2Vec2ForPreTraining, sdpa"
    return Work(run, note, [model], [model], _encoder_weights(model.wav2vec2))


def _clusters(setup: Setup) -> Work:
    from transformers import HubertConfig, HubertModel
    from transformers.models.hubert.modeling_hubert import _compute_mask_indices

    model = HubertModel(HubertConfig(**_settings(setup.case)))
    head = _ClusterHead(setup.case.encoder.dim)
    batch = torch.stack(waveforms(setup.case)).to(setup.device)
    shape = (len(batch), num_frames(batch.shape[1]))
    targets = torch.randint(CLUSTERS, shape, device=setup.device)

    def run() -> Tensor:
        mask = torch.tensor(_compute_mask_indices(shape, 0.8, 10, min_masks=2))
        mask = mask.to(setup.device)
        context = model(batch, mask_time_indices=mask).last_hidden_state
        return F.cross_entropy(head(context[mask]).float(), targets[mask])

    note = "HubertModel, sdpa; cosine head of ours"
    return Work(run, note, [model, head], [model], _encoder_weights(model))


class _ClusterHead(nn.Module):
    """Cosine similarity with each cluster (HuBERT, equation 3). [M, D] -> [M, K]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, 256)
        self.clusters = nn.Parameter(torch.rand(CLUSTERS, 256))

    def forward(self, context: Tensor) -> Tensor:
        return (
            F.linear(F.normalize(self.project(context), dim=-1), F.normalize(self.clusters)) / 0.1
        )


def finetune(setup: Setup) -> Work:
    """``Wav2Vec2ForCTC`` with its own masks and loss."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    settings = {**_settings(setup.case), "final_dropout": 0.1, "ctc_zero_infinity": True}
    model = Wav2Vec2ForCTC(Wav2Vec2Config(**settings, mask_time_prob=0.25, mask_feature_prob=0.1))
    model.freeze_feature_encoder()
    batch = torch.stack(waveforms(setup.case)).to(setup.device)
    labels = transcripts(setup.case).to(setup.device)

    def run() -> Tensor:
        return model(batch, labels=labels).loss / labels.numel()

    note = "Wav2Vec2ForCTC, sdpa, convolutions frozen"
    return Work(run, note, [model], [model], _encoder_weights(model.wav2vec2))


def inference(setup: Setup) -> Work:
    """Context vectors; the variant "one-batch" pads all files to the longest, as the examples do,
    otherwise files of similar length go together.

    Without attention mask, as the models with group norm are to be used: padding changes their
    outputs.
    """
    model = _reference(setup.case)
    recordings = waveforms(setup.case)
    lengths = [len(recording) for recording in recordings]
    if setup.variant == "one-batch":
        groups, note = [list(range(len(recordings)))], "one padded batch"
    else:
        seconds = BATCH_SECONDS[setup.device.type]
        groups = by_length(lengths, round(seconds * SAMPLE_RATE))
        note = f"batches of {seconds:g} s by length"
    batches = [
        nn.utils.rnn.pad_sequence([recordings[i] for i in group], batch_first=True)
        for group in groups
    ]
    batches = [batch.to(setup.device) for batch in batches]

    def run() -> None:
        for batch in batches:
            model(batch)

    return Work(run, f"Wav2Vec2Model, sdpa, {note}", [model], [model], _encoder_weights(model))


def _reference(case: Case) -> nn.Module:
    """The model whose weights speechssl gets too."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    torch.manual_seed(0)
    model: nn.Module = Wav2Vec2Model(Wav2Vec2Config(**_settings(case)))
    return model.eval()


def write_reference(setup: Setup) -> None:
    """Writes ``setup.weights``: the model's weights, one recording and its context."""
    from safetensors.torch import save_file

    model = _reference(setup.case)
    waveform = torch.randn(1, 2 * SAMPLE_RATE, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        context = model(waveform).last_hidden_state
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    checks = {"check.waveform": waveform, "check.context": context.contiguous()}
    save_file({**weights, **checks}, setup.weights)


def loading(setup: Setup) -> Work:
    """torch's ``DataLoader`` over soundfile and ``Wav2Vec2FeatureExtractor``, files of similar
    length together by the sampler of transformers' trainer (``group_by_length``)."""
    from torch.utils.data import DataLoader
    from transformers import Wav2Vec2FeatureExtractor
    from transformers.trainer_pt_utils import LengthGroupedSampler

    files = corpus_files(setup.folder)
    lengths = [round(seconds * SAMPLE_RATE) for _, seconds in files]
    size = max(1, round(LOADING_SECONDS * SAMPLE_RATE * len(files) / sum(lengths)))
    loader = DataLoader(
        _Files([path for path, _ in files]),
        batch_size=size,
        sampler=LengthGroupedSampler(size, lengths=lengths),
        collate_fn=_Padding(Wav2Vec2FeatureExtractor(do_normalize=False)),
        num_workers=LOADING_WORKERS,
        persistent_workers=True,
        prefetch_factor=4,
    )

    def run() -> float:
        return padding_share(
            (batch["input_values"].numel(), int(batch["lengths"].sum())) for batch in loader
        )

    note = f"DataLoader with {LOADING_WORKERS} processes, soundfile, group_by_length"
    return Work(run, f"{note}, {size} files a batch")


class _Files(torch.utils.data.Dataset[Any]):
    """Waveforms by file."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        import soundfile

        waveform, _ = soundfile.read(self.paths[index], dtype="float32")
        return waveform


class _Padding:
    """Waveforms to a padded batch and their lengths."""

    def __init__(self, extractor: Any) -> None:
        self.extractor = extractor

    def __call__(self, items: list[Any]) -> dict[str, Tensor]:
        batch = self.extractor(items, sampling_rate=SAMPLE_RATE, padding=True, return_tensors="pt")
        lengths = torch.tensor([len(item) for item in items])
        return {"input_values": batch["input_values"], "lengths": lengths}


def _encoder_weights(model: Any) -> int:
    return count(model.feature_extractor, model.feature_projection, model.encoder)
