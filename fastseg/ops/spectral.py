"""Truncated transforms and the spectral convolution: public functions, registered ops, backward.

Registered spectra are real tensors (B, C, *modes, 2). The backward of a transform is the other one
with the same scale and weights; a spectral convolution saves its weight and the kept spectrum of
its input, nothing else.
"""

from functools import lru_cache

import torch
from torch import Tensor

from fastseg import reference
from fastseg.ops import checks, context, dispatch, impl, tables
from fastseg.ops.context import traced, watched
from fastseg.ops.impl import matmul
from fastseg.ops.impl.native import mix_channels, mix_weight_gradient
from fastseg.ops.register import op


def truncated_rfftn(x: Tensor, modes, norm: str = "backward", two_sided: bool = True) -> Tensor:
    """The kept part of the real FFT over the last len(modes) axes.

    x: (B, C, *S) real, 1 to 3 axes; returns (B, C, *modes) complex64 (complex128 for float64).
    `modes` counts kept rows: on every axis but the last ⌈m/2⌉ non-negative frequencies, then ⌊m/2⌋
    negative ones (with two_sided=False rows 0 … m−1), on the last the non-negative columns, at most
    S//2+1. Equals `torch.fft.rfftn(x, norm=norm)` at those bins; differentiable, reads x once.

    Raises ValueError for shapes, modes or norm that do not fit, TypeError for dtypes.
    """
    checks.check_tensor("x", x)
    modes, sizes = checks.integers("modes", modes), tuple(x.shape[2:])
    checks.check_real("x", x.dtype, x.shape, len(modes))
    checks.check_norm(norm)
    checks.check_modes(modes, sizes, two_sided, "x's")
    backend = dispatch.select_spectral(context.setting(), x.device, x.dtype, sizes, sizes, modes)
    if backend == "reference":
        return reference.truncated_rfftn(x, modes, norm, two_sided)
    scale, _ = tables.scales(norm, sizes)
    if backend == "matmul":
        return torch.view_as_complex(matmul.analysis(x, modes, scale, False, two_sided))
    return torch.view_as_complex(analyse(x, modes, scale, False, two_sided, backend))


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
    checks.check_tensor("spectrum", spectrum)
    if spectrum.dtype not in (torch.complex64, torch.complex128):
        raise TypeError(f"spectrum: got dtype {spectrum.dtype}, want complex64 or complex128")
    if not 3 <= spectrum.dim() <= 5:
        raise ValueError(
            f"spectrum: got shape {tuple(spectrum.shape)}, want (B, C, *modes), 1 to 3 mode axes"
        )
    modes = tuple(spectrum.shape[2:])
    sizes = checks.check_sizes(sizes, len(modes))
    checks.check_norm(norm)
    checks.check_modes(modes, sizes, two_sided, "the output's")
    wide = torch.float64 if spectrum.dtype == torch.complex128 else torch.float32
    dtype = wide if dtype is None else dtype
    if dtype not in checks.FLOATS:
        raise TypeError(f"dtype: got {dtype}, want float32, float64, float16 or bfloat16")
    backend = dispatch.select_spectral(
        context.setting(), spectrum.device, wide, sizes, sizes, modes
    )
    if backend == "reference":
        return reference.truncated_irfftn(spectrum, sizes, norm, two_sided, dtype)
    _, scale = tables.scales(norm, sizes)
    real = torch.view_as_real(spectrum.resolve_conj())
    # a kernel writes the 16-bit types from float32 only, and no other mixture
    written = wide if torch.float64 in (wide, dtype) else dtype
    if backend == "matmul":
        y = matmul.synthesis(real, sizes, scale, True, two_sided, written, None)
    else:
        y = synthesise(real, sizes, scale, True, two_sided, written, backend)
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
    setting: str, device: torch.device, dtype: torch.dtype, shape, weight_shape, bias, sizes,
    groups: int, norm: str, two_sided: bool, modes, family=None,
) -> _Call:  # fmt: skip
    modes = tuple(weight_shape[2:-1]) if modes is None else modes
    checks.check_real("x", dtype, shape, len(modes))
    if len(weight_shape) != len(modes) + 3:
        raise ValueError(
            f"weight: got {len(weight_shape) - 3} mode axes, want {len(modes)}, as many as modes"
        )
    checks.check_norm(norm)
    out_sizes = tuple(shape[2:]) if sizes is None else checks.check_sizes(sizes, len(modes))
    checks.check_modes(modes, shape[2:], two_sided, "x's")
    checks.check_modes(modes, out_sizes, two_sided, "the output's")
    checks.check_weight(shape[1], weight_shape[:-1], bias, groups, modes)
    scales = tables.scales(norm, shape[2:])[0], tables.scales(norm, out_sizes)[1]
    backend = dispatch.select_spectral(
        setting, device, dtype, shape[2:], out_sizes, modes, family or impl.SPECTRAL
    )
    return _Call(modes, out_sizes, scales, backend)


