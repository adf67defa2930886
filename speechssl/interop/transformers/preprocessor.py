"""What transformers' feature extractor does to a waveform before the model sees it.

That is in preprocessor_config.json, or, in folders of transformers 5, in processor_config.json as
``feature_extractor``. Of its settings only ``do_normalize`` is a choice here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from speechssl.errors import CheckpointError
from speechssl.frames import SAMPLE_RATE
from speechssl.interop.weights import read_json
from speechssl.models.frontend import FrontendConfig

PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
FILES = (PREPROCESSOR, PROCESSOR)


def find_preprocessor(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The feature extractor's settings in ``folder`` and the file they are in, or None.

    Raises ``CheckpointError`` where that file is malformed.
    """
    if (folder / PREPROCESSOR).is_file():
        return folder / PREPROCESSOR, read_json(folder / PREPROCESSOR)
    if (folder / PROCESSOR).is_file():
        settings = read_json(folder / PROCESSOR).get("feature_extractor")
        if isinstance(settings, dict):
            return folder / PROCESSOR, settings
    return None


def read_preprocessor(folder: Path, norm: str) -> tuple[bool, list[str]]:
    """Whether waveforms are normalised first, and a note where that had to be assumed.

    Without settings it is assumed as in fairseq's own models: with layer norm in the frontend
    (``norm``) only. With group norm there it hardly matters, because the frames do not depend on
    loudness. Raises ``CheckpointError`` for settings that have no counterpart.
    """
    found = find_preprocessor(folder)
    if found is None:
        normalize = norm == "layer"
        verb = "normalises" if normalize else "does not normalise"
        return normalize, [
            f"there is no {PREPROCESSOR}: assumed that the model {verb} waveforms, as is usual "
            f"with {norm} norm"
        ]
    file, settings = found
    allowed: dict[str, tuple[Any, ...]] = {
        "feature_extractor_type": ("Wav2Vec2FeatureExtractor",),
        "sampling_rate": (SAMPLE_RATE,),
        "feature_size": (1,),
        "do_normalize": (True, False),
    }
    for name, choices in allowed.items():
        if settings.get(name, choices[0]) not in choices:
            raise CheckpointError(
                f"{file}: {name} is {settings[name]!r}; only {choices[0]!r} has a counterpart."
            )
    return bool(settings.get("do_normalize", True)), []


def write_preprocessor(frontend: FrontendConfig, kept: Path) -> dict[str, Any]:
    """What preprocessor_config.json says for a frontend; ``kept`` is the folder with the files that
    its model was imported with, if it was."""
    fresh = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": SAMPLE_RATE,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": frontend.norm == "layer",
    }
    found = find_preprocessor(kept)
    return (fresh if found is None else found[1]) | {"do_normalize": frontend.normalize_waveform}
