"""Truncated transforms and the spectral convolution: public functions, registered op, backward.

A spectral convolution saves its weight and the kept spectrum of its input, nothing else. The kept
spectrum is a result as well: where a gradient is differentiated again, that of the weight depends
on x by it.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from fastseg.ops import checks, context, dispatch, impl, tables
from fastseg.ops.context import transformed
from fastseg.ops.impl import matmul, mixes, reference
from fastseg.ops.impl.contract import Geometry, transform
from fastseg.ops.register import op
from fastseg.ops.transforms import Registered, analyse, synthesise


@context.public
def truncated_rfftn(x: Tensor, modes, norm: str = "backward", two_sided: bool = True) -> Tensor:
    """Return the kept part of the real FFT over the last len(modes) axes.

    x: (B, C, *S) real, 1 to 3 axes; returns (B, C, *modes) complex64 (complex128 for float64).
    `modes` counts kept rows: on every axis but the last ⌈m/2⌉ non-negative frequencies, then ⌊m/2⌋
    negative ones (with two_sided=False rows 0 … m−1), on the last the non-negative columns, at most
    S//2+1. norm: that of `torch.fft.rfftn`, whose result at those bins this is. Differentiable,
    reads x once.

    Raises ValueError for shapes, modes or norm that do not fit, TypeError for dtypes, RuntimeError
    where a forced backend cannot run.

    >>> x = torch.randn(1, 2, 12, 10)
    >>> kept = truncated_rfftn(x, modes=(4, 3))
    >>> torch.allclose(kept[:, :, :2], torch.fft.rfftn(x, dim=(2, 3))[:, :, :2, :3], atol=1e-4)
    True
    """
    checks.check_tensor("x", x)
    modes, sizes = checks.integers("modes", modes), tuple(x.shape[2:])
    checks.check_real("x", x.dtype, x.shape, len(modes))
    checks.check_norm(norm, two_sided)
    checks.check_modes(modes, sizes, two_sided, "x's")
    backend = dispatch.select_spectral(context.setting(), x.device, x.dtype, sizes, sizes, modes)
    if backend == "reference":
        return reference.truncated_rfftn(x, modes, norm, two_sided)
    geometry = transform(sizes, modes, norm, two_sided)
    if backend == "matmul":
        return torch.view_as_complex(matmul.analysis(x, geometry))
    return torch.view_as_complex(analyse(x, geometry, backend))


@context.public
def truncated_irfftn(
    spectrum: Tensor, sizes, norm: str = "backward", two_sided: bool = True,
    dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """Return the inverse of `truncated_rfftn`, bins outside `modes` being zero.

    spectrum: (B, C, *modes) complex; sizes: the grid *S, one size a mode axis; returns (B, C,
    *sizes), float32 or float64 unless `dtype` asks otherwise. The complex inverse runs over all
    axes but the last first, then the imaginary part of the last axis's columns 0 and (even size)
    size/2 is ignored, on every backend (`fastseg.reference`). Differentiable, writes the result
    once.

    Raises ValueError for shapes, sizes or norm that do not fit, TypeError for dtypes, RuntimeError
    where a forced backend cannot run.

    >>> spectrum = torch.zeros(1, 1, 4, 3, dtype=torch.complex64)
    >>> spectrum[..., 0, 0] = 40  # the sum of the samples
    >>> torch.allclose(truncated_irfftn(spectrum, sizes=(5, 8)), torch.ones(1, 1, 5, 8))
    True
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
    checks.check_norm(norm, two_sided)
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
    geometry = transform(sizes, modes, norm, two_sided)
    real = torch.view_as_real(spectrum.resolve_conj())
    # a kernel writes the 16-bit types from float32 only, and no other mixture
    written = wide if torch.float64 in (wide, dtype) else dtype
    if backend == "matmul":
        y = matmul.synthesis(real, geometry, written)
    else:
        y = synthesise(real, geometry, written, backend)
    return y.to(dtype)


class Call(NamedTuple):
    """Hold the arguments of a spectral convolution, checked and completed."""

    geometry: Geometry
    backend: str
    wide: torch.dtype  # that of the weight, as a real tensor