_prepare_cached = lru_cache(maxsize=1024)(_prepare)


def prepare(*arguments) -> _Call:
    """The checked and completed arguments of a spectral convolution, kept for the next one."""
    return (_prepare if traced() else _prepare_cached)(*arguments)


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
    real = checks.real_weight(weight, x)
    checks.check_device(x, weight=real, bias=bias)
    shared = modes is not None
    if sizes is not None:
        sizes = checks.integers("sizes", sizes)
    call = prepare(
        context.setting(), x.device, x.dtype, x.shape, real.shape,
        None if bias is None else (bias.shape, bias.dtype), sizes, groups, norm, two_sided,
        checks.integers("modes", modes) if shared else None,
    )  # fmt: skip
    modes, sizes, scales, backend = call.modes, call.sizes, call.scales, call.backend
    by_all = shared and all(n == 1 for n in real.shape[2:-1])
    if shared and not by_all:
        real = real.expand(*real.shape[:2], *modes, 2)
    if backend == "reference":
        weight = torch.view_as_complex(real.contiguous())
        return reference.spectral_conv(x, weight, bias, sizes, groups, norm, two_sided, modes)
    if backend == "matmul":
        return matmul.convolve(x, real, bias, modes, sizes, groups, *scales, two_sided)
    if by_all:
        return _convolve_shared(x, real, bias, modes, sizes, groups, *scales, two_sided, backend)
    arguments = sizes, groups, *scales, two_sided, backend
    if watched(x, real, bias) or backend not in impl.PREPARED:
        return _convolve(x, real, bias, *arguments)[0]
    if call.function is None:
        call.function = impl.PREPARED[backend](x, real, sizes, groups, scales, two_sided)
    return call.function(x, real, bias)


def _convolve_shared(
    x: Tensor, weight: Tensor, bias: Tensor | None, modes, sizes, groups: int,
    analysis_scale: float, synthesis_scale: float, two_sided: bool, backend: str,
) -> Tensor:  # fmt: skip
    """The convolution by a weight that all modes share: one matrix product, never expanded."""
    spectrum = analyse(x, modes, analysis_scale, False, two_sided, backend)
    mixed = matmul.mix(spectrum, weight, groups).contiguous()
    if bias is not None:
        # a constant is a zero frequency: no pass over y
        mixed.flatten(2)[..., 0] += bias.to(mixed.dtype) / synthesis_scale
    return synthesise(mixed, sizes, synthesis_scale, True, two_sided, x.dtype, backend)


def _analysis(x, modes, scale, weighted, two_sided, backend):
    return impl.SPECTRAL[backend].analysis(x, modes, scale, weighted, two_sided)


def _analysis_fake(x, modes, scale, weighted, two_sided, backend):
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty((*x.shape[:2], *modes, 2), dtype=wide)


def _analysis_save(ctx, inputs, output):
    x, _, *ctx.rest = inputs
    ctx.sizes, ctx.dtype = x.shape[2:], x.dtype


def _analysis_backward(ctx, grad):
    scale, weighted, two_sided, backend = ctx.rest
    dx = synthesise(grad, ctx.sizes, scale, weighted, two_sided, ctx.dtype, backend)
    return dx, *[None] * 5


def _synthesis(spectrum, sizes, scale, weighted, two_sided, dtype, backend):
    return impl.SPECTRAL[backend].synthesis(
        spectrum, sizes, scale, weighted, two_sided, dtype, None
    )


def _synthesis_fake(spectrum, sizes, scale, weighted, two_sided, dtype, backend):
    return spectrum.new_empty((*spectrum.shape[:2], *sizes), dtype=dtype)


def _synthesis_save(ctx, inputs, output):
    spectrum, _, *ctx.rest = inputs
    ctx.modes = spectrum.shape[2:-1]


