"""Hugging Face transformers' folders, both ways (transformers 4.57).

transformers' ``Wav2Vec2Model``, ``HubertModel``, ``WavLMModel`` and ``Data2VecAudioModel`` are
forms of ``Encoder``; config.json says which. ``Wav2Vec2ForPreTraining`` adds what ``Contrastive``
owns (the others have no class for pretraining); ``...ForCTC`` add the head of ``CTCModel``. Reading
and writing needs nothing of transformers; comparing outputs needs it installed.

``layout``        settings and names of tensors on both sides
``preprocessor``  what happens to a waveform before the model sees it
``vocabulary``    the tokenizer's files and ``Tokens``
``parity``        both sides compute the same recordings
``reading``       from their folder to a model folder
``writing``       from a model folder to theirs
"""

from __future__ import annotations

import re
from pathlib import Path

from speechssl.interop.certificate import Certificate

SOURCES = (
    "a folder that save_pretrained wrote (wav2vec 2.0, HuBERT, WavLM, data2vec), or a hub name"
)


def recognises(source: str) -> bool:
    """Whether ``source`` is a folder with config.json, or a name such as facebook/hubert-base."""
    path = Path(source)
    if path.exists():
        return (path / "config.json").is_file()
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) is not None


def import_model(source: str, model_dir: Path) -> tuple[Certificate, list[str]]:
    """See ``reading.import_transformers``."""
    from speechssl.interop.transformers.reading import import_transformers

    return import_transformers(source, model_dir)


def export_model(model_dir: Path, out: Path) -> tuple[Certificate, list[str]]:
    """See ``writing.export_transformers``."""
    from speechssl.interop.transformers.writing import export_transformers

    return export_transformers(model_dir, out)