def _prepare(setting: str, family: str, x, weight, bias, options) -> Call:
    (shape, dtype, device), (sizes, groups, norm, two_sided, modes) = x, options
    weight_shape = checks.check_pairs("weight", *weight[:2])
    checks.check_devices(device, weight=weight[2], bias=None if bias is None else bias[2])
    modes = tuple(weight_shape[2:-1]) if modes is None else modes
    checks.check_real("x", dtype, shape, len(modes))
    if len(weight_shape) != len(modes) + 3:
        raise ValueError(
            f"weight: got {len(weight_shape) - 3} mode axes, want {len(modes)}, as many as modes"
        )
    checks.check_norm(norm, two_sided)
    grid = tuple(shape[2:])
    sizes = grid if sizes is None else checks.check_sizes(sizes, len(modes))
    checks.check_modes(modes, grid, two_sided, "x's")
    checks.check_modes(modes, sizes, two_sided, "the output's")
    checks.check_weight(shape[1], weight_shape[:-1], bias, groups, modes)
    scales = tables.scales(norm, grid)[0], tables.scales(norm, sizes)[1]
    backend = dispatch.select_spectral(
        setting, device, dtype, grid, sizes, modes, getattr(impl, family)
    )
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    powers = tables.powers(norm, grid, sizes)
    return Call(Geometry(sizes, modes, groups, scales, two_sided, False, powers), backend, wide)


_prepare_cached = lru_cache(maxsize=1024)(_prepare)


def prepare(family: str, x: Tensor, weight: Tensor, bias: Tensor | None, options: tuple) -> Call:
    """Return the checked and completed arguments of a spectral convolution, kept for the next one.

    family: the table of `impl` whose kernels it takes; options: sizes, groups, norm, two_sided and
    modes of `spectral_conv`.
    """
    if not (isinstance(x, Tensor) and isinstance(weight, Tensor)):
        checks.check_tensor("x", x)
        checks.check_tensor("weight", weight)
    if not (bias is None or isinstance(bias, Tensor)):
        checks.check_tensor("bias", bias)
    setting, traced = context.asked()
    return (_prepare if traced else _prepare_cached)(
        setting, family, (x.shape, x.dtype, x.device),
        (weight.shape, weight.dtype, weight.device),
        None if bias is None else (bias.shape, bias.dtype, bias.device), options,
    )  # fmt: skip


def real_weight(weight: Tensor, wide: torch.dtype) -> Tensor:
    """Return a weight as a real tensor with a trailing 2 in the dtype `wide`."""
    if weight.is_complex():
        weight = torch.view_as_real(weight.resolve_conj())
    return weight.to(wide)


@context.public
def spectral_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, sizes=None, groups: int = 1,
    norm: str = "backward", two_sided: bool = True, modes=None,
) -> Tensor:  # fmt: skip
    """Convolve x in the spectrum, keeping few modes: transform, one complex matrix product over
    channels for every kept mode, inverse, bias (Li et al., 2021, eq. 5).

    x: (B, Cin, *S) real; weight: (Cin/groups, Cout, *modes) complex, or real with a trailing 2;
    output channel o belongs to group o // (Cout/groups); bias: (Cout,). With `modes` given, the
    weight's mode axes may be 1 (one matrix shared by all modes). `sizes` asks for another output
    grid. norm and two_sided: as `truncated_rfftn` takes them. Returns (B, Cout, *sizes) in x.dtype;
    16-bit inputs are computed in float32. Backward: x, weight, bias; only the weight and the kept
    spectrum of x are saved.

    Raises ValueError or TypeError naming the argument, RuntimeError where a forced backend cannot
    run.

    >>> x, weight = torch.randn(2, 4, 20, 15), torch.randn(4, 6, 8, 5, dtype=torch.complex64)
    >>> spectral_conv(x, weight).shape
    torch.Size([2, 6, 20, 15])
    >>> spectral_conv(x, weight, sizes=(40, 30)).shape
    torch.Size([2, 6, 40, 30])
    """
    shared = modes is not None
    if sizes is not None:
        sizes = checks.integers("sizes", sizes)
    if shared:
        modes = checks.integers("modes", modes)
    options = sizes, groups, norm, two_sided, modes
    geometry, backend, wide = prepare("SPECTRAL", x, weight, bias, options)
    real = weight if weight.dtype is wide else real_weight(weight, wide)
    by_all = shared and all(n == 1 for n in real.shape[2:-1])
    if shared and not by_all:
        real = real.expand(*real.shape[:2], *geometry.modes, 2)
    if backend == "reference":
        weight = torch.view_as_complex(real.contiguous())
        return reference.spectral_conv(
            x, weight, bias, geometry.sizes, groups, norm, two_sided, geometry.modes
        )
    if backend == "matmul":
        return matmul.convolve(x, real, bias, geometry)
    if by_all:
        return _convolve_shared(x, real, bias, geometry, backend)
    return _convolve(x, real, bias, geometry, backend)[0]


def _convolve_shared(x: Tensor, weight: Tensor, bias, geometry: Geometry, backend: str) -> Tensor:
    """The convolution by a weight that all modes share: one matrix product, never expanded."""
    if transformed():
        return matmul.convolve(x, weight, bias, geometry, Registered(backend))
    spectrum = analyse(x, geometry, backend)
    mixed = matmul.multiply(spectrum, weight, geometry.groups).contiguous()
    if bias is not None:
        # a constant is a zero frequency: no pass over y
        mixed.flatten(2)[..., 0] += bias.to(mixed.dtype) / geometry.scales[1]
    return synthesise(mixed, geometry, x.dtype, backend)


