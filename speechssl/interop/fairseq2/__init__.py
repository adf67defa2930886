"""fairseq2: cards of the families wav2vec2 and wav2vec2_asr, both ways (fairseq2 0.8).

A card is a YAML document that names a model's family, its architecture or whole configuration, its
checkpoint, and for recognisers a tokenizer. XLS-R and the Omnilingual encoders are of family
wav2vec2 too: pre-norm, with layer norm in the frontend. ``Wav2Vec2Model`` is the network of
``Encoder`` with the heads of ``Contrastive``, ``Wav2Vec2AsrModel`` that of ``CTCModel``. What
neither family has (a filter bank frontend, say) goes out as a card of a family of our own, which
fairseq2 finds where speechssl is installed.

``layout``   settings and names of tensors on both sides
``cards``    finding a card and what belongs to it
``parity``   both sides compute the same recordings
``reading``  from a card to a model folder
``writing``  from a model folder to a folder with a card
``family``   our own family, an extension of fairseq2
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from speechssl.interop.certificate import Certificate

SOURCES = "an asset card of wav2vec2 or wav2vec2_asr: its name, its .yaml file or the folder of it"


def recognises(source: str) -> bool:
    """Whether ``source`` is a card, or the name of one that fairseq2 knows."""
    if Path(source).exists():
        return len(card_documents(Path(source))) > 0
    if "/" in source:
        return False
    from speechssl.interop.fairseq2.cards import is_known_card

    return is_known_card(source)


def card_documents(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The cards of models, each with its file, in a YAML file or in those of a folder; what is no
    card is passed over."""
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    found = []
    for file in files:
        if not file.is_file() or file.suffix not in (".yaml", ".yml"):
            continue
        try:
            values = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
        except Exception:  # whatever is no YAML is no card
            continue
        found += [(file, v) for v in values if isinstance(v, dict) and "model_family" in v]
    return found


def import_model(source: str, model_dir: Path) -> tuple[Certificate, list[str]]:
    """See ``reading.import_fairseq2``."""
    from speechssl.interop.fairseq2.reading import import_fairseq2

    return import_fairseq2(source, model_dir)


def export_model(model_dir: Path, out: Path) -> tuple[Certificate, list[str]]:
    """See ``writing.export_fairseq2``."""
    from speechssl.interop.fairseq2.writing import export_fairseq2

    return export_fairseq2(model_dir, out)
