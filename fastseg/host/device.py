"""Why torch has no GPU to compute on here, and what would change that."""

import ctypes
import functools
import logging
import shutil
from pathlib import Path

import torch

log = logging.getLogger("fastseg")
# CUDA 13 has dropped compute capability 7.0 and needs the drivers that came with it
_WHEELS = "cu130, or cu126 for V100 and for drivers before 580"
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def why_no_gpu() -> str | None:
    """The reason and the remedy in one line; None where torch sees a GPU."""
    if torch.cuda.is_available():
        return None
    if not machine_has_gpu():
        return "no NVIDIA GPU is found on this machine"
    if not torch.backends.cuda.is_built():
        return (
            f"torch {torch.__version__} is built without CUDA though this machine has an NVIDIA "
            f"GPU: install a CUDA wheel of torch ({_WHEELS})"
        )
    return (
        f"torch {torch.__version__} cannot use this machine's NVIDIA GPU: CUDA_VISIBLE_DEVICES "
        f"hides it, or its driver is too old for CUDA {torch.version.cuda} (wheels: {_WHEELS})"
    )


def machine_has_gpu() -> bool:
    """Whether NVIDIA's driver or its tool is there, whatever torch can do."""
    places = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidia0"))
    return any(place.exists() for place in places) or shutil.which("nvidia-smi") is not None


@functools.cache
def warn_of_idle_gpu() -> None:
    """Say once that a CPU build of torch leaves a GPU unused."""
    if machine_has_gpu() and not torch.backends.cuda.is_built():
        log.warning("the CPU computes: %s", why_no_gpu())


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks instead of returning each to the kernel; elsewhere nothing.

    A step's feature maps are the same size every time. By default each is mapped anew and every
    page of it faults again, which takes longer than the arithmetic of a spectral network.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
