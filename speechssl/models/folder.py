"""A trained model as a folder: weights that cannot carry code, and readable configuration.

``model.safetensors``
    the weights; names start with ``encoder.``, ``head.`` or ``objective.``
``config.yaml``
    ``format`` (of the folder), ``kind`` (encoder or ctc), ``encoder`` (its configuration),
    ``vocabulary_size`` (ctc), ``info`` (whatever the maker wants to remember)
``tokens.txt``
    ctc: one token per line, the CTC blank first; behind it "bpe" or "phones" if they are not
    characters

What else the folder holds is for people and other programs (an import's ``certificate.json``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from speechssl.config import build, merge, read_yaml, to_dict, write_yaml
from speechssl.errors import ConfigError, ModelFolderError
from speechssl.files import atomic_folder, atomic_path, require_replaceable, write_text
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder, EncoderConfig

if TYPE_CHECKING:
    from speechssl.data.text import Tokens

FORMAT = 1
"""The version of the layout described above."""

FAR_LARGER = 20
"""A model of up to so many times the numbers in its file is built, to say which weight does not
fit: before they are filled, weights take no memory."""

WEIGHTS, CONFIG, TOKENS = "model.safetensors", "config.yaml", "tokens.txt"


@dataclass
class LoadedModel:
    """What a model folder holds."""

    kind: Literal["encoder", "ctc"]
    model: Encoder | CTCModel
    """In evaluation mode, on the CPU."""
    tokens: Tokens | None
    info: dict[str, Any]
    path: Path


@dataclass(frozen=True)
class _FolderConfig:
    """config.yaml."""

    format: int
    kind: Literal["encoder", "ctc"]
    encoder: EncoderConfig
    vocabulary_size: int | None = None
    info: dict[str, Any] | None = None


def save_model_folder(
    path: Path | str,
    model: Encoder | CTCModel,
    *,
    tokens: Tokens | None = None,
    objective: Mapping[str, Tensor] | None = None,
    info: Mapping[str, Any] | None = None,
    extra_files: Mapping[str, str] | None = None,
) -> None:
    """Writes ``model`` to the folder ``path``, replacing the model that may be there.

    ``tokens`` belong to a CTC model; ``objective`` are weights that only pretraining needs;
    ``info`` holds plain YAML values; ``extra_files`` are texts by their path in the folder. The
    folder appears whole or not at all. Raises ``RunFolderError`` when ``path`` exists and is
    neither a model folder nor an empty one.
    """
    path = Path(path)
    require_replaceable(path, "a model folder", is_model_folder(path))
    with atomic_folder(path) as fresh:
        with atomic_path(fresh / WEIGHTS) as file:  # safetensors lets only the owner read
            save_file(_weights(model, objective or {}), file)
        config = _config(model, dict(info or {}))
        (fresh / CONFIG).write_text(write_yaml(config), encoding="utf-8")
        if tokens is not None:
            tokens.save(fresh / TOKENS)
        for name, text in (extra_files or {}).items():
            write_text(fresh / name, text)


def load_model_folder(path: Path | str, *, encoder: Mapping[str, Any] | None = None) -> LoadedModel:
    """The model in the folder ``path``, in evaluation mode.

    ``encoder`` changes settings of the encoder that do not change its shape, e.g.
    ``{"dropout": 0.0}``. Executes nothing from the folder. Raises ``ModelFolderError`` when a
    file is missing, is not what its name says, or the weights do not fit the configuration, and
    ``TokensError`` when tokens.txt is malformed.
    """
    path = Path(path)
    config = _read_config(path, encoder or {})
    weights = _read_weights(path / WEIGHTS)
    held = sum(weight.numel() for weight in weights.values())
    try:
        with _Unfilled(FAR_LARGER * held):
            body = Encoder(config.encoder)
            ctc = config.kind == "ctc"
            model = CTCModel(body, config.vocabulary_size or 0) if ctc else body
    except _TooManyError:
        raise ModelFolderError(
            f"{path / CONFIG}: asks for a far larger model than that of the {held:,} numbers in "
            f"{WEIGHTS}; both must come from the same export."
        ) from None
    _fill(model, weights, path / WEIGHTS)
    tokens = None if config.kind == "encoder" else _read_tokens(path, config.vocabulary_size)
    return LoadedModel(config.kind, model.eval(), tokens, config.info or {}, path)


def load_encoder(path: Path | str, *, encoder: Mapping[str, Any] | None = None) -> Encoder:
    """The encoder of any model folder (of a CTC model, the one inside). See
    ``load_model_folder`` for ``encoder`` and the errors."""
    model = load_model_folder(path, encoder=encoder).model
    return model.encoder if isinstance(model, CTCModel) else model


def load_ctc(path: Path | str) -> tuple[CTCModel, Tokens]:
    """The recogniser in a model folder and its tokens. Raises ``ModelFolderError`` when the
    folder holds no recogniser, and as ``load_model_folder`` does."""
    loaded = load_model_folder(path)
    if not isinstance(loaded.model, CTCModel) or loaded.tokens is None:
        raise ModelFolderError(
            f"{path}: holds a pretrained encoder, not a recogniser; "
            "fine-tune it first (speechssl finetune)."
        )
    return loaded.model, loaded.tokens


def check_finite(model: nn.Module, path: Path | str) -> None:
    """Raises ``ModelFolderError`` where weights from the model folder ``path`` are not finite: the
    model of a run that was lost, which would hear nothing."""
    if not all(_is_finite(weight) for weight in model.parameters()):
        raise ModelFolderError(
            f"{path}: holds weights that are NaN or infinite; export an earlier checkpoint of its "
            "run, or train it again."
        )


def _is_finite(weight: Tensor) -> bool:
    """Whether no number is NaN or infinite. A finite sum, which takes a tenth of the time, has none
    of them; a sum may also be too large."""
    return bool(weight.sum().isfinite() or weight.isfinite().all())


def read_info(path: Path | str) -> dict[str, Any]:
    """What the maker of a model folder wanted to remember; no weights are read. Raises
    ``ModelFolderError`` where its configuration is missing or malformed."""
    return _read_config(Path(path), {}).info or {}


def load_objective_weights(path: Path | str) -> dict[str, Tensor]:
    """The weights in a model folder that only pretraining needs, by their names in the objective;
    empty if there are none. Raises ``ModelFolderError`` where the file is missing or damaged."""
    prefix = "objective."
    weights = _read_weights(Path(path) / WEIGHTS)
    return {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}


def is_model_folder(path: Path | str) -> bool:
    """Whether ``path`` looks like a model folder: it has weights and configuration."""
    return (Path(path) / WEIGHTS).is_file() and (Path(path) / CONFIG).is_file()


def _weights(model: Encoder | CTCModel, objective: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights by their names in the file, on the CPU and contiguous."""
    prefix = "encoder." if isinstance(model, Encoder) else ""
    named = {prefix + name: value for name, value in model.state_dict().items()}
    named.update({f"objective.{name}": value for name, value in objective.items()})
    return {name: value.detach().cpu().contiguous() for name, value in named.items()}


