"""Ctrl-C and SIGTERM: a run ends between two updates, with a checkpoint of what is done."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from fairseq2.gang import Gang, all_sum
from fairseq2.trainer import Trainer
from torch import Tensor

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What asks a run to end: Ctrl-C, and what clusters send before they take the machine away."""


class StopSignals:
    """Notes the first signal and ends the run when the update under way is done; a second signal
    ends the process at once.

    (fairseq2 0.8.1 looks at no request to stop where the number of updates is given.)
    """

    def __init__(self, exp: Path, *, saved_every: int, speaks: bool) -> None:
        """``exp`` is the run's folder. It gets a checkpoint every ``saved_every`` updates without
        us. Only a process that ``speaks`` says that a signal has come."""
        self._exp = exp
        self._saved_every = saved_every
        self._speaks = speaks
        self._asked = False
        self._votes: Tensor | None = None
        """How many processes had been asked to end at the last look."""
        self._saved: int | None = None
        """The update of the last checkpoint; None before the first look."""

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Notes signals until the block ends."""
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def look(self, trainer: Trainer, gang: Gang) -> None:
        """Between two updates: where the run was asked to end, writes a checkpoint, unless there
        is one of this update, and raises ``KeyboardInterrupt``. All processes of ``gang`` call it.
        """
        step = trainer.step_nr
        if self._saved is None or step % self._saved_every == 0:
            self._saved = step  # a run begins with the checkpoint that it goes on from
        if not self._ends(gang):
            return
        trainer._maybe_complete_checkpoint_save_operation()
        if step != self._saved:
            trainer._save_checkpoint(blocking=True)
        done = f"stopped after update {step}, with a checkpoint" if step else "stopped at the start"
        raise KeyboardInterrupt(f"{self._exp}: {done}; the same command goes on from there")

    def _ends(self, gang: Gang) -> bool:
        """Whether the run ends now, on every process.

        Several processes agree within an update (torchrun and clusters kill those that take longer
        than 30 seconds). They go by the votes of the look before, which no host has to wait for.
        """
        if gang.size == 1:
            return self._asked
        votes, self._votes = self._votes, all_sum(gang, int(self._asked))
        return votes is not None and bool(votes > 0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self._speaks:  # not with print, which may be what is interrupted
            os.write(2, b"stopping when this update is done; once more to stop at once\n")