def _synthesis_backward(ctx, grad):
    scale, weighted, two_sided, _, backend = ctx.rest
    return analyse(grad, ctx.modes, scale, weighted, two_sided, backend), *[None] * 6


def _spectral_conv(
    x, weight, bias, sizes, groups, analysis_scale, synthesis_scale, two_sided, backend
):
    return impl.SPECTRAL[backend].convolve(
        x, weight, bias, sizes, groups, analysis_scale, synthesis_scale, two_sided
    )


def _spectral_conv_fake(
    x, weight, bias, sizes, groups, analysis_scale, synthesis_scale, two_sided, backend
):
    y = x.new_empty((x.shape[0], weight.shape[1], *sizes))
    return y, weight.new_empty((*x.shape[:2], *weight.shape[2:]))


def _spectral_conv_save(ctx, inputs, output):
    x, weight, bias, _, *ctx.rest = inputs
    ctx.sizes, ctx.dtype = x.shape[2:], x.dtype
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1], weight)


def _spectral_conv_vjp(ctx, grad, _):
    if grad is None:
        return (None,) * 9
    spectrum, weight = ctx.saved_tensors
    wanted = ctx.needs_input_grad[:3]
    dx, dw, db = _convolve_backward(
        grad, spectrum, weight, ctx.sizes, *ctx.rest[:-1], wanted, ctx.rest[-1]
    )
    db = db.to(ctx.bias_dtype) if wanted[2] else None
    return dx if wanted[0] else None, dw if wanted[1] else None, db, *[None] * 6


def _spectral_conv_backward(
    grad, spectrum, weight, sizes, groups, analysis_scale, synthesis_scale, two_sided, wanted,
    backend,
):  # fmt: skip
    kernels, modes = impl.SPECTRAL[backend], weight.shape[2:-1]
    grad_mixed = kernels.analysis(grad, modes, synthesis_scale, True, two_sided)
    empty = weight.new_empty(0)
    dx, dw, db = grad.new_empty(0), empty, empty
    if wanted[0]:
        grad_spectrum = mix_channels("ngom,igom->ngim", kernels.mix, grad_mixed, weight, groups)
        dx = kernels.synthesis(
            grad_spectrum, sizes, analysis_scale, False, two_sided, grad.dtype, None
        )
    if wanted[1]:
        dw = mix_weight_gradient(kernels.mix, spectrum, grad_mixed, weight.shape, groups)
    if wanted[2]:
        # the zero frequency of the gradient is its sum, times the table's scale
        db = grad_mixed.flatten(2)[..., 0].sum(0) / synthesis_scale
    return dx, dw, db


def _spectral_conv_backward_fake(
    grad, spectrum, weight, sizes, groups, analysis_scale, synthesis_scale, two_sided, wanted,
    backend,
):  # fmt: skip
    dx = grad.new_empty((*spectrum.shape[:2], *sizes) if wanted[0] else (0,))
    dw = (
        torch.empty_like(weight, memory_format=torch.contiguous_format)
        if wanted[1]
        else weight.new_empty(0)
    )
    return dx, dw, weight.new_empty((weight.shape[1],) if wanted[2] else (0,))


analyse = op(
    "analysis(Tensor x, SymInt[] modes, float scale, bool weighted, bool two_sided, str backend)"
    " -> Tensor",
    _analysis,
    _analysis_fake,
    _analysis_backward,
    _analysis_save,
)
synthesise = op(
    "synthesis(Tensor spectrum, SymInt[] sizes, float scale, bool weighted, bool two_sided,"
    " ScalarType dtype, str backend) -> Tensor",
    _synthesis,
    _synthesis_fake,
    _synthesis_backward,
    _synthesis_save,
)
_convolve_backward = op(
    "spectral_conv_backward(Tensor grad, Tensor spectrum, Tensor weight, SymInt[] sizes,"
    " int groups, float analysis_scale, float synthesis_scale, bool two_sided, bool[3] wanted,"
    " str backend) -> (Tensor, Tensor, Tensor)",
    _spectral_conv_backward,
    _spectral_conv_backward_fake,
)
_convolve = op(
    "spectral_conv(Tensor x, Tensor weight, Tensor? bias, SymInt[] sizes, int groups,"
    " float analysis_scale, float synthesis_scale, bool two_sided, str backend)"
    " -> (Tensor, Tensor)",
    _spectral_conv,
    _spectral_conv_fake,
    _spectral_conv_vjp,
    _spectral_conv_save,
)
