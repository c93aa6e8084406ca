"""Being asked to stop: finish the step at hand or give it up, save, then leave."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from fastseg.errors import FastsegError

# kill, Ctrl-C, a scheduler's notice, a terminal that is closed
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
GRACE_S = 0.5  # what is being computed may take so long to end well
_AGAIN_S = 0.25  # an exception is lost where Python cannot pass it on, as in a destructor


class Stopped(FastsegError):
    """A signal ended the run; its state is saved."""

    exit_code = 143


class Interrupted(BaseException):
    """What is being computed was given up for a signal; nothing of it is kept.

    No error: what catches all of these, so that a picture ends no run, must let it pass.
    """


class StopSignal:
    """While entered, `name` turns from "" to the signal that came. A second Ctrl-C ends at once."""

    def __init__(self):
        self.name, self._open = "", False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is not threading.main_thread():
            return self  # only that one may listen; elsewhere nobody signals us
        for number in SIGNALS:
            if signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup: whoever started us wants us to go on
            self._before[number] = signal.signal(number, self._note)
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._overdue)
        return self

    def __exit__(self, *_) -> None:
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self, *_) -> None:
        """Raise Interrupted where a signal has come; as a callback it ignores its arguments."""
        if self.name:
            raise Interrupted(self.name)

    @contextmanager
    def may_give_up(self) -> Iterator[None]:
        """Raise Interrupted inside, wherever Python runs, once a signal is GRACE_S old.

        Whatever is inside must leave nothing half done that is used afterwards.
        """
        self._open = True
        try:
            yield
        finally:
            self._open = False

    def _note(self, number, _frame) -> None:
        if not self.name:
            signal.setitimer(signal.ITIMER_REAL, GRACE_S, _AGAIN_S)
        self.name = self.name or signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

    def _overdue(self, *_) -> None:
        if self._open:
            raise Interrupted(self.name)


@contextmanager
def awake_in_backward(fabric: Any) -> Iterator[None]:
    """Let Python run between the modules of a backward pass on a CPU: the pass is one call of C++,
    and signals are heard in Python alone. A GPU's steps are short, several processes end theirs.
    """
    if fabric.device.type != "cpu" or fabric.world_size > 1:
        yield
        return
    handle = nn.modules.module.register_module_forward_hook(_hooked)
    try:
        yield
    finally:
        handle.remove()


def _hooked(_module: nn.Module, _inputs: Any, output: Any) -> None:
    if isinstance(output, Tensor) and output.requires_grad:
        output.register_hook(_heard)


def _heard(_gradient: Tensor) -> None:
    """Nothing is to be done: that Python is entered is enough."""
