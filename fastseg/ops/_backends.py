"""Which implementation runs: the table of backends, their selection, and the only imports of
`fastseg._C` and `fastseg.kernels`.

A backend of the spectral family is three functions with one meaning everywhere; spectra are real
tensors with a trailing 2:
  analysis(x, modes, scale, weighted, two_sided) → spectrum            synthesis(spectrum, sizes,
  scale, weighted, two_sided, dtype, bias) → y
  mix(a, b, subscripts) → out, one of the three products of a spectral convolution (see `MIXES`)
  convolve(x, weight, bias, sizes, groups, analysis_scale, synthesis_scale, two_sided) → y, spectrum
"""

import ctypes
import logging
import math
import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fastseg import plan

try:
    from fastseg import _C

    _C_MISSING = ""
except ImportError as error:
    _C, _C_MISSING = None, f"fastseg._C does not import ({error}); reinstall with `pip install .`"

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

NAMES = ("auto", "reference", "matmul", "cpu", "cuda", "triton")
_DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
_SINGLE_AXIS = (0, 0, 1, 1, 0, plan.TABLE_PADDING)


class Status(NamedTuple):
    """Truthy where a backend runs on this machine; `detail` says what it is, or why it does not."""

    live: bool
    detail: str

    def __bool__(self) -> bool:
        return self.live


# why a backend cannot run at all on this machine; None where it can
_WHY_NOT = {
    "reference": None,
    "matmul": None,
    "cpu": _C_MISSING if _C is None else None,
    "cuda": "no kernels for CUDA in this build",
    "triton": "no Triton kernels in this version",
}


def backends() -> dict[str, Status]:
    """What is live on this machine, and why not where it is not, by backend name."""
    live = {"reference": "torch.fft", "matmul": "torch.matmul"}
    if _C is not None:
        live["cpu"] = f"{_C.cpu_isa()} kernels, {_C.compiler}"
    return {name: Status(why is None, why or live[name]) for name, why in _WHY_NOT.items()}


def _checked(name: str) -> str:
    if name not in NAMES:
        raise ValueError(f"backend: got {name!r}, want one of {', '.join(NAMES)}")
    return name


_current = _checked(os.environ.get("FASTSEG_BACKEND", "auto"))


class use_backend:
    """Selects the backend of every op in this process, for good or, in a `with`, until its end.

    "auto" takes the fastest one for a tensor's device, dtype and shape; any other name is forced,
    and an op that it cannot serve raises RuntimeError saying why. The environment variable
    FASTSEG_BACKEND sets the default.
    """

    def __init__(self, name: str):
        global _current
        self._previous, _current = _current, _checked(name)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        global _current
        _current = self._previous


def setting() -> str:
    """The name given to `use_backend`, or the default."""
    return _current


def unable(backend: str, device_type: str) -> str | None:
    """Why `backend` cannot serve tensors on a device, or None where it can."""
    if _WHY_NOT[backend] or backend in ("reference", "matmul"):
        return _WHY_NOT[backend]
    served = "cpu" if backend == "cpu" else "cuda"
    if device_type != served:
        return f"it serves {served} tensors, x is on {device_type}"
    return None


@lru_cache(maxsize=16)
def _say_once(message: str) -> None:
    log.warning(message)


def select(setting: str, device_type: str, sizes, out_sizes, modes) -> str:
    """The backend of a spectral op, by its arguments alone; RuntimeError where it cannot run."""
    if setting != "auto":
        reason = unable(setting, device_type)
        if reason:
            raise RuntimeError(f"backend {setting!r} was asked for: {reason}")
        return setting
    if not short_matrices_win(sizes, modes) or not short_matrices_win(out_sizes, modes):
        return "reference"
    if device_type == "cpu":
        if _C is not None:
            return "cpu"
        if not torch.compiler.is_compiling():
            _say_once(f"falling back to torch.matmul: {_C_MISSING}")
    return "matmul"


