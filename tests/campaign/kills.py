"""SIGKILL a training process at random moments: it must go on as if nothing had been.

One run is left alone. In each round another is killed three times, every second time while it
writes a checkpoint, and started again each time with the same command. It must end with bitwise the
same losses, validation scores and weights.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from fastseg import checkpoint
from fastseg.data import phantom

KILLS = 3  # of a round
SETTINGS = ["data.patch=32,32", "data.samples_per_case=16", "data.batch_size=4", "data.threads=1",
            "model.width=4", "model.blocks=1", "model.modes=6,4", "log_every=1", "save_every=2",
            "lr=0.01", "ema=0.9", "val_every=5", "epochs=12"]  # fmt: skip


class Part:
    """A run that nobody disturbs, to compare with."""

    def __init__(self, scratch: Path, *settings: str):
        data = phantom.write(scratch / "data", 5, size=(40, 36, 24))
        self.command = [sys.executable, "-m", "fastseg", "train", "fno", "--data", str(data)]
        self.command += [*SETTINGS, *settings]
        self.straight = scratch / "straight"
        self._finish(self.straight)

    def round(self, rng: np.random.Generator, folder: Path) -> Counter:
        run, did = folder / "run", Counter()
        share = _lines(self.straight) / (KILLS + 1)  # of the run, for each life
        for life in range(KILLS):
            did += self._kill(run, int(share * (life + rng.random())) + 1, rng)
        self._finish(run)
        self.compare(run)
        assert not list((run / "checkpoints").glob("tmp-*")), "an interrupted save is left"
        return did

    def compare(self, run: Path) -> None:
        """Raise AssertionError unless the run ended as the one that nobody disturbed."""
        assert _curve(run) == _curve(self.straight), "other losses"
        assert saved_sums(run) == saved_sums(self.straight), "other weights"

    def _kill(self, run: Path, lines: int, rng: np.random.Generator) -> Counter:
        process = subprocess.Popen(
            [*self.command, "--out", str(run)], env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        while process.poll() is None and _lines(run) < lines:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        if rng.random() < 0.5:
            while process.poll() is None and not _saving(run):
                pass
        process.send_signal(signal.SIGKILL)
        killed = process.wait() == -signal.SIGKILL
        return Counter({"kills": killed, "kills while saving": killed and _saving(run)})

    def _finish(self, out: Path) -> None:
        done = subprocess.run(
            [*self.command, "--out", str(out)], env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"training ends with {done.returncode}: {done.stderr}"


def _saving(run: Path) -> bool:
    return any((run / "checkpoints").glob("tmp-*"))


def _lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _curve(run: Path) -> list[tuple]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    return [(row["step"], row.get("loss"), row.get("val_dice")) for row in rows]


def saved_sums(run: Path) -> dict[str, str]:
    """Sums of the newest checkpoint's tensors."""
    newest = checkpoint.generations(run / "checkpoints")[0]
    sums = checkpoint.load(newest, ())[0]["sha256"]
    return {file: value for file, value in sums.items() if file != "state.json"}
