"""Run a verb of the command in a child: bounded in time and memory, its end looked at.

A child is a fork, so that it need not import torch; `small_run` makes this process import all.
"""

import os
import resource
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

MEMORY_BYTES = 8 << 30  # of addresses; torch alone takes three
SECONDS = 100
_TRACEBACK = 70


SMALL = ["epochs=1", "data.patch=16,16", "data.samples_per_case=4", "data.batch_size=4",
         "data.threads=1", "model.width=4", "model.blocks=1", "model.modes=4,3"]  # fmt: skip


def small_run(folder: Path) -> tuple[Path, Path]:
    """A data set of four patients, and a run of one epoch, both below `folder`."""
    from fastseg.config import load_recipe
    from fastseg.data import phantom
    from fastseg.sample import sample
    from fastseg.train import train

    data = phantom.write(folder / "data", 4, size=(24, 24, 24))
    train(load_recipe("fno", SMALL), data, folder / "begun")
    sample(folder / "begun", data, folder / "predictions", part="val")
    return data, folder / "begun"


def command(arguments: Sequence[object], folder: Path) -> int:
    """Exit code of `fastseg ARGUMENTS`; AssertionError for a traceback, a crash and a hang."""

    def verb() -> int:
        from fastseg import cli

        return cli.main(list(map(str, arguments)))

    return child(verb, folder, f"fastseg {' '.join(map(str, arguments))!r}")


def child(work: Callable[[], int], folder: Path, what: str) -> int:
    """Exit code that `work` returns in a fork of this process; what it says is in folder/said."""
    said = folder / "said.txt"
    number = os.fork()
    if not number:
        os._exit(_inside(work, said))
    status = _wait(number)
    text = said.read_text(errors="replace")[-3000:] if said.exists() else ""
    assert status is not None, f"{what} hangs: {text}"
    assert not os.WIFSIGNALED(status), f"{what} dies of signal {os.WTERMSIG(status)}: {text}"
    code = os.waitstatus_to_exitcode(status)
    assert code != _TRACEBACK, f"{what}: {text}"
    return code


def _inside(work: Callable[[], int], said: Path) -> int:
    target = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        return work()
    except BaseException:
        text = traceback.format_exc()
        os.write(2, text.encode(errors="backslashreplace"))
        return _TRACEBACK


def _wait(number: int) -> int | None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(number, os.WNOHANG)
        if done:
            return status
        time.sleep(0.005)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    return None
