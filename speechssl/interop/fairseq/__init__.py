"""fairseq's checkpoints: wav2vec 2.0 and HuBERT, pretrained or fine-tuned with CTC (fairseq 0.12),
and the files of WavLM that Microsoft published, which have its names; these come in only.

A ``.pt`` file holds the settings (``cfg``, or in older files ``args``) and the weights; the symbols
of a recogniser are in the file too, or beside it in ``dict.ltr.txt``. fairseq cannot be installed
beside today's torch and is not needed: the file is read without running anything in it
(``speechssl.interop.pickles``), and parity is shown with torchaudio, which has its own table of
fairseq's names (``torchaudio.models.wav2vec2.utils.import_fairseq``).

``layout``      settings and names of tensors on both sides
``dictionary``  fairseq's list of symbols and ``Tokens``
``parity``      both sides compute the same recordings
``reading``     from their file to a model folder
``writing``     from a model folder to theirs
"""

from __future__ import annotations

from pathlib import Path

from speechssl.interop.certificate import Certificate

SOURCES = "a .pt file of wav2vec 2.0, HuBERT (pretrained or with CTC) or Microsoft's WavLM"


def recognises(source: str) -> bool:
    """Whether ``source`` is a file that names the tensors of fairseq's speech models."""
    from speechssl.interop.pickles import texts

    path = Path(source)
    return path.is_file() and any(text.endswith("encoder.pos_conv.0.bias") for text in texts(path))


def import_model(source: str, model_dir: Path) -> tuple[Certificate, list[str]]:
    """See ``reading.import_fairseq``."""
    from speechssl.interop.fairseq.reading import import_fairseq

    return import_fairseq(Path(source), model_dir)


def export_model(model_dir: Path, out: Path) -> tuple[Certificate, list[str]]:
    """See ``writing.export_fairseq``."""
    from speechssl.interop.fairseq.writing import export_fairseq

    return export_fairseq(model_dir, out)
