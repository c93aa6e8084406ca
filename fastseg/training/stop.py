"""Being asked to stop: finish the step at hand, save, then leave."""

import signal
from typing import Any

from fastseg.errors import FastsegError

# kill, Ctrl-C, a scheduler's notice, a terminal that is closed
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


class Stopped(FastsegError):
    """A signal ended the run; its state is saved."""

    exit_code = 143


class Interrupted(Exception):
    """What is being computed was given up for a signal; nothing of it is kept."""


class StopSignal:
    """While entered, `name` turns from "" to the signal that came. A second Ctrl-C ends at once."""

    def __init__(self):
        self.name = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        for number in SIGNALS:
            if signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup: whoever started us wants us to go on
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # only the main thread may listen; elsewhere nobody signals us
                break
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self, *_) -> None:
        """Raise Interrupted where a signal has come; as a callback it ignores its arguments."""
        if self.name:
            raise Interrupted(self.name)

    def _note(self, number, _frame) -> None:
        self.name = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
