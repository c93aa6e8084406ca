"""A disk that is slow, stalls, fails or fills up under a training process, and a clock that jumps.

The C library's calls on files of the data or of the run are made so (`faulty_libc.cpp`). However
the process ends, it says why in a line; started again without faults it must end bitwise as a run
that nothing happened to, unless it had to set a patient aside.
"""

import errno
import os
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np

from campaign import kills

CODES = {0, 1, 3}  # fine; the run cannot be written; the data cannot be read
SECONDS = 300
_ERRORS = (errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Part(kills.Part):
    """As of kills, with the library that is preloaded."""

    def __init__(self, scratch: Path, *settings: str):
        super().__init__(scratch, "epochs=5", "val_every=0", *settings)
        self.data, self.library = scratch / "data", build(scratch / "faulty_libc.so")

    def round(self, rng: np.random.Generator, folder: Path) -> Counter:
        run, fault = folder / "run", FAULTS[rng.integers(len(FAULTS))]
        name, changes = fault.__name__.strip("_"), fault(rng, self.data, run)
        (folder / "fault.txt").write_text(f"{changes}\n")
        done = subprocess.run(
            [*self.command, "--out", str(run)], capture_output=True, text=True, timeout=SECONDS,
            env=os.environ | {"OMP_NUM_THREADS": "1", "LD_PRELOAD": str(self.library)} | changes,
        )  # fmt: skip
        (folder / "said.txt").write_text(done.stderr)
        assert done.returncode in CODES, f"{name}: {done.returncode}: {done.stderr[-2000:]}"
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == 0 or "fastseg: " in done.stderr.splitlines()[-1]
        self._finish(run)
        if "set aside" not in done.stderr:
            self.compare(run)
        return Counter({f"{name} {done.returncode}": 1})


def build(target: Path) -> Path:
    """Compile the library."""
    source = Path(__file__).with_name("faulty_libc.cpp")
    subprocess.run([os.environ.get("CXX", "c++"), "-shared", "-fPIC", "-O1", source, "-o", target,
                    "-ldl"], check=True)  # fmt: skip
    return target


def _slow(rng: np.random.Generator, data: Path, run: Path) -> dict[str, str]:
    """Calls of 20 to 200 ms on the data; the run's, of which there are more, are shorter."""
    below, most = ((data, 200), (run, 20))[rng.integers(2)]
    return {"FAULTS_BELOW": str(below), "FAULTS_DELAY_MS": str(rng.integers(most // 10, most))}


def _stalled(rng: np.random.Generator, data: Path, run: Path) -> dict[str, str]:
    below = (data, run)[rng.integers(2)]
    when, seconds = rng.integers(1, 200), rng.integers(2, 30)
    return {"FAULTS_BELOW": str(below), "FAULTS_STALL": f"{when},{seconds}"}


def _failing_reads(rng: np.random.Generator, data: Path, run: Path) -> dict[str, str]:
    """Some once, which trying again helps with; some for good."""
    count = (1, 1, 2, 3, 10, 10**6)[rng.integers(6)]
    first = rng.integers(1, 60)
    return _error(data, ("read", "open")[rng.integers(2)], errno.EIO, first, count)


def _failing_writes(rng: np.random.Generator, data: Path, run: Path) -> dict[str, str]:
    kind = ("open", "write", "fsync")[rng.integers(3)]
    number = _ERRORS[rng.integers(len(_ERRORS))]
    return _error(run, kind, number, rng.integers(1, 200), (1, 1, 5, 10**6)[rng.integers(4)])


def _error(below: Path, kind: str, number: int, first: int, count: int) -> dict[str, str]:
    return {"FAULTS_BELOW": str(below), "FAULTS_ERROR": f"{kind},{number},{first},{count}"}


def _jumping_clock(rng: np.random.Generator, data: Path, run: Path) -> dict[str, str]:
    return {"FAULTS_CLOCK_S": str(rng.integers(60, 100_000))}


FAULTS = (_slow, _stalled, _failing_reads, _failing_reads, _failing_writes, _failing_writes,
          _jumping_clock)  # fmt: skip
