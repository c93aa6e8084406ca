"""Which backend an op takes, by device, dtype and shape."""

import logging
import math
from functools import lru_cache

import torch

from fastseg.ops import fft, impl, tables
from fastseg.ops.context import traced
from fastseg.ops.impl import bounds

log = logging.getLogger("fastseg")
META = (
    "meta"  # stands for a backend where tensors have a shape alone: torch sees the call, no kernel
)


@lru_cache(maxsize=16)
def _say_once(message: str) -> None:
    log.warning(message)


def select(
    family, setting: str, device: torch.device | str, dtype: torch.dtype, kernels_win: bool = True
) -> str:
    """Return the backend of an op, by its arguments alone; RuntimeError where a forced one cannot
    run.

    family: one of `impl`'s tables, or the names in it; setting: as `context.setting` returns it;
    kernels_win: whether its kernels are worth it for these shapes.

    >>> from fastseg.ops import dispatch, impl
    >>> dispatch.select(impl.SPECTRAL, "matmul", "cpu", torch.float32)
    'matmul'
    """
    if setting != "auto":
        reason = impl.unable(setting, device, dtype)
        if not reason and setting not in ("reference", "matmul", *family):
            reason = "it has no kernel for this op"
        if reason:
            raise RuntimeError(f"backend {setting!r} was asked for: {reason}")
        return setting
    device = torch.device(device)
    if device.type == "meta":
        return META
    if not kernels_win:
        return "reference"
    preferred = impl.PREFERRED.get(device.type, ())
    able = [name for name in preferred if name in family and not impl.unable(name, device, dtype)]
    taken = able[0] if able else "matmul"
    if preferred and taken != preferred[0] and not traced():
        _say_fallback(preferred[0], taken, device)
    return taken


def _say_fallback(backend: str, taken: str, device: torch.device) -> None:
    """One line, once, where the build and the device are the cause, not a dtype."""
    if reason := impl.WHY_NOT[backend] or impl.unfit(backend, device):
        _say_once(
            f"falling back to {impl.detail(taken)} on {device}: backend {backend!r}: {reason}"
        )


def select_spectral(
    setting: str,
    device: torch.device | str,
    dtype: torch.dtype,
    sizes,
    out_sizes,
    modes,
    family=impl.SPECTRAL,
) -> str:
    """Return the backend of an op made of truncated transforms, between grids `sizes` and
    `out_sizes`.
    """
    if setting != "auto" or torch.device(device).type == "meta":
        return select(family, setting, device, dtype)
    tf32 = torch.device(device).type == "cuda" and bounds.tf32_allowed()
    fastest = _fastest if traced() else _fastest_cached
    taken = fastest(device, dtype, tuple(sizes), tuple(out_sizes), tuple(modes), tf32)
    return "matmul" if taken == "matmul" else select(family, setting, device, dtype, not taken)


def _fastest(device, dtype, sizes, out_sizes, modes, tf32: bool) -> str:
    """Which of torch's means beats the kernels, "" for none."""
    for grid in (sizes, out_sizes):
        if not transforms_win(device, grid, modes, dtype):
            return "reference"
    wins = (matmul_wins(device, grid, modes, dtype, tf32) for grid in (sizes, out_sizes))
    return "matmul" if any(wins) else ""


_fastest_cached = lru_cache(maxsize=1024)(_fastest)


def select_fourier_unit(
    setting: str, device: torch.device | str, dtype: torch.dtype, sizes, images: int
) -> str:
    """Return the backend of a Fourier unit, whose spectra are whole; images: B·C."""
    win = setting == "auto" and full_spectra_win(device, sizes, images, dtype)
    return select(impl.SPECTRAL_POINTWISE, setting, device, dtype, win)


