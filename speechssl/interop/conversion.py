"""What conversions from and to any project share.

A project gives names: for each tensor of ours the name that it has there, or "" where it has none.
Tensors of ours with one name there are parts of one tensor, one behind the other. Some also change
their form (``their_form``): codebooks, gates, and the rows of a CTC head, which stand in the order
of the vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from speechssl.config import build, dotted, to_dict
from speechssl.data.batch import SpeechBatch
from speechssl.data.text import BLANK_SYMBOL, SEPARATOR, Tokens
from speechssl.errors import CheckpointError, ModelFolderError, TokensError
from speechssl.frames import SAMPLE_RATE, num_frames
from speechssl.interop.weights import REMEDY
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.models.folder import LoadedModel, load_model_folder, load_objective_weights
from speechssl.objectives import load_objective
from speechssl.objectives.base import Objective

CODEBOOKS = "objective.quantizer.codebooks"
MASK = "encoder.mask_embedding"

LOSSES = ("loss_contrastive", "loss_masked")
"""Metrics of objectives that other projects call their loss."""

Renames = tuple[tuple[str, str], ...]
"""(pattern of our names, their name): what ``re.sub`` takes."""


@dataclass
class Ours:
    """A model on our side, perhaps still without values, and all that travels with it."""

    model: Encoder | CTCModel
    objective: Objective | nn.ParameterDict | None = None
    """What predicts in pretraining; a recogniser may have kept some of its parameters."""
    tokens: Tokens | None = None
    order: list[int] | None = None
    """ctc: ``order[i]`` is the row of token i in the other project's head."""

    @property
    def encoder(self) -> Encoder:
        return self.model.encoder if isinstance(self.model, CTCModel) else self.model

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by the names that they have in a model folder."""
        prefix = "" if isinstance(self.model, CTCModel) else "encoder."
        named = {prefix + name: value for name, value in self.model.state_dict().items()}
        if self.objective is not None:
            heads = self.objective.state_dict()
            named |= {f"objective.{name}": value for name, value in heads.items()}
        return named

    def fill(self, values: Mapping[str, Tensor]) -> None:
        """Puts in tensors of the names of ``tensors``; none may be missing."""
        prefix = "" if isinstance(self.model, CTCModel) else "encoder."
        model, objective = {}, {}
        for name, value in values.items():
            if name.startswith("objective."):
                objective[name.removeprefix("objective.")] = value
            else:
                model[name.removeprefix(prefix)] = value
        self.model.load_state_dict(model, assign=True)
        if self.objective is not None:
            self.objective.load_state_dict(objective, assign=True)


def load_ours(
    model_dir: Path, kinds: Iterable[str], library: str
) -> tuple[LoadedModel, Ours, list[str]]:
    """The model folder, its model, and notes; the objective's heads where it is one of ``kinds``.

    Raises ``ModelFolderError`` where the folder is not sound, and ``CheckpointError`` where its
    tokens are not characters.
    """
    loaded = load_model_folder(model_dir)
    if loaded.tokens is not None and loaded.tokens.units != "characters":
        raise CheckpointError(
            f"{model_dir}: writes {loaded.tokens.units}, and {library}'s files hold only models "
            "that write characters; fine-tune with finetune.tokens=characters to export."
        )
    weights = load_objective_weights(model_dir)
    ours = Ours(loaded.model, tokens=loaded.tokens)
    if loaded.kind == "ctc" and weights:
        ours.objective = nn.ParameterDict(weights)
    if loaded.kind == "ctc" or not weights:
        return loaded, ours, []
    recipe = loaded.info.get("recipe")
    settings = dict(recipe.get("objective") or {}) if isinstance(recipe, dict) else {}
    kind = str(settings.pop("kind", "unknown"))
    if kind not in kinds:
        note = f"{library} has no model that pretrains with objective {kind!r}: its heads stay"
        return loaded, ours, [note]
    objective = load_objective(kind)
    config = build(objective.Config, settings, f"{model_dir}: objective")
    clusters = weights.get("cluster_embeddings")
    ours.objective = objective(
        config, ours.encoder.config, None if clusters is None else len(clusters)
    ).eval()
    try:
        ours.objective.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        problem = " ".join(str(error).split())
        raise ModelFolderError(
            f"{model_dir}: the objective's weights do not fit its settings ({problem}); export the "
            "model again."
        ) from None
    return loaded, ours, []


def rename(name: str, renames: Renames) -> str:
    """Their name of our tensor ``name``; the first pattern that fits its beginning holds."""
    for pattern, theirs in renames:
        renamed, count = re.subn(f"^{pattern}", theirs, name)
        if count:
            return renamed
    raise AssertionError(f"{name} has no counterpart")


def to_theirs(ours: Ours, renames: Renames) -> dict[str, Tensor]:
    """All tensors by their names and in their form."""
    tensors = ours.tensors()
    whole = {}
    for theirs, names in _parts(tensors, renames).items():
        forms = [their_form(name, tensors[name], ours.order) for name in names]
        whole[theirs] = torch.cat(forms) if len(forms) > 1 else forms[0]
    return whole


def fill_from_theirs(
    ours: Ours, renames: Renames, given: Mapping[str, Tensor], where: str, settings: str
) -> list[str]:
    """Moves the tensors ``given`` by their names into ``ours``; returns what the user should know.

    ``where`` is the file they are from, ``settings`` what says how they are shaped. A mask
    embedding may be missing where there is no objective; a new one is drawn. Raises
    ``CheckpointError`` for another tensor that is missing, of another shape, or left over.
    """
    outlines, expected, left = ours.tensors(), to_theirs(ours, renames), dict(given)
    values = {}
    for theirs, names in _parts(outlines, renames).items():
        if theirs not in left and names == [MASK] and ours.objective is None:
            continue
        if theirs not in left:
            raise CheckpointError(f"{where}: tensor {theirs!r} is missing; {REMEDY}.")
        value, shape = left.pop(theirs), expected[theirs].shape
        if value.shape != shape:
            raise CheckpointError(
                f"{where}: tensor {theirs!r} has shape {list(value.shape)}, but {settings} ask for "
                f"{list(shape)}; weights and settings must belong together."
            )
        rows = [len(outlines[name]) for name in names]
        parts = torch.split(value, rows) if len(names) > 1 else [value]
        for name, part in zip(names, parts):
            values[name] = our_form(name, part, outlines[name].shape, ours.order)
    if left:
        raise CheckpointError(
            f"{where}: tensor {min(left)!r} has no counterpart in a model of these settings."
        )
    notes = []
    if MASK not in values:
        generator = torch.Generator().manual_seed(0)
        values[MASK] = torch.rand(outlines[MASK].shape, generator=generator)
        notes.append("the checkpoint has no mask embedding: drew a new one")
    ours.fill(values)
    return notes


def _parts(tensors: Iterable[str], renames: Renames) -> dict[str, list[str]]:
    """For each tensor of theirs, the names of ours that it holds."""
    parts: dict[str, list[str]] = {}
    for name in tensors:
        theirs = rename(name, renames)
        if theirs:
            parts.setdefault(theirs, []).append(name)
    return parts


def their_form(name: str, value: Tensor, order: list[int] | None) -> Tensor:
    """Our tensor as other projects keep it: codebooks [G, V, E / G] -> [1, G V, E / G], scales of
    WavLM's gates [H] -> [1, H, 1, 1], and the rows of the CTC head in the order of their
    vocabulary."""
    if name == CODEBOOKS:
        return value.reshape(1, -1, value.shape[-1])
    if name.endswith(".gate.scale"):
        return value.reshape(1, -1, 1, 1)
    if name.startswith("head.") and order is not None:
        return value[torch.tensor(order, device=value.device).argsort()]
    return value


def our_form(name: str, value: Tensor, shape: torch.Size, order: list[int] | None) -> Tensor:
    """The inverse of ``their_form``; ``shape`` is that of our tensor."""
    if name.startswith("head.") and order is not None:
        return value[order]
    return value.reshape(shape)


def outputs(ours: Ours, batch: SpeechBatch, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What our side computes of a batch, by name, each over the real frames of all recordings.

    The hidden states, for a recogniser the log-probabilities; where there are ``draws`` of the
    objective, the input is masked as they say and its loss is computed too.
    """
    encoder, counts = ours.encoder, num_frames(batch.lengths)
    inputs = encoder.project(encoder.normalize(encoder.extract(batch.waveforms, batch.lengths)))
    if draws:
        inputs = encoder.apply_mask(inputs, draws["mask"])
    context, states = encoder.contextualize(inputs, counts, layers=True)
    found = {f"layer {i}": real_frames(state, counts) for i, state in enumerate(states)}
    if isinstance(ours.model, CTCModel):
        found["log-probabilities"] = real_frames(ours.model.log_probs(context), counts)
    if draws and isinstance(ours.objective, Objective):
        metrics = ours.objective.loss(encoder, batch, **draws).metrics
        total, count = next(metrics[name] for name in LOSSES if name in metrics)
        found["loss"] = torch.as_tensor(total / count)
    return found


