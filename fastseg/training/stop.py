"""Being asked to stop: finish the step at hand, save, then leave."""

import signal
from typing import Any

from fastseg.errors import FastsegError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # kill, Ctrl-C, a scheduler's notice


class Stopped(FastsegError):
    """A signal ended the run; its state is saved."""

    exit_code = 143


class StopSignal:
    """While entered, `name` turns from "" to the signal that came. A second Ctrl-C ends at once."""

    def __init__(self):
        self.name = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        for number in SIGNALS:
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # only the main thread may listen; elsewhere nobody signals us
                break
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, _frame) -> None:
        self.name = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
