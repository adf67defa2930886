"""torchaudio's wav2vec 2.0, HuBERT and WavLM, both ways (torchaudio 2.9).

torchaudio saves weights alone, so somebody has to say what they are weights of: the name of one of
its pipelines (``HUBERT_BASE``), a file named as that pipeline's, or ``torchaudio.json`` beside the
weights:

    {"factory": "hubert_base", "arguments": {"aux_num_out": 29}, "normalize_waveform": false,
     "labels": ["-", "|", "E", ...]}

``factory`` is a function of ``torchaudio.models``; ``labels`` are what the outputs of a recogniser
stand for, the CTC blank first. An export writes the same. torchaudio publishes no hashes of its
files; the SHA-256 of what was read is kept in the model folder.

``layout``   settings and names of tensors on both sides
``sources``  pipelines, files and torchaudio.json
``parity``   both sides compute the same recordings
``reading``  from weights to a model folder
``writing``  from a model folder to weights
"""

from __future__ import annotations

from pathlib import Path

from speechssl.interop.certificate import Certificate

SOURCES = "weights with torchaudio.json, or the name or file of a pipeline such as HUBERT_BASE"


def recognises(source: str) -> bool:
    """Whether ``source`` is a pipeline, a file of one, or weights with torchaudio.json."""
    from speechssl.interop.torchaudio.sources import DESCRIPTION, pipelines

    path = Path(source)
    if not path.exists():
        return source in pipelines()
    folder = path if path.is_dir() else path.parent
    files = {bundle._path for bundle in pipelines().values()}
    return (folder / DESCRIPTION).is_file() or path.name in files


def import_model(source: str, model_dir: Path) -> tuple[Certificate, list[str]]:
    """See ``reading.import_torchaudio``."""
    from speechssl.interop.torchaudio.reading import import_torchaudio

    return import_torchaudio(source, model_dir)


def export_model(model_dir: Path, out: Path) -> tuple[Certificate, list[str]]:
    """See ``writing.export_torchaudio``."""
    from speechssl.interop.torchaudio.writing import export_torchaudio

    return export_torchaudio(model_dir, out)
