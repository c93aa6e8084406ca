"""A process that has imported torch and nothing else, and forks for each piece of code it is sent:
importing torch takes longer than most of what tests ask of a fresh interpreter.
"""

import gc
import json
import os
import signal
import sys
import time


def next_job() -> dict | None:
    """In a fork, what it is to run; None at the end of standard input."""
    while line := sys.stdin.readline():
        job = json.loads(line)
        number = os.fork()
        if not number:
            return job
        print(json.dumps(_ended(number, job["timeout"])), flush=True)
    return None


def _ended(number: int, seconds: float) -> int | None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(number, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    return None


def settle(job: dict) -> None:
    """Make of this process what an interpreter would find itself in."""
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    sys.path[:1] = ["", *filter(None, job["environment"].get("PYTHONPATH", "").split(os.pathsep))]
    nothing = os.open(os.devnull, os.O_RDONLY)
    written = [os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in ("out", "err")]
    for handle, number in zip((nothing, *written), range(3), strict=True):
        os.dup2(handle, number)


if __name__ == "__main__":
    import torch  # noqa: F401

    gc.freeze()  # what is imported is no garbage; looked through, it would be copied to every fork
    if given := next_job():
        settle(given)
        exec(compile(given["code"], "<string>", "exec"), {"__name__": "__main__"})
