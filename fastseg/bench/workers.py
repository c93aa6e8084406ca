"""Processes that measure: one for every case, or one that stays for the next case until it dies.

The allocator reads its settings when a process starts, and a case that runs out of memory must not
take the others with it.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fastseg.bench.options import HEAPS

_LOOK_S = 0.02  # between looks at whether a result is there


class Workers:
    """Hand jobs to processes, while entered.

    Args:
        heap: the allocator's setting, one of `HEAPS`.
        lasting: keep a process for the next job: what it has loaded and set up is there then.
    """

    def __init__(self, heap: str, lasting: bool):
        self._heap, self._lasting, self._process = heap, lasting, None

    def __enter__(self) -> "Workers":
        self._folder = tempfile.TemporaryDirectory()
        self._out, self._errors = (Path(self._folder.name) / name for name in ("out", "errors"))
        return self

    def __exit__(self, *exc) -> None:
        self._end(killed=exc[0] is not None)
        self._folder.cleanup()

    def measure(self, job: dict, limit_s: float | None = None) -> dict:
        """Return the record of a job, or how its process ended, as {"failed": cause}.

        Args:
            job: as `runner.job_of` makes it.
            limit_s: after which the process is ended, if ever.
        """
        self._out.unlink(missing_ok=True)
        process, begin = self._started(), time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(job | {"out": str(self._out)}) + "\n")
            process.stdin.flush()
        while not self._out.exists() and process.poll() is None:
            if limit_s and time.monotonic() - begin > limit_s:
                self._end(killed=True)
                return {"failed": f"ended after {limit_s:g} seconds"}
            time.sleep(_LOOK_S)
        if not self._lasting or process.poll() is not None:
            self._end()
        if self._out.exists():
            return json.loads(self._out.read_text())
        return {"failed": cause_of(process.returncode, self._errors.read_text())}

    def _started(self) -> subprocess.Popen:
        if self._process and self._process.poll() is not None:
            self._end()
        if self._process is None:
            with self._errors.open("w") as errors:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "fastseg.bench.worker"], env=environment(self._heap),
                    stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, text=True,
                )  # fmt: skip
        return self._process

    def _end(self, killed: bool = False) -> None:
        if self._process is None:
            return
        if killed:
            self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process = None


def environment(heap: str) -> dict[str, str]:
    """Return the variables of a worker's process with this `heap`."""
    # both would change what "auto" and the allocator do behind the record's back
    ours = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith("MALLOC_") and k != "FASTSEG_BACKEND"
    }
    source = str(Path(__file__).resolve().parents[2])
    paths = [source, *filter(None, [ours.get("PYTHONPATH")])]
    # a worker that crashes says where
    ours["PYTHONFAULTHANDLER"] = "1"
    return ours | HEAPS[heap] | {"PYTHONPATH": os.pathsep.join(paths)}


def cause_of(code: int, errors: str) -> str:
    """Say why a process ended without a record, given its exit code and what it wrote."""
    if code == -9:
        return "killed by the system, most likely for memory"
    if code < 0:
        frames = [line.strip() for line in errors.splitlines() if line.startswith("  File ")]
        return f"stopped by signal {-code}" + "".join(f": {f}" for f in frames[:1])
    return (errors.strip().splitlines() or [f"exit code {code}"])[-1]
