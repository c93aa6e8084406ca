"""Truncated transforms and the spectral convolution: argument checks and the choice of backend."""

from functools import lru_cache

import torch
from torch import Tensor

from fastseg import plan, reference
from fastseg.ops import _backends, _checks, _fno_block_ops, _matmul, _spectral_ops


def truncated_rfftn(x: Tensor, modes, norm: str = "backward", two_sided: bool = True) -> Tensor:
    """The kept part of the real FFT over the last len(modes) axes.

    x: (B, C, *S) real, 1 to 3 axes; returns (B, C, *modes) complex64 (complex128 for float64).
    `modes` counts kept rows: on every axis but the last ⌈m/2⌉ non-negative frequencies, then ⌊m/2⌋
    negative ones (with two_sided=False rows 0 … m−1), on the last the non-negative columns, at most
    S//2+1. Equals `torch.fft.rfftn(x, norm=norm)` at those bins; differentiable, reads x once.

    Raises ValueError for shapes, modes or norm that do not fit, TypeError for dtypes.
    """
    _checks.check_tensor("x", x)
    modes, sizes = _checks.integers("modes", modes), tuple(x.shape[2:])
    _checks.check_real("x", x.dtype, x.shape, len(modes))
    _checks.check_norm(norm)
    _checks.check_modes(modes, sizes, two_sided, "x's")
    backend = _backends.select_spectral(_backends.setting(), x.device, x.dtype, sizes, sizes, modes)
    if backend == "reference":
        return reference.truncated_rfftn(x, modes, norm, two_sided)
    scale, _ = plan.scales(norm, sizes)
    if backend == "matmul":
        return torch.view_as_complex(_matmul.analysis(x, modes, scale, False, two_sided))
    return torch.view_as_complex(
        torch.ops.fastseg.analysis(x, modes, scale, False, two_sided, backend)
    )


def truncated_irfftn(
    spectrum: Tensor, sizes, norm: str = "backward", two_sided: bool = True,
    dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """The inverse of `truncated_rfftn`, bins outside `modes` being zero.

    spectrum: (B, C, *modes) complex; returns (B, C, *sizes), float32 or float64 unless `dtype` asks
    otherwise. The complex inverse runs over all axes but the last first, then the imaginary part of
    the last axis's columns 0 and (even size) size/2 is ignored, on every backend
    (`fastseg.reference`). Differentiable, writes the result once.

    Raises ValueError for shapes, sizes or norm that do not fit, TypeError for dtypes.
    """
    _checks.check_tensor("spectrum", spectrum)
    if spectrum.dtype not in (torch.complex64, torch.complex128):
        raise TypeError(f"spectrum: got dtype {spectrum.dtype}, want complex64 or complex128")
    if not 3 <= spectrum.dim() <= 5:
        raise ValueError(
            f"spectrum: got shape {tuple(spectrum.shape)}, want (B, C, *modes), 1 to 3 mode axes"
        )
    modes = tuple(spectrum.shape[2:])
    sizes = _checks.check_sizes(sizes, len(modes))
    _checks.check_norm(norm)
    _checks.check_modes(modes, sizes, two_sided, "the output's")
    wide = torch.float64 if spectrum.dtype == torch.complex128 else torch.float32
    dtype = wide if dtype is None else dtype
    if dtype not in _checks.FLOATS:
        raise TypeError(f"dtype: got {dtype}, want float32, float64, float16 or bfloat16")
    backend = _backends.select_spectral(
        _backends.setting(), spectrum.device, wide, sizes, sizes, modes
    )
    if backend == "reference":
        return reference.truncated_irfftn(spectrum, sizes, norm, two_sided, dtype)
    _, scale = plan.scales(norm, sizes)
    real = torch.view_as_real(spectrum.resolve_conj())
    # a kernel writes the 16-bit types from float32 only, and no other mixture
    written = wide if torch.float64 in (wide, dtype) else dtype
    if backend == "matmul":
        y = _matmul.synthesis(real, sizes, scale, True, two_sided, written, None)
    else:
        y = torch.ops.fastseg.synthesis(real, sizes, scale, True, two_sided, written, backend)
    return y.to(dtype)


class _Call:
    """A spectral convolution's arguments, checked and completed, and where a backend has one the
    function that takes tensors like these.
    """

    __slots__ = ("backend", "function", "modes", "scales", "sizes")

    def __init__(self, modes: tuple, sizes: tuple, scales: tuple[float, float], backend: str):
        self.modes, self.sizes, self.scales, self.backend = modes, sizes, scales, backend
        self.function = None


def _prepare(
    setting: str, device: torch.device, dtype: torch.dtype, shape, weight_shape, bias_shape, sizes,
    groups: int, norm: str, two_sided: bool, modes, family=None,
) -> _Call:  # fmt: skip
    modes = tuple(weight_shape[2:-1]) if modes is None else modes
    _checks.check_real("x", dtype, shape, len(modes))
    if len(weight_shape) != len(modes) + 3:
        raise ValueError(
            f"weight: got {len(weight_shape) - 3} mode axes, want {len(modes)}, as many as modes"
        )
    _checks.check_norm(norm)
    out_sizes = tuple(shape[2:]) if sizes is None else _checks.check_sizes(sizes, len(modes))
    _checks.check_modes(modes, shape[2:], two_sided, "x's")
    _checks.check_modes(modes, out_sizes, two_sided, "the output's")
    _checks.check_weight(shape[1], weight_shape[:-1], bias_shape, groups, modes)
    scales = plan.scales(norm, shape[2:])[0], plan.scales(norm, out_sizes)[1]
    backend = _backends.select_spectral(
        setting, device, dtype, shape[2:], out_sizes, modes, family or _backends.SPECTRAL
    )
    return _Call(modes, out_sizes, scales, backend)


_prepare_cached = lru_cache(maxsize=1024)(_prepare)


def spectral_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, sizes=None, groups: int = 1,
    norm: str = "backward", two_sided: bool = True, modes=None,
) -> Tensor:  # fmt: skip
    """Truncated-mode spectral convolution: transform, one complex matrix product over channels for
    every kept mode, inverse, bias (Li et al., 2021, eq. 5).

    x: (B, Cin, *S) real; weight: (Cin/groups, Cout, *modes) complex, or real with a trailing 2;
    output channel o belongs to group o // (Cout/groups); bias: (Cout,). With `modes` given, the
    weight's mode axes may be 1 (one matrix shared by all modes). `sizes` asks for another output
    grid. Returns (B, Cout, *sizes) in x.dtype; 16-bit inputs are computed in float32. Backward: x,
    weight, bias; only the weight and the kept spectrum of x are saved.

    Raises ValueError or TypeError naming the argument, RuntimeError where a forced backend cannot
    run.
    """
    real = _checks.real_weight(weight, x)
    _checks.check_device(x, weight=real, bias=bias)
    _checks.check_bias(bias)
    prepare = _prepare if plan.traced() else _prepare_cached
    shared = modes is not None
    if sizes is not None:
        sizes = _checks.integers("sizes", sizes)
    call = prepare(
        _backends.setting(), x.device, x.dtype, x.shape, real.shape,
        None if bias is None else bias.shape, sizes, groups, norm, two_sided,
        _checks.integers("modes", modes) if shared else None,
    )  # fmt: skip
    modes, sizes, scales, backend = call.modes, call.sizes, call.scales, call.backend
    by_all = shared and all(n == 1 for n in real.shape[2:-1])
    if shared and not by_all:
        real = real.expand(*real.shape[:2], *modes, 2)
    if backend == "reference":
        weight = torch.view_as_complex(real.contiguous())
        return reference.spectral_conv(x, weight, bias, sizes, groups, norm, two_sided, modes)
    if backend == "matmul":
        return _matmul.convolve(x, real, bias, modes, sizes, groups, *scales, two_sided)
    if by_all:
        return _convolve_shared(x, real, bias, modes, sizes, groups, *scales, two_sided, backend)
    arguments = sizes, groups, *scales, two_sided, backend
    if _backends.watched(x, real, bias):
        return torch.ops.fastseg.spectral_conv(x, real, bias, *arguments)[0]
    if backend not in _backends.PREPARED:
        return _spectral_ops.spectral_conv(x, real, bias, *arguments)[0]
    if call.function is None:
        call.function = _backends.PREPARED[backend](x, real, sizes, groups, scales, two_sided)
    return call.function(x, real, bias)


