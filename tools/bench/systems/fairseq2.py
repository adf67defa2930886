"""fairseq2: its wav2vec 2.0 models (attention through SDPA) and its data pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import soundfile  # noqa: F401 - before fairseq2, which needs its libsndfile
import torch
from torch import Tensor, nn

from speechssl.frames import SAMPLE_RATE
from tools.bench.cases import VOCABULARY, Case, by_length, transcripts, waveforms
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
import soundfile
from fairseq2.models.transformer import TransformerNormOrder
from fairseq2.models.wav2vec2 import Wav2Vec2Config, create_wav2vec2_model
config = Wav2Vec2Config()
encoder = config.encoder_config
encoder.model_dim = encoder.feature_dim = 256
encoder.num_encoder_layers, encoder.num_encoder_attn_heads, encoder.ffn_inner_dim = 6, 4, 1024
encoder.feature_extractor_layer_descs = [(256, k, s) for _, k, s in
                                         encoder.feature_extractor_layer_descs]
encoder.pos_conv_kernel_size, encoder.norm_order = 32, TransformerNormOrder.PRE
create_wav2vec2_model(config)
"""


def _encoder_config(case: Case) -> Any:
    """The case's encoder as fairseq2 describes it."""
    from fairseq2.models.transformer import TransformerNormOrder
    from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig

    config = case.encoder
    pre = config.norm == "pre"
    return Wav2Vec2EncoderConfig(
        model_dim=config.dim,
        feature_dim=config.frontend.channels,
        first_pass_dropout_p=config.input_dropout,
        layer_norm_features=not pre,  # the norm after the position embedding
        feature_extractor_layer_descs=conv_layers(config.frontend.channels),
        feature_extractor_bias=config.frontend.bias,
        feature_extractor_layer_norm_convs=config.frontend.norm == "layer",
        feature_grad_scale=config.frontend_gradient,
        pos_conv_kernel_size=config.position_kernel,
        num_pos_conv_groups=config.position_groups,
        num_encoder_layers=config.layers,
        num_encoder_attn_heads=config.heads,
        ffn_inner_dim=config.ffn_dim,
        dropout_p=config.dropout,
        attn_dropout_p=config.attention_dropout,
        ffn_inner_dropout_p=config.activation_dropout,
        layer_drop_p=0.0,
        norm_order=TransformerNormOrder.PRE if pre else TransformerNormOrder.POST,
    )


def pretrain(setup: Setup) -> Work:
    """``Wav2Vec2Model`` with its own masks, distractors and loss."""
    from fairseq2.models.wav2vec2 import Wav2Vec2Config, create_wav2vec2_model
    from fairseq2.nn import BatchLayout

    assert setup.case.objective == "contrastive"
    model = create_wav2vec2_model(Wav2Vec2Config(encoder_config=_encoder_config(setup.case)))
    batch = torch.stack(waveforms(setup.case)).to(setup.device)
    layout = BatchLayout.of(batch)

    def run() -> Tensor:
        loss, output = model(batch, layout)
        return loss.aggregate / output.num_targets

    note = "Wav2Vec2Model, sdpa; compiles its quantizer itself"
    work = _work(run, note, model, model.encoder_frontend, model.encoder)
    return replace(work, compiles=True)


def finetune(setup: Setup) -> Work:
    """``Wav2Vec2AsrModel`` with its own masks and loss."""
    from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig
    from fairseq2.models.wav2vec2.asr.factory import create_wav2vec2_asr_model
    from fairseq2.nn import BatchLayout

    config = Wav2Vec2AsrConfig(
        encoder_config=_encoder_config(setup.case),
        target_vocab_size=VOCABULARY,
        final_dropout_p=0.1,
    )
    model = create_wav2vec2_asr_model(config)
    model.encoder_frontend.feature_extractor.requires_grad_(False)
    batch = torch.stack(waveforms(setup.case)).to(setup.device)
    tokens = transcripts(setup.case).to(setup.device)
    layout, token_layout = BatchLayout.of(batch), BatchLayout.of(tokens)

    def run() -> Tensor:
        loss: Tensor = model(batch, layout, tokens, token_layout)
        return loss / tokens.numel()

    note = "Wav2Vec2AsrModel, sdpa, convolutions frozen"
    return _work(run, note, model, model.encoder_frontend, model.encoder)


def inference(setup: Setup) -> Work:
    """Context vectors, files of similar length together."""
    from fairseq2.models.wav2vec2 import Wav2Vec2EncoderFactory
    from fairseq2.nn import BatchLayout

    factory = Wav2Vec2EncoderFactory(_encoder_config(setup.case))
    frontend, encoder = factory.create_encoder_frontend(), factory.create_encoder()
    recordings = waveforms(setup.case)
    lengths = [len(recording) for recording in recordings]
    seconds = BATCH_SECONDS[setup.device.type]
    batches = []
    for group in by_length(lengths, round(seconds * SAMPLE_RATE)):
        padded = nn.utils.rnn.pad_sequence([recordings[i] for i in group], batch_first=True)
        padded = padded.to(setup.device)
        batches.append((padded, BatchLayout.of(padded, [lengths[i] for i in group])))

    def run() -> None:
        for padded, layout in batches:
            encoder(*frontend(padded, layout))

    note = f"frontend and encoder, sdpa, batches of {seconds:g} s by length"
    return _work(run, note, nn.ModuleList([frontend, encoder]), frontend, encoder)


def loading(setup: Setup) -> Work:
    """The pipeline of fairseq2's speech recipes: shuffle, bucket by length, decode, collate."""
    from fairseq2.data.audio import AudioDecoder
    from fairseq2.data.data_pipeline import (
        CollateOptionsOverride,
        Collater,
        FileMapper,
        create_bucket_sizes,
        read_sequence,
    )

    entries = [
        {"audio": path, "samples": round(seconds * SAMPLE_RATE)}
        for path, seconds in corpus_files(setup.folder)
    ]
    longest = max(entry["samples"] for entry in entries)
    buckets = create_bucket_sizes(
        max_num_elements=longest * max(1, round(LOADING_SECONDS * SAMPLE_RATE / longest)),
        max_seq_len=longest,
        min_seq_len=min(entry["samples"] for entry in entries),
    )
    pad = CollateOptionsOverride("audio.data.waveform", pad_value=0)
    pipeline = (
        read_sequence(entries)
        .shuffle(0, seed=0)
        .bucket_by_length(buckets, selector="samples")
        .shuffle(0, seed=1)
        .map(FileMapper(), selector="[*].audio", num_parallel_calls=LOADING_WORKERS)
        .map(
            AudioDecoder(dtype=torch.float32),
            selector="[*].audio.data",
            num_parallel_calls=LOADING_WORKERS,
        )
        .map(Collater(overrides=[pad]), num_parallel_calls=LOADING_WORKERS)
        .prefetch(4)
        .and_return()
    )

    def run() -> float:
        sizes = []
        for batch in pipeline:
            waveform = batch["audio"]["data"]["waveform"]
            ragged = isinstance(waveform, dict)
            padded = waveform["seqs"] if ragged else waveform
            real = sum(waveform["seq_lens"]) if ragged else padded.numel()
            sizes.append((padded.numel(), int(real)))
        pipeline.reset()
        return padding_share(sizes)

    note = f"DataPipeline, {LOADING_WORKERS} parallel calls, bucket_by_length"
    return Work(run, note)


def _work(run: Callable[[], Any], note: str, model: Any, frontend: Any, encoder: Any) -> Work:
    return Work(run, note, [model], list(encoder.layers), count(frontend, encoder))