def _config(model: Encoder | CTCModel, info: dict[str, Any]) -> dict[str, Any]:
    if isinstance(model, Encoder):
        folder = _FolderConfig(FORMAT, "encoder", model.config, info=info)
    else:
        folder = _FolderConfig(FORMAT, "ctc", model.encoder.config, model.vocabulary_size, info)
    return to_dict(folder)


def _read_config(path: Path, encoder: Mapping[str, Any]) -> _FolderConfig:
    if not path.is_dir():
        what = "is a file" if path.exists() else "no such folder"
        raise ModelFolderError(f"{path}: {what}; give the path of a model folder.")
    where = path / CONFIG
    if is_model_folder(path / "model") and not is_model_folder(path):
        raise ModelFolderError(f"{path}: is the folder of a run; give its model, {path / 'model'}.")
    if not where.is_file():
        raise ModelFolderError(
            f"{where}: is missing; a model folder holds {WEIGHTS} and {CONFIG} "
            "(speechssl export makes one)."
        )
    try:
        values = read_yaml(where)
        if values.get("format") != FORMAT:
            raise ModelFolderError(
                f"{where}: format {values.get('format')!r} is unknown, this version reads format "
                f"{FORMAT}; use the version of speechssl that wrote the folder, or a newer one."
            )
        if "kind" not in values or not isinstance(values.get("encoder"), dict):
            raise ConfigError(f"{where}: must have a kind and the settings of an encoder.")
        values["encoder"] = merge(values["encoder"], encoder)
        config = build(_FolderConfig, values, str(where))
        if config.kind == "ctc" and (config.vocabulary_size or 0) < 2:
            raise ConfigError(f"{where}: vocabulary_size must be at least 2.")
    except ConfigError as error:
        raise ModelFolderError(f"{error} Copy or export the model again.") from None
    return config