def _convolve_shared(
    x: Tensor, weight: Tensor, bias: Tensor | None, modes, sizes, groups: int,
    analysis_scale: float, synthesis_scale: float, two_sided: bool, backend: str,
) -> Tensor:  # fmt: skip
    """The convolution by a weight that all modes share: one matrix product, never expanded."""
    spectrum = torch.ops.fastseg.analysis(x, modes, analysis_scale, False, two_sided, backend)
    mixed = _matmul.mix(spectrum, weight, groups).contiguous()
    if bias is not None:
        # a constant is a zero frequency: no pass over y
        mixed.flatten(2)[..., 0] += bias.to(mixed.dtype) / synthesis_scale
    return torch.ops.fastseg.synthesis(
        mixed, sizes, synthesis_scale, True, two_sided, x.dtype, backend
    )


def fno_block(
    x: Tensor, weight: Tensor, skip_weight: Tensor, bias: Tensor | None = None, sizes=None,
    groups: int = 1, norm: str = "backward", two_sided: bool = True,
) -> Tensor:  # fmt: skip
    """`gelu(spectral_conv(x, weight) + skip_weight·x + bias)`, the block of a Fourier neural
    operator (Li et al., 2021, eq. 2).

    skip_weight: (Cout, Cin/groups), applied at every point; the other arguments are
    `spectral_conv`'s. `sizes` must be x's. 16-bit inputs are computed in float32 throughout.
    Backward: x, skip_weight and what `spectral_conv` does; x, the weights and the kept spectrum of
    x are saved, the pre-activation is computed again.
    """
    _checks.check_tensor("x", x)
    _checks.check_real("x", x.dtype, x.shape, x.dim() - 2)
    if sizes is not None and _checks.integers("sizes", sizes) != tuple(x.shape[2:]):
        raise ValueError(
            f"sizes: got {tuple(sizes)}, want x's {tuple(x.shape[2:])}: the skip keeps the grid"
        )
    real = _checks.real_weight(weight, x)
    _checks.check_device(x, weight=real, bias=bias)
    _checks.check_bias(bias)
    prepare = _prepare if plan.traced() else _prepare_cached
    call = prepare(
        _backends.setting(), x.device, x.dtype, x.shape, real.shape,
        None if bias is None else bias.shape, None, groups, norm, two_sided, None,
        _backends.SPECTRAL_POINTWISE,
    )  # fmt: skip
    scales, backend = call.scales, call.backend
    _checks.check_skip(x, skip_weight, real.shape[1], groups)
    if backend == "reference":
        return reference.fno_block(x, real, skip_weight, bias, None, groups, norm, two_sided)
    if backend == "matmul":
        return _matmul.fno_block(x, real, skip_weight, bias, groups, *scales, two_sided)
    skip = skip_weight.to(real.dtype)
    if _backends.watched(x, real, skip, bias):
        block = torch.ops.fastseg.fno_block
    else:
        block = _fno_block_ops.fno_block
    return block(x, real, skip, bias, groups, *scales, two_sided, backend)[0]
