"""The outputs of both sides for the probe recordings (see ``speechssl.interop.certificate``)."""

from __future__ import annotations

import importlib
import warnings
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
from speechssl.interop.conversion import Ours, outputs, pads, probe_note, real_frames
from speechssl.interop.transformers.layout import EXTRA
from speechssl.interop.transformers.preprocessor import find_preprocessor
from speechssl.models.ctc import CTCModel
from speechssl.objectives.base import Objective


def certify(ours: Ours, folder: Path, architecture: str) -> Certificate:
    """Compares our model with transformers' class ``architecture``, loaded from ``folder``, on the
    probe recordings.

    Raises ``CheckpointError`` where they disagree or transformers cannot load the folder.
    """
    try:
        library: Any = importlib.import_module("transformers")
    except ImportError:
        return unproven("transformers", EXTRA)
    batch = probe()
    with torch.random.fork_rng(devices=[]), torch.no_grad(), _quiet(library):
        torch.manual_seed(0)
        draws = ours.objective.draw(batch) if isinstance(ours.objective, Objective) else {}
        found = outputs(ours, batch, draws)
        model, extractor = _load_theirs(ours, library, folder, architecture)
        expected = _their_outputs(ours, model, extractor, batch, draws)
    note = probe_note(batch, "transformers", pads(ours.encoder.config))
    return compare(found, expected, f"transformers {library.__version__}", note)


def _their_outputs(
    ours: Ours, model: Any, extractor: Any, batch: SpeechBatch, draws: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The same from transformers; every recording goes through its feature extractor first."""
    rows = list(range(len(batch.lengths)))
    parts: dict[str, list[Tensor]] = {}
    losses = []
    for together in [rows] if pads(ours.encoder.config) else [[row] for row in rows]:
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
        if draws:
            mask = draws["mask"][together, : int(counts.max())]
            chosen = draws["mask"].nonzero()[:, 0]  # [M] recordings of the masked frames
            distractors = draws["distractors"][torch.isin(chosen, torch.tensor(together))]
            inputs["mask_time_indices"] = mask
            inputs["sampled_negative_indices"] = flat_distractors(mask, distractors)
        found = model(**inputs, output_hidden_states=True)
        for i, state in enumerate(found.hidden_states):
            parts.setdefault(f"layer {i}", []).append(real_frames(state, counts))
        if isinstance(ours.model, CTCModel):
            log_probs = found.logits.log_softmax(-1)[..., ours.order]
            parts.setdefault("log-probabilities", []).append(real_frames(log_probs, counts))
        if draws:
            losses.append(found.contrastive_loss)
    whole = {name: torch.cat(pieces) for name, pieces in parts.items()}
    if losses:
        whole["loss"] = torch.stack(losses).sum() / int(draws["mask"].sum())
    return whole


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


def _load_theirs(ours: Ours, library: Any, folder: Path, architecture: str) -> tuple[Any, Any]:
    """transformers' model and feature extractor of ``folder``."""
    kind = getattr(library, architecture)
    extractor = library.Wav2Vec2FeatureExtractor
    try:
        model, report = kind.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
        if find_preprocessor(folder) is not None:
            extract = extractor.from_pretrained(folder, local_files_only=True)
        else:
            extract = extractor(do_normalize=ours.encoder.config.frontend.normalize_waveform)
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
    if ours.objective is not None:
        model.config.apply_spec_augment = True  # without it, transformers ignores the mask
    return model.eval(), extract


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """transformers' warnings (such as that a mask embedding is new) would be in the way."""
    before = library.logging.get_verbosity()
    library.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        library.logging.set_verbosity(before)
