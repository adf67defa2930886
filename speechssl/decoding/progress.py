"""How much of the audio is done, on the terminal."""

from __future__ import annotations

from tqdm import tqdm


class AudioProgress(tqdm):  # type: ignore[misc]
    """A progress bar of seconds of audio; the rate is how many times real time."""

    total: float

    def __init__(self, what: str, seconds: float, *, hidden: bool | None = None) -> None:
        """``seconds`` are expected, 0 if nobody knows. ``hidden`` None: unless on a terminal."""
        super().__init__(
            desc=what, total=seconds, unit=" s of audio", unit_scale=True, disable=hidden
        )

    def update(self, seconds: float) -> None:
        """Adds ``seconds``. If there is more audio than was expected, more is expected."""
        if self.total:
            self.total = max(self.total, self.n + seconds)
        super().update(seconds)
