"""What a program writes when it believes that somebody watches."""

from __future__ import annotations

import io


class Terminal(io.StringIO):
    """A stream that says it is a terminal, as ``sys.stderr`` is for a user and never for a test."""

    def isatty(self) -> bool:
        """Always."""
        return True
