"""What the tests of probes share."""

from __future__ import annotations

from pathlib import Path

from lhotse.supervision import AlignmentItem

from speechssl.data.manifest import load_cuts, save_cuts
from tests.conftest import LETTER_SECONDS


def aligned_cuts(path: Path) -> Path:
    """Gives the toy corpus's cuts at ``path`` the true times of their letters, spaces included."""
    cuts = list(load_cuts(path))
    for cut in cuts:
        supervision = cut.supervisions[0]
        items = [
            AlignmentItem(letter, LETTER_SECONDS * place, LETTER_SECONDS)
            for place, letter in enumerate(supervision.text or "", start=1)
        ]
        cut.supervisions[0] = supervision.with_alignment("phone", items)
    save_cuts(cuts, path)
    return path
