"""The tables of backends, one a family of operators (`contract` says what is in them), what of
them runs on this machine, and the only imports of `fastseg._C` and `fastseg.kernels`.
"""

import ctypes
import importlib.util
import logging
import os
from pathlib import Path
from typing import NamedTuple

import torch

import fastseg_mri
from fastseg.ops.impl import (
    architectures,
    composed,
    native,
    native_block,
    native_cuda,
    native_filters,
    native_pointwise,
    native_taps,
    triton,
)

try:
    from fastseg import _C

    _C_MISSING = ""
except ImportError as error:
    repair = fastseg_mri.conflict() or "reinstall with `pip install .`"
    _C, _C_MISSING = None, f"fastseg._C does not import ({error}); {repair}"

log = logging.getLogger("fastseg")


def _openmp_entry() -> int:
    """The address of GOMP_parallel in the OpenMP runtime torch is linked to, else 0."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value or 0
    except (OSError, AttributeError):
        return 0


# the kernels' loops run on torch's threads: two pools would fight for the cores
OPENMP = _C is not None and _openmp_entry()
if OPENMP:
    _C.use_openmp(OPENMP)


class Status(NamedTuple):
    """Say whether a backend runs on this machine, by its truth; `detail` says what it is, or why it
    does not.
    """

    live: bool
    detail: str

    def __bool__(self) -> bool:
        return self.live


# set before triton loads, it runs kernels on the host: for tests
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


class Lazily:
    """Stand for an object that is made when the first of its methods is called: Triton loads
    slowly.
    """

    def __init__(self, kind: type, make):
        self.kind, self._make = kind, make

    def __getattr__(self, name: str):
        if name.startswith("_"):  # of Python's own protocols, no kernel
            raise AttributeError(name)
        made = self._make()
        self.__dict__.update({n: getattr(made, n) for n in dir(made) if n[0] != "_"})
        return self.__dict__[name]


def _from_triton(adapter: type) -> Lazily:
    def make():
        from fastseg import kernels

        return adapter(kernels)

    return Lazily(adapter, make)


SPECTRAL = {"triton": _from_triton(triton.Spectral)}
POINTWISE = {"triton": _from_triton(triton.Pointwise)}
BLOCK = {"triton": triton.Block(SPECTRAL["triton"], POINTWISE["triton"])}
FILTER = {"triton": composed.Filter(SPECTRAL["triton"])}
GAUSSIAN, TAPS, GATE = {}, {}, {}
if _C is not None:
    SPECTRAL["cpu"] = native.Whole(_C, _C.cpu)
    POINTWISE["cpu"] = native_pointwise.Pointwise(_C, _C.cpu)
    BLOCK["cpu"] = native_block.CpuBlock(SPECTRAL["cpu"])
    FILTER["cpu"] = native_filters.CpuFilter(_C.cpu, SPECTRAL["cpu"])
    GAUSSIAN["cpu"] = native_filters.CpuGaussian(_C, _C.cpu)
    GATE["cpu"] = native_filters.Gate(_C, _C.cpu)
    if hasattr(_C, "cuda"):
        SPECTRAL["cuda"] = native_cuda.CudaSpectral(_C, _C.cuda)
        POINTWISE["cuda"] = native_pointwise.Pointwise(_C, _C.cuda)
        BLOCK["cuda"] = native_block.CudaBlock(SPECTRAL["cuda"], POINTWISE["cuda"])
        FILTER["cuda"] = native_filters.CudaFilter(_C.cuda, SPECTRAL["cuda"])
        GAUSSIAN["cuda"] = native_filters.Gaussian(_C, _C.cuda)
        TAPS["cuda"] = native_taps.Taps(_C.cuda)
        GATE["cuda"] = native_filters.Gate(_C, _C.cuda)
# Fourier units are made of both
SPECTRAL_POINTWISE = frozenset(SPECTRAL.keys() & POINTWISE.keys())

# the device type whose memory a backend's kernels read; a build for tests runs CUDA's on the host
SERVES = {"cpu": "cpu", "cuda": getattr(_C, "cuda_device", "cuda"),
          "triton": "cpu" if INTERPRETED else "cuda"}  # fmt: skip
# what "auto" takes on a device, the first one that can
PREFERRED = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}


def _cuda_missing() -> str | None:
    if not hasattr(_C, "cuda"):
        return _C_MISSING or "no kernels for CUDA in this build"
    if SERVES["cuda"] == "cuda" and not torch.cuda.is_available():
        return "torch finds no CUDA device"
    return None


def _triton_missing() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not INTERPRETED and not torch.cuda.is_available():
        return "torch finds no CUDA device"
    return None


# why a backend cannot run at all on this machine; None where it can
WHY_NOT = {
    "reference": None,
    "matmul": None,
    "cpu": _C_MISSING or None,
    "cuda": _cuda_missing(),
    "triton": _triton_missing(),
}


def detail(backend: str) -> str:
    """Describe a backend that runs."""
    if backend == "cpu":
        return f"{_C.cpu_isa()} kernels, {_C.compiler}"
    if backend == "cuda":
        return f"kernels for {_C.cuda_architectures}"
    if backend == "triton":
        return "interpreted on the host" if INTERPRETED else "compiled when first used"
    return {"reference": "torch.fft", "matmul": "torch.matmul"}[backend]


def backends() -> dict[str, Status]:
    """Return what is live on this machine, and why not where it is not, by backend name.

    >>> bool(backends()["reference"])
    True
    """
    why_not = {name: why or _unfit_everywhere(name) for name, why in WHY_NOT.items()}
    return {name: Status(why is None, why or detail(name)) for name, why in why_not.items()}


def _unfit_everywhere(backend: str) -> str | None:
    """Why none of the CUDA devices runs a backend's kernels; None where one does."""
    if SERVES.get(backend) != "cuda":
        return None
    devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    reasons = [unfit(backend, device) for device in devices]
    return "; ".join(reasons) if all(reasons) else None


def unfit(backend: str, device: torch.device) -> str | None:
    """Say why a backend that runs on this machine cannot on one device of it; None where it can."""
    if device.type != "cuda" or SERVES.get(backend) != "cuda":
        return None
    return architectures.unfit(backend, getattr(_C, "cuda_architectures", ""), device)


def unable(backend: str, device: torch.device | str, dtype: torch.dtype) -> str | None:
    """Say why `backend` cannot serve tensors of a device and dtype, or None where it can."""
    device = torch.device(device)
    if WHY_NOT[backend] or backend in ("reference", "matmul"):
        return WHY_NOT[backend]
    if device.type != SERVES[backend]:
        return f"it serves {SERVES[backend]} tensors, x is on {device.type}"
    if dtype == torch.float64 and backend != "cpu":
        return "its kernels compute in float32, x is float64"
    return unfit(backend, device)