def real_frames(values: Tensor, counts: Tensor) -> Tensor:
    """The real frames of all recordings. [B, T, D], [B] -> [sum of counts, D]."""
    return torch.cat([row[:count] for row, count in zip(values, counts.tolist())])


def pads(config: EncoderConfig) -> bool:
    """Whether in other projects a recording's outputs do not depend on its padding.

    There they do at two places, and nowhere else: group norm takes mean and variance of the padded
    waveform, and each convolution of a position stack sees what the one before gave behind a
    recording's end (its last (layers - 1) * (kernel // 2) frames in the transformer's input, from
    where attention carries it everywhere). Here padding changes nothing, as if each recording was
    alone; that is what the certificate compares.
    """
    return config.frontend.norm == "layer" and config.position_layers == 1


def probe_note(batch: SpeechBatch, library: str, padded: bool) -> str:
    """What was compared, for the certificate; ``padded``: in the other library too."""
    seconds = " s and ".join(f"{int(length) / SAMPLE_RATE:.2f}" for length in batch.lengths)
    note = f"recordings of {seconds} s, one padded batch"
    if not padded:
        note += f"; in {library} one by one, because there padding changes the outputs"
    return note


def alone(batch: SpeechBatch, row: int) -> tuple[Tensor, Tensor]:
    """One recording of a batch without its padding: waveform [1, S], length [1]."""
    length = batch.lengths[row]
    return batch.waveforms[row : row + 1, :length], length[None]


