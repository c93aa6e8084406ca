"""A run's folder: who may write there, and the small files in it."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastseg.errors import UsageError

_PACKAGES = ("torch", "lightning-fabric", "monai", "nibabel", "numpy", "safetensors", "triton",
             "nvidia-dali-cuda120", "nvidia-dali-cuda130")  # fmt: skip


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold `out` for this process; the kernel lets go when the process ends, however it ends.

    UsageError when another run holds it.
    """
    import fcntl

    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"{out}: is a file, wanted a folder for the run") from None
    with (out / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip()
            raise UsageError(f"{out}: another run is writing there (process {owner})") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def write_json(path: Path, value: Any) -> None:
    """Write `value` so that `path` holds the old or the new text, never half of it."""
    # processes that write the same file must not share it
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(temporary, path)


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append one line to a metrics.jsonl, in a single write."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def environment() -> dict[str, Any]:
    """What env.json records: versions, code commit, processor, GPUs, live backends."""
    import torch

    import fastseg

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "fastseg": fastseg.__version__,
        "commit": _commit(),
        "python": sys.version.split()[0],
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "cuda": torch.version.cuda,
        "backends": {name: status._asdict() for name, status in fastseg.backends().items()},
        "command": sys.argv,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    # an installed copy inside somebody's own repository has no commit of ours
    ours = _output([*git, "ls-files", Path(__file__).name])
    return (
        _output([*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"])
        if ours
        else None
    )


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), ""
    )
