"""Checkpoints that survive being killed: a folder of safetensors files and one state.json.

    checkpoints/last-000007/{model,ema,optimizer}.safetensors state.json

A folder appears under its name only when every byte of it is on the disk. No pickle anywhere.
"""

import hashlib
import json
import logging
import os
import shutil
import stat
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastseg.errors import DataError, FastsegError

FORMAT = 1
GROUPS = ("model", "ema", "optimizer")
MAX_ENTRIES = 20_000  # a parser of a hostile header slows down long before its 100 MB limit
MAX_HEADER_BYTES = 4 * 2**20
MAX_STATE_BYTES = 16 * 2**20
_ITEMS_AN_ENTRY = 16  # of a header: names, numbers, brackets; each costs far more than its bytes
_MAX_STATE_ITEMS = 200_000
Tensors = dict[str, Tensor]
log = logging.getLogger("fastseg")


class CheckpointError(DataError):
    """A checkpoint that is damaged, incomplete or not one of ours."""


_OF_RUN = {"recipe": dict, "modalities": list, "scheme": dict, "split": dict}


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
        _write_folder(temporary, groups, state)
        os.rename(temporary, final)
        _sync(folder)
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
    state = _read_state(path / "state.json")
    present = [name for name in names if f"{name}.safetensors" in state["sha256"]]
    return state, {name: _read_tensors(path / f"{name}.safetensors", state) for name in present}


def check_run(state: dict[str, Any], path: Path) -> None:
    """Raise CheckpointError, naming the key, where a state is not that of a run's network."""
    for key, kind in _OF_RUN.items():
        if not isinstance(value := state.get(key), kind):
            raise CheckpointError(f"{path}: {key} is {value!r:.80}, wanted a {kind.__name__}")
    names = state["modalities"]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise CheckpointError(f"{path}: modalities is {names!r:.80}, wanted names")
    for part, ids in state["split"].items():
        if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
            raise CheckpointError(f"{path}: split.{part} is {ids!r:.80}, wanted a list of ids")


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


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[Tensors, dict[str, Any]]:
    """Part an optimiser's state into named tensors ("3.exp_avg") and a JSON-able rest."""
    state = optimizer.state_dict()
    tensors, values = {}, {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            target = tensors if isinstance(value, Tensor) else values
            target[f"{index}.{key}"] = value
    return tensors, {"values": values, "param_groups": state["param_groups"]}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Tensors, rest: dict[str, Any]
) -> None:
    """Load what `pack_optimizer` gave."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in (tensors | rest["values"]).items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": rest["param_groups"]})


def _write_folder(folder: Path, groups: dict[str, Tensors], state: dict[str, Any]) -> None:
    from safetensors.torch import save as serialise

    sums = {}
    for name, tensors in groups.items():
        if name not in GROUPS or len(tensors) > MAX_ENTRIES:
            raise ValueError(
                f"{name}: {len(tensors)} tensors; wanted one of {GROUPS}, ≤ {MAX_ENTRIES}"
            )
        plain = {
            key: t.detach().cpu().clone(memory_format=torch.contiguous_format)
            for key, t in tensors.items()
        }
        sums[f"{name}.safetensors"] = _write(folder / f"{name}.safetensors", serialise(plain))
    state = {**state, "format": FORMAT, "sha256": sums}
    state["sha256"]["state.json"] = hashlib.sha256(_canonical(state)).hexdigest()
    _write(
        folder / "state.json", json.dumps(state, indent=1, sort_keys=True, allow_nan=False).encode()
    )
    _sync(folder)


def _write(path: Path, content: bytes) -> str:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(content).hexdigest()


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _canonical(state: dict[str, Any]) -> bytes:
    return json.dumps(state, sort_keys=True, allow_nan=False).encode()


def _read(path: Path, limit: int | None = None) -> bytes:
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or (limit is not None and found.st_size > limit):
            most = "" if limit is None else f" of at most {limit} bytes"
            raise CheckpointError(
                f"{path}: is no regular file, or has {found.st_size} bytes; wanted a file{most}"
            )
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


def _items(text: bytes, *where: int) -> int:
    """About how many values a JSON text has, at no more cost than its bytes."""
    return sum(text.count(mark, *where) for mark in (b",", b"[", b"{"))


def _read_state(path: Path) -> dict[str, Any]:
    text = _read(path, MAX_STATE_BYTES)
    if (items := _items(text)) > _MAX_STATE_ITEMS:
        raise CheckpointError(f"{path}: has {items} items, wanted at most {_MAX_STATE_ITEMS}")
    try:
        state = json.loads(text)
        expected = state["sha256"].pop("state.json")
        actual = hashlib.sha256(_canonical(state)).hexdigest()
        version = state["format"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not a checkpoint's state ({error!r})") from error
    if actual != expected:
        raise CheckpointError(f"{path}: SHA-256 differs from the one written")
    if version != FORMAT:
        raise CheckpointError(f"{path}: has format {version}, this version reads {FORMAT}")
    return state


def _read_tensors(path: Path, state: dict[str, Any]) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    content = _read(path)
    if hashlib.sha256(content).hexdigest() != state["sha256"][path.name]:
        raise CheckpointError(f"{path}: SHA-256 differs from the one in state.json")
    # our own checksum says nothing about a file that somebody else prepared: bound the parser too
    length = struct.unpack("<Q", content[:8])[0] if len(content) >= 8 else 0
    if not 0 < length <= min(MAX_HEADER_BYTES, len(content) - 8):
        raise CheckpointError(
            f"{path}: header of {length} bytes, wanted at most {MAX_HEADER_BYTES}"
        )
    entries, items = content.count(b'"dtype"', 8, 8 + length), _items(content, 8, 8 + length)
    if entries > MAX_ENTRIES or items > _ITEMS_AN_ENTRY * (1 + entries):
        raise CheckpointError(
            f"{path}: header of {entries} tensors with {items} items; wanted at most {MAX_ENTRIES} "
            f"tensors, with {_ITEMS_AN_ENTRY} each"
        )
    try:
        return parse(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: is not a safetensors file ({error})") from error
