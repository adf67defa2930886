"""Both sides compute the same recordings (see ``speechssl.interop.certificate``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fairseq2
import torch
from fairseq2.models.wav2vec2 import create_wav2vec2_model
from fairseq2.models.wav2vec2.asr import create_wav2vec2_asr_model
from fairseq2.nn import BatchLayout
from torch import Tensor

from speechssl.interop.certificate import Certificate, compare, probe
from speechssl.interop.conversion import Ours, alone, outputs
from speechssl.interop.fairseq2.cards import Config
from speechssl.models.ctc import CTCModel
from speechssl.models.frontend import normalize_waveforms
from speechssl.objectives.base import Objective


@torch.no_grad()
def certify(ours: Ours, config: Config, tensors: Mapping[str, Tensor]) -> Certificate:
    """Compares our model with fairseq2's of the same ``tensors``, on the probe recordings.

    Raises ``CheckpointError`` where the outputs differ.
    """
    create: Any = create_wav2vec2_asr_model if ctc(ours) else create_wav2vec2_model
    batch = probe()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draws = ours.objective.draw(batch) if isinstance(ours.objective, Objective) else {}
    with torch.device("meta"):  # no initial weights are drawn
        model = create(config).eval()
    model.load_state_dict(tensors, assign=True)
    found = outputs(ours, batch, draws)
    theirs: dict[str, list[Tensor]] = {}
    losses = []
    for row in range(len(batch.lengths)):
        waveform, length = alone(batch, row)
        if ours.encoder.config.frontend.normalize_waveform:
            waveform = normalize_waveforms(waveform, length)
        own = {}
        if draws:
            frames = model.encoder_frontend.extract_features(waveform, BatchLayout.of(waveform))
            chosen = draws["mask"].nonzero()[:, 0] == row
            own = {
                "mask": draws["mask"][row : row + 1, : frames[0].shape[1]],
                "distractors": draws["distractors"][chosen],
            }
        rows, loss = their_outputs(model, waveform, BatchLayout.of(waveform), own)
        for name, values in rows.items():
            theirs.setdefault(name, []).append(values[0])
        losses.append(loss)
    joined = {name: torch.cat(parts) for name, parts in theirs.items()}
    if ctc(ours):
        joined["log-probabilities"] = joined["log-probabilities"][:, ours.order]
    if draws:
        joined["loss"] = torch.stack(losses).sum() / int(draws["mask"].sum())
    library = f"fairseq2 {fairseq2.__version__}"
    note = "the probe recordings, padded on our side, one by one on the other"
    return compare(found, joined, library, note)


def their_outputs(
    model: Any, waveforms: Tensor, layout: BatchLayout, draws: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Tensor]:
    """fairseq2's hidden states [B, T, D] and log-probabilities [B, T, V] by name, and the summed
    contrastive loss, 0 where there are no ``draws``.

    With ``draws`` (``mask`` [1, T], ``distractors`` [M, N] counted among the masked frames) it is
    for a single recording, and its input is masked.
    """
    states: dict[str, Tensor] = {}
    loss = waveforms.new_zeros(())
    frontend = model.encoder_frontend

    def keep(index: int, seqs: Tensor, layout: BatchLayout, count: int) -> bool:
        states[f"layer {index + 1}"] = seqs
        return True

    seqs, layout, _ = frontend.extract_features(waveforms, layout)
    targets = seqs
    if draws:
        model.masker.mask_factory = lambda **_: draws["mask"]
    seqs, _ = frontend.process_features(seqs, layout, model.masker if draws else None)
    states["layer 0"] = seqs
    with model.encoder.register_layer_hook(keep):
        context = model.encoder(seqs, layout)
    states[f"layer {len(model.encoder.layers)}"] = context
    if not hasattr(model, "quantizer"):
        states["log-probabilities"] = model.final_proj(context).log_softmax(-1)
    elif draws:
        masked = targets[draws["mask"]][None]
        with torch.compiler.set_stance("force_eager"):  # it compiles a sum
            codewords = model.quantizer(masked).quantized_vectors
        answers = model.final_target_proj(codewords)  # [1, M, Q]
        distractors = answers[0][draws["distractors"]][None]  # [1, M, N, Q]
        predictions = model.final_proj(context[draws["mask"]])[None]
        logits = model._compute_logits(predictions, answers, distractors)
        loss = model.compute_contrastive_loss(logits)
    return states, loss


def ctc(ours: Ours) -> bool:
    return isinstance(ours.model, CTCModel)