def _read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name."""
    if not file.is_file():
        raise ModelFolderError(f"{file}: is missing; copy or export the whole model folder again.")
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        problem = " ".join(str(error).split())
        raise ModelFolderError(
            f"{file}: {_disguise(file)} ({problem}); copy or export the model again."
        ) from None


def _disguise(file: Path) -> str:
    """What a file is that is not a whole safetensors file."""
    with open(file, "rb") as stream:
        start = stream.read(2)
    if start == b"PK" or start[:1] == b"\x80":
        return "is a pickled PyTorch file, which could run code and is not opened"
    return "is not a complete safetensors file"


def _fill(model: nn.Module, weights: dict[str, Tensor], file: Path) -> None:
    """Puts ``weights`` into ``model``; objective weights are left alone."""
    prefix = "encoder." if isinstance(model, Encoder) else ""
    expected = {prefix + name: value for name, value in model.state_dict().items()}
    given = {n: w for n, w in weights.items() if not n.startswith("objective.")}
    remedy = f"{WEIGHTS} and {CONFIG} must come from the same export"
    for name, parameter in expected.items():
        if name not in given:
            raise ModelFolderError(f"{file}: weight {name!r} is missing; {remedy}.")
        if given[name].shape != parameter.shape:
            raise ModelFolderError(
                f"{file}: weight {name!r} has shape {list(given[name].shape)}, but {CONFIG} "
                f"asks for {list(parameter.shape)}; {remedy}."
            )
    for name in given:
        if name not in expected:
            raise ModelFolderError(f"{file}: weight {name!r} is not of this model; {remedy}.")
    values = {name[len(prefix) :]: weight.float() for name, weight in given.items()}
    model.load_state_dict(values, assign=True)


class _TooManyError(Exception):
    """A model wants more weights than it may have."""


class _Unfilled(TorchFunctionMode):
    """Inside, nobody draws initial weights: those from the file come in their place. Raises
    ``_TooManyError`` before there are more than ``most``."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._left = most

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"]
        if func in (torch.empty, torch.zeros, torch.ones):
            size = args if isinstance(args[0], int) else args[0]
            self._left -= math.prod(size)
            if self._left < 0:
                raise _TooManyError
        return func(*args, **kwargs)


def _read_tokens(path: Path, vocabulary_size: int | None) -> Tokens:
    from speechssl.data.text import Tokens  # only recognisers need it

    file = path / TOKENS
    if not file.is_file():
        raise ModelFolderError(f"{file}: is missing; copy or export the whole model folder again.")
    tokens = Tokens.load(file)
    if len(tokens) != vocabulary_size:
        raise ModelFolderError(
            f"{file}: has {len(tokens)} tokens, but {CONFIG} says {vocabulary_size}; "
            "copy or export the whole model folder again."
        )
    return tokens
