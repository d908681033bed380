"""Signals that ask a run to stop: SIGTERM (schedulers, spot machines), SIGINT (Ctrl-C), SIGUSR1 (SLURM's warning)."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from errors import Interrupted

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignals:
    """Keep the first stop signal in `received`, so that the training step can finish. A second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._immediate = False

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._remember) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def raise_at_once(self) -> Iterator[None]:
        """Context in which a stop signal raises Interrupted at once: for work that has nothing to save."""
        self._immediate = True
        try:
            if self.received is not None:
                raise Interrupted(self.received)
            yield
        finally:
            self._immediate = False

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self._immediate or (number == signal.SIGINT and self.received == signal.SIGINT):
            raise Interrupted(number, saved=self._immediate)
        self.received = self.received or number
