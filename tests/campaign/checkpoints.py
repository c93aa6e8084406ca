"""Edits of a checkpoint, signed again: sampling and resuming end in an error, or as before."""

import hashlib
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from campaign.child import SMALL, command, small_run
from campaign.kills import saved_sums
from fastseg import checkpoint

# 0: it made no difference, or an allowed one; 2: other settings; 3: damaged
CODES = {0, 2, 3}
_VALUES = [None, True, 0, -1, 1, 7, 10**9, 10**400, 0.5, -1e308, "", "x", "../../x", "/tmp/x",
           "a\0b", "$\\frac$", [], [[]], ["x"], {}, {"x": {}}, "y" * 10**6,
           [0] * 10**5]  # fmt: skip


class Part:
    """A small run of one epoch; each round edits a copy, samples with it and trains one more."""

    def __init__(self, scratch: Path):
        self.scratch = scratch
        self.data, self.begun = small_run(scratch)
        for best in checkpoint.generations(self.begun / "checkpoints", ("best",)):
            shutil.rmtree(best)  # `sample` takes the last one then, as resuming does
        shutil.copytree(self.begun, scratch / "whole")
        code = command(self._resume(scratch / "whole"), scratch)
        assert code == 0, (scratch / "said.txt").read_text()
        self.predicted = contents(scratch / "predictions")
        self.trained = saved_sums(scratch / "whole")

    def round(self, rng: np.random.Generator, folder: Path) -> Counter:
        run, did = folder / "run", Counter(edits=1)
        shutil.copytree(self.begun, run)
        place = checkpoint.generations(run / "checkpoints")[0]
        what = edit(place, rng)
        (folder / "edit.txt").write_text(f"{what[:2000]!a}\n")
        before = contents(self.scratch, {folder.name})
        code = command(self._sample(run, folder / "out"), folder)
        did[f"sample {code}"] += 1
        assert code in CODES, (what, code)
        if code == 0 and not what.startswith("state "):
            assert contents(folder / "out") == self.predicted, what
        code = command(self._resume(run), folder)
        did[f"resume {code}"] += 1
        assert code in CODES, (what, code)
        if code == 0 and not what.startswith("state "):
            assert saved_sums(run) == self.trained, what
        assert contents(self.scratch, {folder.name}) == before, f"{what}: wrote outside of OUT"
        return did

    def _resume(self, run: Path) -> list:
        return ["train", "fno", "--data", self.data, "--out", run, *SMALL, "epochs=2"]

    def _sample(self, run: Path, out: Path) -> list:
        return ["sample", run, "--data", self.data, "--out", out, "--part", "val"]


def edit(place: Path, rng: np.random.Generator) -> str:
    """Change one thing of a checkpoint; returns what."""
    files = sorted(place.iterdir())
    kind = rng.random()
    if kind < 0.7:
        return _edit_state(place, rng)
    path = files[rng.integers(len(files))]
    if kind < 0.8:
        content = bytearray(path.read_bytes())
        at = int(rng.integers(min(len(content), 4000)))
        content[at : at + 1] = rng.bytes(int(rng.integers(0, 9)))
        path.write_bytes(content)
        if path.name != "state.json":
            _sign(place, path)
        return f"bytes of {path.name} at {at}"
    path.unlink()
    how = ["gone", "empty", "pipe", "folder", "link to zero", "link to itself"][rng.integers(6)]
    if how == "empty":
        path.touch()
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how.startswith("link"):
        path.symlink_to("/dev/zero" if how == "link to zero" else path.name)
    return f"{path.name} {how}"


def _edit_state(place: Path, rng: np.random.Generator) -> str:
    state = json.loads((place / "state.json").read_text())
    holder, key, names = state, "", []
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        keys = [key for key in keys if key != "sha256"]
        key = keys[rng.integers(len(keys))]
        names.append(str(key))
        if not isinstance(holder[key], (dict, list)) or not holder[key] or rng.random() < 0.3:
            break
        holder = holder[key]
    value = _VALUES[rng.integers(len(_VALUES))]
    if rng.random() < 0.2:
        del holder[key]
        what = "left out"
    elif rng.random() < 0.2 and isinstance(holder, dict):
        holder["unknown"] = value
        what = f"beside it: {value!r:.100}"
    else:
        holder[key] = value
        what = f"{value!r:.100}"
    _write(place, state)
    return f"state {'.'.join(names)}: {what}"


def _sign(place: Path, path: Path) -> None:
    state = json.loads((place / "state.json").read_text())
    state["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    _write(place, state)


def _write(place: Path, state: dict[str, Any]) -> None:
    state["sha256"].pop("state.json", None)
    content = json.dumps(state, sort_keys=True, allow_nan=False).encode()
    state["sha256"]["state.json"] = hashlib.sha256(content).hexdigest()
    (place / "state.json").write_text(json.dumps(state))


def contents(folder: Path, without: frozenset | set = frozenset()) -> dict[str, str]:
    """The files below a folder, with sums of what they hold; sample.json names its folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
        and path.relative_to(folder).parts[0] not in without
        and path.name not in ("sample.json", "said.txt")
    }