def character_tokens(characters: Iterable[str], where: Path | str) -> Tokens:
    """Tokens that write ``characters``, another project's symbols without its blank and space.

    Where all letters are capitals, as in many published recognisers, the tokens write small ones:
    normalised transcripts have no others, and errors are counted against those. Raises
    ``CheckpointError`` where the symbols are anything but characters; ``where`` is what holds them.
    """
    try:
        tokens = Tokens([BLANK_SYMBOL, SEPARATOR, *characters])
    except TokensError as error:
        problem = str(error).removeprefix("not a token list: ").rstrip(".")
        problem = re.sub(r"^line \d+", "a symbol", problem)
        raise CheckpointError(
            f"{where}: {problem}; such vocabularies have no counterpart here."
        ) from None
    small = [symbol.lower() for symbol in tokens.symbols]
    letters = "".join(symbol for symbol in tokens.symbols if len(symbol) == 1)  # not "<unk>"
    same_lengths = [len(symbol) for symbol in small] == [len(symbol) for symbol in tokens.symbols]
    return Tokens(small) if letters.isupper() and same_lengths else tokens


def require_counterpart(
    loaded: LoadedModel, again: EncoderConfig, library: str, ignored: Iterable[str] = ()
) -> None:
    """Raises ``CheckpointError`` naming the setting in which the model differs from ``again``, what
    its settings become after a journey to the other library; ``ignored`` do not matter there."""
    encoder = loaded.model.encoder if isinstance(loaded.model, CTCModel) else loaded.model
    wanted = dict(dotted(to_dict(encoder.config)))
    for name, value in dotted(to_dict(again)):
        if name not in ignored and wanted[name] != value:
            raise CheckpointError(
                f"{loaded.path}: the encoder's {name} is {wanted[name]!r}, which {library} does "
                f"not have (only {value!r})."
            )