def full_spectra_win(
    device: torch.device | str, sizes, images: int, dtype: torch.dtype = torch.float32
) -> bool:
    """Tell whether the kernels beat the FFT chain of a Fourier unit, which has no zeros to fill but
    real and imaginary parts to pack.

    Matrices along the axes do unless those are long: their multiply-adds a sample grow with the
    size, an FFT's with its logarithm (`bounds.TABLE`). The CPU's own FFT does, given planes enough
    to fill its vectors: a transform of planes of 64² to 256² takes 1.1 to 1.5 ns a sample on AVX2,
    torch's 1.6 to 2.4, its inverse more.
    """
    bins = tables.half_spectrum(sizes)
    most = bounds.most_work("fourier_unit", device, dtype, sum(size > 1 for size in sizes))
    work, samples = _multiply_adds(sizes, bins)
    if work <= most * samples:
        return True
    kind = torch.device(device).type
    filled = kind != "cpu" or images * math.prod(sizes[:-2]) >= 8
    return filled and _fft_serves(device, dtype, sizes, bins)


def transforms_win(
    device: torch.device | str, sizes, modes, dtype: torch.dtype = torch.float32
) -> bool:
    """Tell whether the kernels beat torch.fft at truncated transforms."""
    if short_matrices_win(device, sizes, modes, dtype):
        return True
    return _fft_serves(device, dtype, sizes, modes)


def _fft_serves(device: torch.device | str, dtype: torch.dtype, sizes, modes) -> bool:
    """Tell whether the kernels of a device have an FFT for this spectrum; of sizes that are symbols
    nothing is asked that would hold for one size alone.
    """
    if traced() and not all(_is_known(n) for n in sizes):
        return False
    kind = torch.device(device).type
    if kind == "cuda":
        whole = tuple(modes) == tables.half_spectrum(sizes) and fft.serves_on_cuda(sizes)
        return whole and not impl.unable("cuda", device, dtype)
    return kind == "cpu" and fft.serves(sizes, modes)


def _is_known(size) -> bool:
    shapes = torch.fx.experimental.symbolic_shapes  # whoever traces has loaded it
    return not hasattr(shapes, "has_static_value") or shapes.has_static_value(size)


def short_matrices_win(
    device: torch.device | str, sizes, modes, dtype: torch.dtype = torch.float32
) -> bool:
    """Tell whether matrices along the axes beat an FFT: many modes on long axes do not.

    Counts multiply-adds a sample, halved by folding, against the device's bound, and the last
    axis's table: in 1-D 1.1 times faster with 2^18 numbers, 0.4 with 2^20.
    """
    kept, bins = math.prod(modes), math.prod(tables.half_spectrum(sizes))
    family = "whole" if 2 * kept >= bins else "spectral"
    most = bounds.most_work(family, device, dtype, len(sizes))
    work, samples = _multiply_adds(sizes, modes)
    return work <= most * samples and sizes[-1] * modes[-1] <= 2 * 2**18


def matmul_wins(device: torch.device | str, sizes, modes, dtype: torch.dtype, tf32: bool) -> bool:
    """Tell whether torch.matmul, which may round to TF32, beats the kernels where these beat
    torch.fft.
    """
    found = bounds.matmul_range(device, dtype, tf32)
    if found is None or _fft_serves(device, dtype, sizes, modes):
        return False
    work, samples = _multiply_adds(sizes, modes)
    return found.above * samples < work <= found.most * samples


def _multiply_adds(sizes, modes) -> tuple[int, int]:
    """Those of one image's transform, halved by folding, and its samples."""
    width, columns = sizes[-1], modes[-1]
    height, rows = (sizes[-2], modes[-2]) if len(sizes) > 1 else (1, 1)
    depth, planes = (sizes[-3], modes[-3]) if len(sizes) > 2 else (1, 1)
    plane = rows * columns * width + (rows * height * width // 2 if len(sizes) > 1 else 0)
    work = depth * plane + (planes * rows * columns * depth if len(sizes) > 2 else 0)
    return work, depth * height * width