def short_matrices_win(sizes, modes) -> bool:
    """Whether matrices along the axes beat an FFT: many modes on long axes do not.

    Counts multiply-adds a sample, halved by folding, and the last axis's table. The bounds are
    where the C++ kernels met torch.fft on AVX2 (`fastseg bench --only crossover`): 1.3 times faster
    at 256 multiply-adds, 0.9 at 512; in 1-D 1.1 with a table of 2^18 numbers, 0.4 with 2^20.
    """
    width, columns = sizes[-1], modes[-1]
    height, rows = (sizes[-2], modes[-2]) if len(sizes) > 1 else (1, 1)
    depth, planes = (sizes[-3], modes[-3]) if len(sizes) > 2 else (1, 1)
    plane = rows * columns * width + (rows * height * width // 2 if len(sizes) > 1 else 0)
    work = depth * plane + (planes * rows * columns * depth if len(sizes) > 2 else 0)
    return work <= 256 * depth * height * width and width * columns <= 2 * 2**18


def _native_axis(size: int, kept: plan.Kept, tables: tuple[Tensor, Tensor], padded: int) -> tuple:
    return (tables[0].data_ptr(), tables[1].data_ptr(), size, kept.positive, kept.negative, padded)


class _Plan(NamedTuple):
    transform: object
    tables: list  # kept alive: the transform holds their addresses
    depth: int


@lru_cache(maxsize=512)
def _native_plan(sizes, modes, two_sided, synthesis, scale, weighted, dtype) -> _Plan:
    kept = plan.kept_axes(modes, two_sided)
    last = plan.last_tables(sizes[-1], modes[-1], synthesis, scale, weighted, dtype)
    axes, tables = [_native_axis(sizes[-1], kept[-1], last, last[0].shape[1])], [last]
    for size, axis in zip(reversed(sizes[:-1]), reversed(kept[:-1]), strict=True):
        tables.append(plan.outer_tables(size, axis, synthesis, dtype))
        axes.insert(0, _native_axis(size, axis, tables[-1], plan.TABLE_PADDING))
    axes = [_SINGLE_AXIS] * (3 - len(axes)) + axes
    return _Plan(_C.Transform(*axes), tables, sizes[-3] if len(sizes) == 3 else 1)


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _planes(native: _Plan, spectrum: Tensor, images: int) -> Tensor | None:
    if native.depth == 1:
        return None
    return spectrum.new_empty((images, native.depth, *spectrum.shape[3:]))


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _cpu_analysis(x: Tensor, modes, scale: float, weighted: bool, two_sided: bool) -> Tensor:
    x, modes = x.contiguous(), tuple(modes)
    batch, channels, *sizes = x.shape
    dtype = _compute_dtype(x.dtype)
    native = _native_plan(tuple(sizes), modes, two_sided, False, scale, weighted, dtype)
    spectrum = torch.empty((batch, channels, *modes, 2), dtype=dtype)
    planes = _planes(native, spectrum, batch * channels)
    _C.cpu_analysis(
        native.transform,
        x.data_ptr(),
        spectrum.data_ptr(),
        _address(planes),
        batch * channels,
        _DTYPE_CODES[x.dtype],
        torch.get_num_threads(),
    )
    return spectrum


def _cpu_synthesis(
    spectrum: Tensor,
    sizes,
    scale: float,
    weighted: bool,
    two_sided: bool,
    dtype: torch.dtype,
    bias: Tensor | None,
) -> Tensor:
    spectrum, sizes = spectrum.contiguous(), tuple(sizes)
    batch, channels, *modes, _ = spectrum.shape
    native = _native_plan(sizes, tuple(modes), two_sided, True, scale, weighted, spectrum.dtype)
    y = torch.empty((batch, channels, *sizes), dtype=dtype)
    planes = _planes(native, spectrum, batch * channels)
    bias = None if bias is None else bias.to(spectrum.dtype).contiguous()
    _C.cpu_synthesis(
        native.transform, spectrum.data_ptr(), _address(planes), _address(bias), y.data_ptr(), batch
        * channels, max(channels, 1),
        _DTYPE_CODES[dtype], torch.get_num_threads(),
    )  # fmt: skip
    return y


# a, b → out over batch n, groups g, channels i (in) and o (out) of a group, modes m; the second
# operand or, in the weight gradient, the
# first one is conjugated
MIXES = {
    "ngim,igom->ngom": (False, False),  # forward
    "ngom,igom->ngim": (False, True),  # input gradient
    "ngim,ngom->igom": (True, False),  # weight gradient
}


def _strides(subscripts: str, shape: dict[str, int]) -> dict[str, int]:
    strides, step = {}, 1
    for axis in reversed(subscripts):
        strides[axis], step = step, step * shape[axis]
    return strides


@lru_cache(maxsize=512)
def _mix_layout(subscripts: str, shape_a: tuple, shape_b: tuple):
    names_a, rest = subscripts.split(",")
    names_b, names_out = rest.split("->")
    shape = dict(zip(names_a, shape_a, strict=True)) | dict(zip(names_b, shape_b, strict=True))
    a, b, out = (_strides(names, shape) for names in (names_a, names_b, names_out))
    (p,) = set(names_a) & set(names_out) - set("gm")
    (q,) = set(names_b) & set(names_out) - set("gm")
    (r,) = set(names_a) & set(names_b) - set("gm")
    return (
        [shape[axis] for axis in ("g", p, q, r, "m")],
        [a["g"], a[p], a[r]],
        [b["g"], b[r], b[q]],
        [out["g"], out[p], out[q]],
        [shape[axis] for axis in names_out],
    )


def _cpu_mix(a: Tensor, b: Tensor, subscripts: str) -> Tensor:
    a, b = a.contiguous(), b.contiguous()
    extents, stride_a, stride_b, stride_out, shape = _mix_layout(
        subscripts, a.shape[:-1], b.shape[:-1]
    )
    conj_a, conj_b = MIXES[subscripts]
    out = torch.empty((*shape, 2), dtype=a.dtype)
    _C.cpu_mix(
        a.data_ptr(), b.data_ptr(), out.data_ptr(), extents, stride_a, stride_b, stride_out, conj_a,
        conj_b,
        a.dtype == torch.float64, torch.get_num_threads(),
    )  # fmt: skip
    return out


@lru_cache(maxsize=512)
def _native_convolution(sizes, out_sizes, modes, channels, groups, scales, two_sided, dtype):
    wide = _compute_dtype(dtype)
    analysis = _native_plan(sizes, modes, two_sided, False, scales[0], False, wide)
    synthesis = _native_plan(out_sizes, modes, two_sided, True, scales[1], True, wide)
    inputs, outputs = (c // groups for c in channels)
    # the plans keep their tables alive
    return (analysis, synthesis), _C.Convolution(
        analysis.transform, synthesis.transform, groups, inputs, outputs, math.prod(modes),
        _DTYPE_CODES[dtype],
    )  # fmt: skip


def _cpu_convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, sizes, groups: int, analysis_scale: float,
    synthesis_scale: float, two_sided: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    x, weight = x.contiguous(), weight.contiguous()
    batch, channels, *in_sizes = x.shape
    outputs, *modes = weight.shape[1:-1]
    _, native = _native_convolution(
        tuple(in_sizes), tuple(sizes), tuple(modes), (channels, outputs), groups,
        (analysis_scale, synthesis_scale), two_sided, x.dtype,
    )  # fmt: skip
    spectrum = weight.new_empty((batch, channels, *modes, 2))
    y = x.new_empty((batch, outputs, *sizes))
    bias = None if bias is None else bias.to(weight.dtype).contiguous()
    _C.cpu_convolve(
        native, x.data_ptr(), weight.data_ptr(), _address(bias), spectrum.data_ptr(), y.data_ptr(),
        batch, torch.get_num_threads(),
    )  # fmt: skip
    return y, spectrum


class Spectral(NamedTuple):
    analysis: object
    synthesis: object
    mix: object
    convolve: object  # analysis, mix and synthesis in one call → y, kept spectrum of x


SPECTRAL = {"cpu": Spectral(_cpu_analysis, _cpu_synthesis, _cpu_mix, _cpu_convolve)}
