"""Where torchaudio's weights are, and what they are weights of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchaudio
from torch import Tensor, nn

from speechssl.config import build
from speechssl.data.text import SEPARATOR, Tokens
from speechssl.errors import CheckpointError, ConfigError
from speechssl.interop.conversion import character_tokens
from speechssl.interop.weights import REMEDY, read_json, read_weights

DESCRIPTION = "torchaudio.json"
WEIGHTS = "model.pt"
ENDINGS = (".pt", ".pth", ".safetensors")

FAMILIES = ("wav2vec2_", "hubert_", "wavlm_")
"""How the names of torchaudio's factories begin."""

SERVER = "https://download.pytorch.org/torchaudio/models/"
BLANK = "-"
"""What torchaudio calls the CTC blank."""


@dataclass(frozen=True)
class Description:
    """torchaudio.json."""

    factory: str
    """A function of ``torchaudio.models``."""
    arguments: dict  # type: ignore[type-arg]
    normalize_waveform: bool = False
    labels: list[str] | None = None
    """What the outputs of a recogniser stand for; the first is the CTC blank."""
    unused_outputs: tuple[int, ...] = ()
    """Rows of a recogniser's head in the file that ``labels`` and the network do not have."""

    def network(self, where: str) -> nn.Module:
        """The network, its values undefined. Raises ``CheckpointError`` where there is none."""
        factory = getattr(torchaudio.models, self.factory, None)
        if factory is None or not self.factory.startswith(FAMILIES):
            raise CheckpointError(
                f"{where}: factory is {self.factory!r}; it must be a function of torchaudio.models "
                f"that begins with {', '.join(FAMILIES)}."
            )
        drawing = "cpu" if self.factory.startswith("hubert_pretrain") else "meta"
        try:  # on "meta" nothing is drawn; the models for pretraining cannot be built there
            with torch.random.fork_rng(devices=[]), torch.device(drawing):
                network: nn.Module = factory(**self.arguments)
            return network.to_empty(device="cpu").eval()
        except Exception as error:  # whatever torchaudio makes of wrong arguments
            problem = " ".join(str(error).split())[:200].rstrip(". ")
            raise CheckpointError(
                f"{where}: torchaudio cannot build {self.factory} with these arguments ({problem})."
            ) from None

    def to_json(self) -> str:
        """The text of torchaudio.json."""
        values = {name: value for name, value in vars(self).items() if name != "unused_outputs"}
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Source:
    """Weights, and what they are weights of."""

    file: Path
    description: Description
    where: str
    """What says so: a file, or the name of a pipeline."""

    def tensors(self) -> dict[str, Tensor]:
        """The weights without the outputs that nobody uses."""
        tensors = read_weights(self.file)
        for name in ("aux.weight", "aux.bias"):
            if name in tensors and self.description.unused_outputs:
                rows = range(len(tensors[name]))
                kept = [row for row in rows if row not in self.description.unused_outputs]
                tensors[name] = tensors[name][kept]
        return tensors


def find_source(source: str) -> Source:
    """The weights that ``source`` names: a folder, a file, or a pipeline of torchaudio, which is
    fetched unless torch's cache has it.

    Raises ``CheckpointError`` where there are none, or nothing says what they are.
    """
    path = Path(source)
    if not path.exists() and source in pipelines():
        bundle = pipelines()[source]
        return Source(_fetch(source, bundle._path), _described(bundle), source)
    folder, file = (path, None) if path.is_dir() else (path.parent, path)
    if not path.exists():
        raise CheckpointError(f"{source}: no such file or folder, and no pipeline of torchaudio.")
    if (folder / DESCRIPTION).is_file():
        description = read_description(folder / DESCRIPTION)
        return Source(file or _weights_in(folder), description, str(folder / DESCRIPTION))
    for name, bundle in pipelines().items():
        if file is not None and bundle._path == file.name:
            return Source(file, _described(bundle), name)
    raise CheckpointError(
        f"{folder / DESCRIPTION}: is missing; write there what built the network, as in "
        '{"factory": "hubert_base", "arguments": {}}.'
    )


def pipelines() -> dict[str, Any]:
    """torchaudio's bundles of a wav2vec 2.0, HuBERT or WavLM, by name; without those that align
    and have no space between words."""
    library = torchaudio.pipelines
    found = {name: getattr(library, name) for name in library.__all__}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, library.Wav2Vec2Bundle)
        and not isinstance(value, library.Wav2Vec2FABundle)
    }


def read_description(file: Path) -> Description:
    """torchaudio.json. Raises ``CheckpointError`` where it is malformed."""
    try:
        return build(Description, read_json(file), str(file))
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from None


def tokens_of(labels: list[str], where: str) -> tuple[Tokens, list[int]]:
    """Tokens, and the place of each among ``labels``. Raises ``CheckpointError`` where they are
    not characters, or have no space between words."""
    if SEPARATOR not in labels[1:]:
        raise CheckpointError(
            f"{where}: its labels have no {SEPARATOR!r}, the space between words; such a model has "
            "no counterpart here."
        )
    space = labels.index(SEPARATOR, 1)
    order = [0, space, *(i for i in range(1, len(labels)) if i != space)]
    return character_tokens((labels[i] for i in order[2:]), where), order


def _described(bundle: Any) -> Description:
    labels = list(bundle.get_labels(blank=BLANK)) if hasattr(bundle, "get_labels") else None
    return Description(
        factory={"Wav2Vec2": "wav2vec2_model", "WavLM": "wavlm_model"}[bundle._model_type],
        arguments=dict(bundle._params),
        normalize_waveform=bundle._normalize_waveform,
        labels=labels,
        unused_outputs=tuple(getattr(bundle, "_remove_aux_axis", ())),
    )


def _weights_in(folder: Path) -> Path:
    """The only file with weights in a folder."""
    files = sorted(file for file in folder.iterdir() if file.suffix in ENDINGS)
    if len(files) == 1:
        return files[0]
    found = ", ".join(file.name for file in files) or "none"
    raise CheckpointError(
        f"{folder}: must hold one file that ends in {', '.join(ENDINGS)}, but holds {found}; "
        f"give the file itself, or {REMEDY}."
    )


def _fetch(name: str, path: str) -> Path:
    """The file of a pipeline in torch's cache, downloaded if it is not there yet."""
    url = path if path.startswith("https") else SERVER + path
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(path).name
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file))
        except OSError as error:
            problem = " ".join(str(error).split())[:120].rstrip(". ")
            raise CheckpointError(
                f"{name}: cannot be fetched from {url} ({problem}); check the network, or bring "
                f"the file here and give its path."
            ) from None
    return file
