"""The outputs of both sides for the probe recordings (see ``speechssl.interop.certificate``)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl.data.batch import SpeechBatch
from speechssl.errors import CheckpointError
from speechssl.frames import SAMPLE_RATE, num_frames
from speechssl.interop.certificate import Certificate, compare, probe, unproven
from speechssl.interop.transformers.layout import EXTRA, PREPROCESSOR, Converted
from speechssl.models.ctc import CTCModel


def certify(converted: Converted, folder: Path) -> Certificate:
    """Compares our model with transformers' of the same ``folder`` on the probe recordings.

    Raises ``CheckpointError`` where they disagree or transformers cannot load the folder.
    """
    try:
        library: Any = importlib.import_module("transformers")
    except ImportError:
        return unproven("transformers", EXTRA)
    batch = probe()
    with torch.random.fork_rng(devices=[]), torch.no_grad(), _quiet(library):
        torch.manual_seed(0)
        draws = {} if converted.objective is None else converted.objective.draw(batch)
        ours = _our_outputs(converted, batch, draws)
        theirs = _their_outputs(converted, library, folder, batch, draws)
    seconds = " s and ".join(f"{int(length) / SAMPLE_RATE:.2f}" for length in batch.lengths)
    note = f"recordings of {seconds} s, one padded batch"
    if not _pads(converted):
        note += (
            "; in transformers one by one, because its group norm lets padding change the outputs"
        )
    return compare(ours, theirs, f"transformers {library.__version__}", note)


def _our_outputs(
    converted: Converted, batch: SpeechBatch, draws: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Outputs by name, each over the real frames of all recordings."""
    encoder, objective = converted.encoder, converted.objective
    counts = num_frames(batch.lengths)
    inputs = encoder.project(encoder.normalize(encoder.extract(batch.waveforms, batch.lengths)))
    if objective is not None:
        inputs = encoder.apply_mask(inputs, draws["mask"])
    context, states = encoder.contextualize(inputs, counts, layers=True)
    outputs = {f"layer {i}": _joined(state, counts) for i, state in enumerate(states)}
    if isinstance(converted.model, CTCModel):
        outputs["log-probabilities"] = _joined(converted.model.log_probs(context), counts)
    if objective is not None:
        total, count = objective.loss(encoder, batch, **draws).metrics["loss_contrastive"]
        outputs["loss"] = torch.as_tensor(total / count)
    return outputs


def _their_outputs(
    converted: Converted,
    library: Any,
    folder: Path,
    batch: SpeechBatch,
    draws: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """The same from transformers; every recording goes through its feature extractor first."""
    model, extractor = _load_theirs(converted, library, folder)
    rows = list(range(len(batch.lengths)))
    outputs: dict[str, list[Tensor]] = {}
    losses = []
    for together in [rows] if _pads(converted) else [[row] for row in rows]:
        waveforms = [batch.waveforms[row, : batch.lengths[row]].numpy() for row in together]
        inputs = dict(
            extractor(
                waveforms,
                sampling_rate=SAMPLE_RATE,
                padding=True,
                return_attention_mask=True,
                return_tensors="pt",
            )
        )
        counts = num_frames(batch.lengths[together])
        if converted.objective is not None:
            mask = draws["mask"][together, : int(counts.max())]
            chosen = draws["mask"].nonzero()[:, 0]  # [M] recordings of the masked frames
            distractors = draws["distractors"][torch.isin(chosen, torch.tensor(together))]
            inputs["mask_time_indices"] = mask
            inputs["sampled_negative_indices"] = flat_distractors(mask, distractors)
        found = model(**inputs, output_hidden_states=True)
        for i, state in enumerate(found.hidden_states):
            outputs.setdefault(f"layer {i}", []).append(_joined(state, counts))
        if isinstance(converted.model, CTCModel):
            log_probs = found.logits.log_softmax(-1)[..., converted.order]
            outputs.setdefault("log-probabilities", []).append(_joined(log_probs, counts))
        if converted.objective is not None:
            losses.append(found.contrastive_loss)
    joined = {name: torch.cat(parts) for name, parts in outputs.items()}
    if losses:
        joined["loss"] = torch.stack(losses).sum() / int(draws["mask"].sum())
    return joined


def flat_distractors(mask: Tensor, distractors: Tensor) -> Tensor:
    """mask [B, T], our distractors [M, N] -> transformers' [B, T, N].

    Ours count the masked frames of a recording, theirs the frames of [B * T].
    """
    width = mask.shape[1]
    flat = torch.zeros(*mask.shape, distractors.shape[1], dtype=torch.long)
    shares = distractors.split(mask.sum(dim=1).tolist())  # type: ignore[no-untyped-call]
    for row, own in enumerate(shares):
        frames = mask[row].nonzero()[:, 0]
        flat[row, frames] = row * width + frames[own]
    return flat


def _load_theirs(converted: Converted, library: Any, folder: Path) -> tuple[Any, Any]:
    """transformers' model and feature extractor of ``folder``."""
    kind = getattr(library, converted.architecture)
    extractor = library.Wav2Vec2FeatureExtractor
    try:
        model, report = kind.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
        if (folder / PREPROCESSOR).is_file():
            extract = extractor.from_pretrained(folder, local_files_only=True)
        else:
            extract = extractor(do_normalize=converted.encoder.config.frontend.normalize_waveform)
    except Exception as error:  # whatever it may raise, the checkpoint is not proven
        problem = " ".join(str(error).split())[:200].rstrip(". ")
        raise CheckpointError(
            f"{folder}: transformers {library.__version__} cannot load it ({problem})."
        ) from None
    unused = [*report["missing_keys"], *report["unexpected_keys"]]
    wrong = sorted(name for name in unused if not name.endswith("masked_spec_embed"))
    if wrong:
        raise CheckpointError(
            f"{folder}: transformers {library.__version__} does not find or use tensor "
            f"{wrong[0]!r}; nothing was written, please report this checkpoint."
        )
    if converted.objective is not None:
        model.config.apply_spec_augment = True  # without it, transformers ignores the mask
    return model.eval(), extract


def _pads(converted: Converted) -> bool:
    """Whether transformers' outputs for a recording do not depend on its padding."""
    return converted.encoder.config.frontend.norm == "layer"


def _joined(values: Tensor, counts: Tensor) -> Tensor:
    """The real frames of all recordings. [B, T, D], [B] -> [sum of counts, D]."""
    return torch.cat([row[:count] for row, count in zip(values, counts.tolist())])


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """transformers' warnings (such as that a mask embedding is new) would be in the way."""
    before = library.logging.get_verbosity()
    library.logging.set_verbosity_error()
    try:
        yield
    finally:
        library.logging.set_verbosity(before)
