"""What a program runs on: versions, commit, processor, GPUs."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "lightning-fabric", "monai", "nibabel", "numpy", "safetensors", "triton",
             "nvidia-dali-cuda120", "nvidia-dali-cuda130")  # fmt: skip
_RIVALS = ("neuraloperator", "monai", "kornia", "torchvision", "triton")


def of_run() -> dict[str, Any]:
    """Describe the environment of a run, JSON-able, as its env.json records it."""
    import torch

    import fastseg

    return {
        "fastseg": fastseg.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := version(name))},
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "backends": {name: status._asdict() for name, status in fastseg.backends().items()},
        "command": sys.argv,
    }


def of_bench(device: str) -> dict[str, Any]:
    """Describe the environment of a benchmark's record, JSON-able."""
    import torch

    import fastseg
    from fastseg.ops import impl

    native = impl._C
    found = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "isa": native.cpu_isa() if native else None,
        "compiler": native.compiler if native else None,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "rivals": {name: version(name) for name in _RIVALS},
        "fastseg": fastseg.__version__,
        "commit": commit(12),
    }
    if device != "cpu":
        driver = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found |= {
            "gpu": torch.cuda.get_device_name(),
            "capability": torch.cuda.get_device_capability(),
            "driver": _output(driver),
            "cuda": torch.version.cuda,
            "cuda_architectures": getattr(native, "cuda_architectures", None),
        }
    return found


def version(package: str) -> str | None:
    """Look up the installed version of a distribution; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """Name the processor as its vendor does."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def cpu_features() -> set[str]:
    """Collect the instruction sets that the processor says it has; empty where it does not say."""
    lines = [line for line in _cpuinfo() if line.startswith(("flags", "Features"))]
    return set(lines[0].partition(":")[2].split()) if lines else set()


def commit(digits: int = 40) -> str | None:
    """Name the source tree's commit, "-dirty" where files differ; of a copy without a repository
    what FASTSEG_COMMIT says, else None.
    """
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    # an installed copy inside somebody's own repository has no commit of ours
    if not _output([*git, "ls-files", Path(__file__).name]):
        return os.environ.get("FASTSEG_COMMIT", "")[:digits] or None
    options = ["--always", "--dirty", f"--abbrev={digits}", "--exclude=*"]
    return _output([*git, "describe", *options])


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines()
    except OSError:
        return []


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