def _spectral_conv(x, weight, bias, geometry, backend, keep=True):
    return impl.SPECTRAL[backend].convolve(x, weight, bias, geometry, keep)


def _spectral_conv_fake(x, weight, bias, geometry, backend):
    y = x.new_empty((x.shape[0], weight.shape[1], *geometry.sizes))
    return y, weight.new_empty((*x.shape[:2], *weight.shape[2:]))


def _spectral_conv_composed(x, weight, bias, geometry, backend):
    return matmul.convolve(x, weight, bias, geometry, Registered(backend)), None


def _spectral_conv_save(ctx, inputs, output):
    x, weight, bias, geometry, ctx.backend = inputs
    ctx.adjoint, ctx.dtype = geometry.transposed(x.shape[2:]), x.dtype
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1], weight)


def _spectral_conv_vjp(ctx, grad, grad_spectrum):
    wanted = ctx.needs_input_grad[:3]
    spectrum, weight = ctx.saved_tensors
    if torch.is_grad_enabled() or grad_spectrum is not None:
        dx, dw, db = convolution_gradients(
            Registered(ctx.backend), grad, grad_spectrum, spectrum, weight, ctx.adjoint, ctx.dtype,
            wanted,
        )  # fmt: skip
    elif grad is None:
        return None, None, None
    else:
        grads = _convolve_backward(grad, spectrum, weight, ctx.adjoint, wanted, ctx.backend)
        dx, dw, db = (g if want else None for g, want in zip(grads, wanted, strict=True))
    return dx, dw, None if db is None else db.to(ctx.bias_dtype)


def convolution_gradients(
    kernels, grad: Tensor | None, grad_spectrum: Tensor | None, spectrum: Tensor, weight: Tensor,
    adjoint: Geometry, dtype: torch.dtype, wanted,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Return the gradients of x in `dtype`, of the weight and of the bias, None for one that is not
    `wanted`, from those of the result and of the kept spectrum.

    kernels: `impl.SPECTRAL[backend]`, or `Registered(backend)` where they are to be differentiated.
    """
    dw = db = None
    if grad is not None:
        mixed, groups = kernels.analysis(grad, adjoint), adjoint.groups
        if wanted[0]:
            through = mixes.input_gradient(kernels, mixed, weight, groups)
            grad_spectrum = through if grad_spectrum is None else through + grad_spectrum
        if wanted[1]:
            dw = mixes.weight_gradient(kernels, spectrum, mixed, weight.shape, groups)
        if wanted[2]:
            db = bias_gradient(mixed, adjoint)
    backwards = wanted[0] and grad_spectrum is not None
    return kernels.synthesis(grad_spectrum, adjoint, dtype) if backwards else None, dw, db


def _spectral_conv_backward(grad, spectrum, weight, adjoint, wanted, backend):
    empty = weight.new_empty(0)
    dx, dw, db = convolution_gradients(
        impl.SPECTRAL[backend], grad, None, spectrum, weight, adjoint, grad.dtype, wanted
    )
    dx = grad.new_empty(0) if dx is None else dx
    return dx, empty if dw is None else dw, empty if db is None else db


def bias_gradient(grad_mixed: Tensor, adjoint: Geometry) -> Tensor:
    """Return a bias's gradient (C,) from that of what the synthesis read: the zero frequency of a
    gradient is its sum, times the table's scale.
    """
    return grad_mixed.flatten(2)[..., 0].sum(0) / adjoint.scales[0]


def _spectral_conv_backward_fake(grad, spectrum, weight, adjoint, wanted, backend):
    dx = grad.new_empty((*spectrum.shape[:2], *adjoint.sizes) if wanted[0] else (0,))
    dw = (
        torch.empty_like(weight, memory_format=torch.contiguous_format)
        if wanted[1]
        else weight.new_empty(0)
    )
    return dx, dw, weight.new_empty((weight.shape[1],) if wanted[2] else (0,))


_convolve_backward = op(
    "spectral_conv_backward(Tensor grad, Tensor spectrum, Tensor weight, Geometry adjoint,"
    " bool[3] wanted, str backend) -> (Tensor, Tensor, Tensor)",
    _spectral_conv_backward,
    _spectral_conv_backward_fake,
)
_convolve = op(
    "spectral_conv(Tensor x, Tensor weight, Tensor? bias, Geometry geometry, str backend)"
    " -> (Tensor, Tensor)",
    _spectral_conv,
    _spectral_conv_fake,
    _spectral_conv_vjp,
    _spectral_conv_save,
    composed=_spectral_conv_composed,
)
