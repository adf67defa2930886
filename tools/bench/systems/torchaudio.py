"""torchaudio: its wav2vec 2.0 and HuBERT models (attention through SDPA)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.frames import SAMPLE_RATE, num_frames
from tools.bench.cases import CLUSTERS, VOCABULARY, Case, by_length, transcripts, waveforms
from tools.bench.systems import BATCH_SECONDS, Setup, Work, conv_layers, count

START_UP = """
from torchaudio.models import wav2vec2_model
layers = [(256, 10, 5)] + [(256, 3, 2)] * 4 + [(256, 2, 2)] * 2
wav2vec2_model("group_norm", layers, False, 256, 0.0, 32, 16, 6, 4, 0.0, 1024, 0.0, 0.1, True, 0.0,
               None)
"""


def _settings(case: Case) -> dict[str, Any]:
    """The case's encoder in the words of ``wav2vec2_model``."""
    config = case.encoder
    return {
        "extractor_mode": f"{config.frontend.norm}_norm",
        "extractor_conv_layer_config": conv_layers(config.frontend.channels),
        "extractor_conv_bias": config.frontend.bias,
        "encoder_embed_dim": config.dim,
        "encoder_projection_dropout": config.input_dropout,
        "encoder_pos_conv_kernel": config.position_kernel,
        "encoder_pos_conv_groups": config.position_groups,
        "encoder_num_layers": config.layers,
        "encoder_num_heads": config.heads,
        "encoder_attention_dropout": config.attention_dropout,
        "encoder_ff_interm_features": config.ffn_dim,
        "encoder_ff_interm_dropout": config.activation_dropout,
        "encoder_dropout": config.dropout,
        "encoder_layer_norm_first": config.norm == "pre",
        "encoder_layer_drop": 0.0,
    }


def pretrain(setup: Setup) -> Work:
    """``hubert_pretrain_model`` with the loss of torchaudio's HuBERT example; unmasked frames,
    whose weight is 0 there, are skipped."""
    from torchaudio.models import hubert_pretrain_model

    assert setup.case.objective == "clusters"
    gradient = setup.case.encoder.frontend_gradient
    model = hubert_pretrain_model(
        **_settings(setup.case),
        mask_prob=0.8,
        mask_selection="static",
        mask_other=0.0,
        mask_length=10,
        no_mask_overlap=False,
        mask_min_space=1,
        mask_channel_prob=0.0,
        mask_channel_selection="static",
        mask_channel_other=0.0,
        mask_channel_length=10,
        no_mask_channel_overlap=False,
        mask_channel_min_space=1,
        skip_masked=False,
        skip_nomask=True,
        num_classes=CLUSTERS,
        final_dim=256,
        feature_grad_mult=gradient if gradient < 1 else None,
    )
    batch, lengths = _batch(setup)
    shape = (len(batch), num_frames(batch.shape[1]))
    targets = torch.randint(CLUSTERS, shape, device=setup.device)

    def run() -> Tensor:
        logits, _, penalty = model(batch, targets, lengths)
        answers = logits.new_zeros(len(logits), dtype=torch.int64)  # the true one is the first
        return F.cross_entropy(logits.float(), answers) + 10.0 * penalty

    return _work(run, "hubert_pretrain_model, skip_nomask", model, model.wav2vec2)


def finetune(setup: Setup) -> Work:
    """``wav2vec2_model`` with a linear output and ``ctc_loss``; it has no masks."""
    from torchaudio.models import wav2vec2_model

    model = wav2vec2_model(**_settings(setup.case), aux_num_out=VOCABULARY)
    model.feature_extractor.requires_grad_(False)
    batch, lengths = _batch(setup)
    tokens = transcripts(setup.case).to(setup.device)
    token_lengths = torch.full((len(tokens),), tokens.shape[1], device=setup.device)

    def run() -> Tensor:
        logits, frames = model(batch, lengths)
        log_probs = logits.float().log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(log_probs, tokens, frames, token_lengths, zero_infinity=True)

    note = "wav2vec2_model, convolutions frozen, no masks"
    return _work(run, note, model, model)


def inference(setup: Setup) -> Work:
    """Context vectors, files of similar length together."""
    from torchaudio.models import wav2vec2_model

    model = wav2vec2_model(**_settings(setup.case), aux_num_out=None)
    recordings = waveforms(setup.case)
    lengths = [len(recording) for recording in recordings]
    seconds = BATCH_SECONDS[setup.device.type]
    batches = []
    for group in by_length(lengths, round(seconds * SAMPLE_RATE)):
        padded = nn.utils.rnn.pad_sequence([recordings[i] for i in group], batch_first=True)
        sizes = torch.tensor([lengths[i] for i in group])
        batches.append((padded.to(setup.device), sizes.to(setup.device)))

    def run() -> None:
        for padded, sizes in batches:
            model(padded, sizes)

    note = f"wav2vec2_model, batches of {seconds:g} s by length"
    return _work(run, note, model, model)


def _batch(setup: Setup) -> tuple[Tensor, Tensor]:
    batch = torch.stack(waveforms(setup.case)).to(setup.device)
    return batch, torch.full((len(batch),), batch.shape[1], device=setup.device)


def _work(run: Callable[[], Any], note: str, model: nn.Module, wav2vec2: Any) -> Work:
    layers = list(wav2vec2.encoder.transformer.layers)
    return Work(run, note, [model], layers, count(wav2vec2.feature_extractor, wav2vec2.encoder))
