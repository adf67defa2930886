"""Both sides compute the same recordings (see ``speechssl.interop.certificate``).

The other side is torchaudio's network of the same form, filled by torchaudio's own table of
fairseq's names: fairseq itself cannot be installed beside today's torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import torchaudio
from torch import Tensor
from torchaudio.models.wav2vec2.utils import import_fairseq

from speechssl.interop.certificate import Certificate, compare, probe
from speechssl.interop.conversion import Ours, alone, outputs
from speechssl.interop.fairseq.layout import Settings, parse_convolutions
from speechssl.models.ctc import CTCModel
from speechssl.models.frontend import normalize_waveforms
from speechssl.objectives.base import Objective


@torch.no_grad()
def certify(ours: Ours, settings: Settings, tensors: Mapping[str, Tensor]) -> Certificate:
    """Compares our model with torchaudio's of the same checkpoint, on the probe recordings.

    ``tensors`` are the checkpoint's, by fairseq's names. Raises ``CheckpointError`` where the
    outputs differ.
    """
    model, batch = _torchaudio_model(ours, settings, tensors), probe()
    found = outputs(ours, batch, {})
    if len(ours.encoder.layers):
        del found["layer 0"]  # which torchaudio does not give
    theirs: dict[str, list[Tensor]] = {name: [] for name in found}
    head, model.aux = model.aux, None
    for row in range(len(batch.lengths)):
        waveform, length = alone(batch, row)
        if ours.encoder.config.frontend.normalize_waveform:
            waveform = normalize_waveforms(waveform, length)
        states, _ = model.extract_features(waveform)
        context, _ = model(waveform)  # the last state, behind the norm that there may be
        for name, state in zip(found, [*states[:-1], context]):
            theirs[name].append(state[0])
        if head is not None:
            log_probs = head(context[0]).log_softmax(-1)
            theirs["log-probabilities"].append(log_probs[:, ours.order])
    library = f"torchaudio {torchaudio.__version__}'s form of fairseq's network"
    note = "the probe recordings, padded on our side, one by one on the other"
    if isinstance(ours.objective, Objective):
        note += "; the heads of pretraining, which its form does not have, were not compared"
    return compare(found, {name: torch.cat(parts) for name, parts in theirs.items()}, library, note)


def _torchaudio_model(ours: Ours, settings: Settings, tensors: Mapping[str, Tensor]) -> Any:
    layer_norm = settings.extractor_mode == "layer_norm"
    ctc = isinstance(ours.model, CTCModel)
    build, more = torchaudio.models.wav2vec2_model, {}
    if ours.encoder.relative is not None:
        build = torchaudio.models.wavlm_model
        more["encoder_num_buckets"] = settings.num_buckets
        more["encoder_max_distance"] = settings.max_distance
    with torch.device("meta"):  # no initial weights are drawn
        model = build(
            extractor_mode="layer_norm" if layer_norm else "group_norm",
            extractor_conv_layer_config=parse_convolutions(settings.conv_feature_layers),
            extractor_conv_bias=settings.conv_bias,
            encoder_embed_dim=settings.encoder_embed_dim,
            encoder_projection_dropout=0.0,
            encoder_pos_conv_kernel=settings.conv_pos,
            encoder_pos_conv_groups=settings.conv_pos_groups,
            encoder_num_layers=settings.encoder_layers,
            encoder_num_heads=settings.encoder_attention_heads,
            encoder_attention_dropout=0.0,
            encoder_ff_interm_features=settings.encoder_ffn_embed_dim,
            encoder_ff_interm_dropout=0.0,
            encoder_dropout=0.0,
            encoder_layer_norm_first=settings.layer_norm_first,
            encoder_layer_drop=0.0,
            aux_num_out=ours.model.vocabulary_size if ctc else None,
            **more,
        )
    named = {name.removeprefix("w2v_encoder."): value for name, value in tensors.items()}
    gates = {name: named.pop(name) for name in list(named) if _WAVLM.match(name)}
    converted = import_fairseq._convert_state_dict(named)
    converted.pop("label_embs_concat", None)
    if gates:
        converted = _wavlm_form(converted, gates)
    model.load_state_dict(converted, assign=True)
    return model.eval()


_WAVLM = re.compile(
    r"encoder\.layers\.(\d+)\.self_attn\.(grep_a|grep_linear|relative_attention_bias)(.*)"
)
"""The tensors of WavLM that torchaudio's table of fairseq's names does not have."""

_WAVLM_NAMES = {
    "grep_a": "gru_rel_pos_const",
    "grep_linear": "gru_rel_pos_linear",
    "relative_attention_bias": "rel_attn_embed",
}


def _wavlm_form(converted: dict[str, Tensor], gates: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of torchaudio's WavLM: those of a wav2vec 2.0, in which each attention is another
    module with queries, keys and values in one, and ``gates``, which have WavLM's own names."""
    whole: dict[str, Tensor] = {}
    for name, value in converted.items():
        place, found, part = name.partition(".attention.")
        if not found:
            whole[name] = value
        elif part.startswith("out_proj."):
            whole[f"{place}.attention.attention.{part}"] = value
        elif part.startswith("q_proj."):
            kind = part.removeprefix("q_proj.")
            parts = [converted[f"{place}.attention.{letter}_proj.{kind}"] for letter in "qkv"]
            whole[f"{place}.attention.attention.in_proj_{kind}"] = torch.cat(parts)
    for name, value in gates.items():
        layer, theirs, rest = _WAVLM.findall(name)[0]
        attention = f"encoder.transformer.layers.{layer}.attention."
        whole[f"{attention}{_WAVLM_NAMES[theirs]}{rest}"] = value
    return whole
