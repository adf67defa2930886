"""The results of slow work on many files, kept so that an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from speechssl.data.parallel import map_in_order
from speechssl.files import atomic_path

Item = TypeVar("Item")
Value = dict[str, Any]
"""A result: whatever JSON can hold."""


class Journal:
    """Results that are written down as soon as they are there.

    A line of the file is one of them: ``{"key": ..., "value": {...}}``. A run that was killed
    leaves the results up to then and at most one broken line, which is dropped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, str] = {}  # key -> line
        self._used: dict[str, None] = {}  # keys in the order in which they were asked for
        if path.exists():
            for line in path.read_bytes().split(b"\n"):
                try:
                    self._known[json.loads(line)["key"]] = line.decode("utf-8")
                except (ValueError, KeyError, TypeError):
                    continue

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def has_any(self, prefix: str) -> bool:
        """Whether it holds a result whose key begins with ``prefix``."""
        return any(key.startswith(prefix) for key in self._known)

    def map(
        self,
        work: Callable[[Item], Value],
        items: Sequence[Item],
        key: Callable[[Item], str],
        *,
        jobs: int,
        description: str,
    ) -> Iterator[Value]:
        """``work(item)`` for each item, in their order, computed in ``jobs`` threads.

        ``key`` names an item and all that decides its result: what the journal holds under it is
        not computed again.
        """
        keys = [key(item) for item in items]
        self._used |= dict.fromkeys(keys)
        missing = {key: item for key, item in zip(keys, items) if key not in self._known}
        if missing:
            self._compute(work, missing, jobs, description)
        for name in keys:
            yield json.loads(self._known[name])["value"]

    def tidy(self) -> None:
        """Rewrites the file with just the results that were asked for, in that order."""
        lines = [self._known[key] for key in self._used]
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def discard(self) -> None:
        """Removes the file, and its folder if nothing else is in it."""
        self.path.unlink(missing_ok=True)
        if self.path.parent.is_dir() and not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()

    def _compute(
        self, work: Callable[[Item], Value], missing: dict[str, Item], jobs: int, description: str
    ) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        results = map_in_order(work, missing.values(), jobs=jobs)
        with open(self.path, "a", encoding="utf-8", buffering=1) as stream:
            if stream.tell():
                stream.write("\n")  # ends what a killed run may have left unfinished
            progress = tqdm(
                results, total=len(missing), desc=description, unit="file", disable=None
            )
            for key, value in zip(missing, progress):
                line = json.dumps({"key": key, "value": value}, ensure_ascii=False)
                self._known[key] = line
                stream.write(f"{line}\n")
