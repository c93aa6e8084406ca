"""The device a network runs on, the kernels it uses there, and why there is no GPU."""

import ctypes
import functools
import logging
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from fastseg import backends, use_backend
from fastseg.errors import UsageError
from fastseg.host.processes import Place

log = logging.getLogger("fastseg")
# CUDA 13 has dropped compute capability 7.0 and needs the drivers that came with it
_WHEELS = "cu130, or cu126 for V100 and for drivers before 580"
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def why_no_gpu() -> str | None:
    """Explain in one line why torch has no GPU, and the remedy; None where it sees one."""
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
    """Tell whether NVIDIA's driver or its tool is there, whatever torch can do."""
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


def pick_device(name: str) -> torch.device:
    """Choose the device that a user names "auto", "cpu" or "cuda"; "auto" is the first GPU.

    Prepares memory management for the CPU. UsageError for "cuda" where torch has none, with the
    reason.
    """
    reason = why_no_gpu() if name != "cpu" else None
    if name == "cuda" and reason:
        raise UsageError(f"device: is cuda, wanted device=auto or device=cpu: {reason}")
    if reason:
        warn_of_idle_gpu()
    if name == "auto":
        name = "cpu" if reason else "cuda"
    if name == "cpu":
        keep_freed_memory()
    return torch.device(name)


def own_device(name: str, place: Place) -> torch.device:
    """Choose as `pick_device` does, of several GPUs the one of this process."""
    device = pick_device(name)
    if device.type == "cuda" and place.world > 1:
        # under srun a task may see its own GPU alone
        return torch.device("cuda", place.local_rank % torch.cuda.device_count())
    return device


def kernels_on(device_type: str, name: str) -> str:
    """Name the backend that serves tensors of a device where it has kernels worth it."""
    from fastseg.ops import context, dispatch, impl

    name = context.setting() if name == "auto" else name
    if name != "auto":
        return name
    return dispatch.select(impl.SPECTRAL, name, device_type, torch.float32)


def use_kernels(name: str) -> AbstractContextManager:
    """Apply `fastseg.use_backend` to a user's choice; "auto" leaves FASTSEG_BACKEND its word.

    UsageError when this machine cannot serve it.
    """
    if name == "auto":
        return nullcontext()
    status = backends().get(name)
    if status is None:
        raise UsageError(f"kernels: is {name!r}, wanted auto, {', '.join(backends())}")
    if not status:
        raise UsageError(f"kernels: {name} cannot run here: {status.detail}")
    return use_backend(name)
