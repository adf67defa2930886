"""The ways in which people lay out recordings and transcripts, one module each.

A module ``speechssl/data/layouts/<name>.py`` with

- ``recognizes(folder) -> bool``: whether ``folder`` is laid out so, by a glance at names and
  first lines;
- ``read(folder, table, language) -> Listing``: all that it offers, with transcripts as they are
  written; ``table`` is a file of transcripts, which only ``folder`` gets, or None;

is a layout; there is no list to edit. ``folder`` is what everything else is.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from types import ModuleType

from speechssl.data.utterance import Listing, Rejected
from speechssl.errors import ManifestError
from speechssl.files import printable

PLAIN = "folder"

SPLIT_NAMES = {
    "train": ("train", "training"),
    "dev": ("dev", "devel", "development", "val", "valid", "validation"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""What people call the splits."""


def layouts() -> list[str]:
    """The names of all layouts, in alphabetical order."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in names if hasattr(_module(name), "recognizes"))


def find_layout(folder: Path) -> str:
    """The layout of ``folder``. Raises ``ManifestError`` if it looks like more than one."""
    found = [name for name in layouts() if name != PLAIN and _module(name).recognizes(folder)]
    if len(found) > 1:
        raise ManifestError(
            f"{folder}: looks like {' and like '.join(found)}; choose one with --layout."
        )
    return found[0] if found else PLAIN


def read_layout(name: str, folder: Path, table: Path | None, language: str | None) -> Listing:
    """All that ``folder`` offers, read as the layout ``name``; names that are not UTF-8, which a
    manifest cannot hold, are among the rejected.

    Raises ``ManifestError`` or ``AudioError`` if it is not laid out so, and ``ManifestError`` for a
    ``table`` where the layout has its own.
    """
    if table is not None and name != PLAIN:
        raise ManifestError(f"{table}: --transcripts is for --layout {PLAIN}; leave it out.")
    listing: Listing = _module(name).read(folder, table, language)
    utterances, rejected = [], []
    for u in listing.utterances:
        if (shown := printable(u.audio)) == str(u.audio):
            utterances.append(u)
        else:
            problem = f"{shown}: its name is not UTF-8; rename it"
            rejected.append(Rejected(printable(u.id), problem, shown))
    for r in listing.rejected:
        rejected.append(Rejected(*map(printable, (r.item, r.reason, r.audio))))
    return Listing(utterances, rejected, listing.notes)


def split_named(name: str) -> str | None:
    """The split that the name of a file or folder says ("train_clean_100", "validation")."""
    for word in re.split("[^a-z]+", name.lower()):
        for split, words in SPLIT_NAMES.items():
            if word in words:
                return split
    return None


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
