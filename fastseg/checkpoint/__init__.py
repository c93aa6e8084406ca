"""Checkpoints that survive being killed: a folder of safetensors files and one state.json.

    checkpoints/last-000007/{model,ema,optimizer}.safetensors state.json

A folder appears under its name only when every byte of it is on the disk. No pickle anywhere.
"""

import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastseg.checkpoint.optimizer import load_scaler, pack_optimizer, unpack_optimizer
from fastseg.checkpoint.reading import (
    FORMAT,
    MAX_ENTRIES,
    MAX_HEADER_BYTES,
    Tensors,
    read_state,
    read_tensors,
)
from fastseg.checkpoint.state import Position, State
from fastseg.checkpoint.writing import GROUPS, sync, write_folder
from fastseg.errors import CheckpointError, FastsegError

__all__ = [
    "FORMAT",
    "GROUPS",
    "MAX_ENTRIES",
    "MAX_HEADER_BYTES",
    "CheckpointError",
    "Position",
    "State",
    "Tensors",
    "find",
    "generations",
    "load",
    "load_newest",
    "load_run",
    "load_scaler",
    "pack_optimizer",
    "save",
    "tidy",
    "unpack_optimizer",
]

log = logging.getLogger("fastseg")


def save(
    folder: str | Path,
    groups: dict[str, Tensors],
    state: dict[str, Any],
    *,
    kind: str = "last",
    keep: int = 2,
) -> Path:
    """Write one generation `folder/KIND-NNNNNN` and remove all but the newest `keep` of its kind.

    `groups` maps names of GROUPS to named tensors, `state` is JSON-able. Returns the new folder.
    FastsegError when it cannot be written (disk full); what was there before is then untouched.
    """
    folder = Path(folder)
    older = generations(folder, (kind,))
    number = int(older[0].name.rpartition("-")[2]) + 1 if older else 1
    final, temporary = folder / f"{kind}-{number:06d}", folder / f"tmp-{kind}-{os.getpid()}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        write_folder(temporary, groups, state)
        os.rename(temporary, final)
        sync(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        intact = f"{older[0]} is intact" if older else "there was none before"
        raise FastsegError(
            f"{final}: the checkpoint could not be saved ({error}); {intact}"
        ) from error
    for old in older[keep - 1 :]:
        _remove(old)
    return final


def load(
    path: str | Path, names: tuple[str, ...] = GROUPS
) -> tuple[dict[str, Any], dict[str, Tensors]]:
    """Load the state and those groups of `names` that a checkpoint folder holds, on the CPU.

    Every file is compared with its SHA-256 before it is parsed. CheckpointError names the file.
    """
    path = Path(path)
    state = read_state(path / "state.json")
    present = [name for name in names if f"{name}.safetensors" in state["sha256"]]
    return state, {name: read_tensors(path / f"{name}.safetensors", state) for name in present}


def load_newest(
    paths: list[Path], names: tuple[str, ...] = GROUPS
) -> tuple[Path, dict, dict[str, Tensors]]:
    """Load the first sound checkpoint of `paths`, with a warning for each damaged one before it.

    CheckpointError when none is sound.
    """
    reasons = []
    for path in paths:
        try:
            return path, *load(path, names)
        except CheckpointError as error:
            reasons.append(str(error))
            log.warning("checkpoint %s is damaged, trying the one before it: %s", path.name, error)
    raise CheckpointError("no sound checkpoint: " + "; ".join(reasons))


def load_run(
    paths: list[Path], names: tuple[str, ...] = GROUPS
) -> tuple[Path, State, dict[str, Tensors]]:
    """Load as `load_newest` does a checkpoint of a run. CheckpointError names a wrong key too."""
    path, values, groups = load_newest(paths, names)
    return path, State.of(values, path), groups


def generations(folder: str | Path, kinds: tuple[str, ...] = ("last",)) -> list[Path]:
    """List the checkpoints in `folder`: in the order of `kinds`, newest first."""
    found = []
    for kind in kinds:
        named = [p for p in Path(folder).glob(f"{kind}-*") if p.name[len(kind) + 1 :].isdigit()]
        found += sorted(named, key=lambda p: int(p.name[len(kind) + 1 :]), reverse=True)
    return found


def find(path: str | Path) -> list[Path]:
    """List what to try when a user names a run, its checkpoints folder or one checkpoint.

    The best one on the validation patients comes before the last ones. CheckpointError for none.
    """
    path = Path(path)
    if (path / "state.json").is_file() or generations(path.parent, ("last", "best")).count(path):
        return [path]
    found = generations(path / "checkpoints", ("best", "last")) or generations(
        path, ("best", "last")
    )
    if not found:
        raise CheckpointError(
            f"{path}: holds no checkpoint (wanted a run, or its checkpoints folder)"
        )
    return found


def tidy(folder: str | Path, damaged: Sequence[Path] = ()) -> None:
    """Remove what interrupted saves left; rename `damaged` so that they no longer count."""
    for leftover in Path(folder).glob("tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for path in damaged:
        aside = path.with_name(f"damaged-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(path, aside)


def _remove(old: Path) -> None:
    """Under another name first: half a checkpoint must not count as one."""
    aside = old.with_name(f"tmp-old-{old.name}")
    with suppress(OSError):
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(old, aside)
        shutil.rmtree(aside, ignore_errors=True)
