"""What the figures were taken on."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

from fastseg.ops import impl

_RIVALS = ("neuraloperator", "monai", "kornia", "torchvision", "triton")


def describe(device: str) -> dict:
    """Hardware, versions and commit, JSON-able."""
    import fastseg

    native = impl._C
    found = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "isa": native.cpu_isa() if native else None,
        "compiler": native.compiler if native else None,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "rivals": {name: _version(name) for name in _RIVALS},
        "fastseg": fastseg.__version__,
        "commit": _commit(),
    }
    if device != "cpu":
        found |= {
            "gpu": torch.cuda.get_device_name(),
            "capability": torch.cuda.get_device_capability(),
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "cuda_architectures": getattr(native, "cuda_architectures", None),
        }
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _driver() -> str | None:
    return _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])


def _commit() -> str | None:
    """The commit of the source tree, "-dirty" where files differ; None if installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    return _output(["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"])


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
