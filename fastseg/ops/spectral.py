"""Truncated transforms and the spectral convolution: argument checks, backend choice, and the
registered ops of the kernel backends.

Spectra inside are real tensors (B, C, *modes, 2). The backward of a transform is the other one with
the same scale and weights; a spectral convolution saves its weight and the kept spectrum of its
input, nothing else.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fastseg import plan, reference
from fastseg.ops import _backends, _matmul

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _check_real(name: str, x: Tensor, axes: int) -> None:
    if x.dtype not in _FLOATS:
        raise TypeError(f"{name}: got dtype {x.dtype}, want float32, float64, float16 or bfloat16")
    if not 1 <= axes <= 3:
        raise ValueError(f"modes: got {axes} axes, want 1, 2 or 3")
    if x.dim() != axes + 2:
        raise ValueError(
            f"{name}: got shape {tuple(x.shape)}, want (B, C, *S) with {axes} axes S, as many as "
            f"modes"
        )


def _check_modes(modes, sizes, two_sided: bool, what: str) -> None:
    for axis, (m, n) in enumerate(zip(modes, sizes, strict=True)):
        most = n // 2 + 1 if axis == len(sizes) - 1 else n
        if not 1 <= m <= most:
            raise ValueError(
                f"modes: got {m} on axis {axis}, want 1 to {most}, the bins of {what} size {n}"
            )


def _check_norm(norm: str) -> None:
    if norm not in ("backward", "ortho", "forward"):
        raise ValueError(f"norm: got {norm!r}, want 'backward', 'ortho' or 'forward'")


def _check_sizes(sizes, axes: int) -> tuple:
    sizes = tuple(sizes)
    if len(sizes) != axes or any(n < 1 for n in sizes):
        raise ValueError(f"sizes: got {sizes}, want {axes} positive sizes")
    return sizes


def truncated_rfftn(x: Tensor, modes, norm: str = "backward", two_sided: bool = True) -> Tensor:
    """The kept part of the real FFT over the last len(modes) axes.

    x: (B, C, *S) real, 1 to 3 axes; returns (B, C, *modes) complex64 (complex128 for float64).
    `modes` counts kept rows: on every axis but the last ⌈m/2⌉ non-negative frequencies, then ⌊m/2⌋
    negative ones (with two_sided=False rows 0 … m−1), on the last the non-negative columns, at most
    S//2+1. Equals `torch.fft.rfftn(x, norm=norm)` at those bins; differentiable, reads x once.

    Raises ValueError for shapes, modes or norm that do not fit, TypeError for dtypes.
    """
    modes = tuple(modes)
    _check_real("x", x, len(modes))
    _check_norm(norm)
    sizes = x.shape[2:]
    _check_modes(modes, sizes, two_sided, "x's")
    backend = _backends.select(x, sizes, sizes, modes)
    if backend == "reference":
        return reference.truncated_rfftn(x, modes, norm, two_sided)
    scale, _ = plan.scales(norm, sizes)
    if backend == "matmul":
        return torch.view_as_complex(_matmul.analysis(x, modes, scale, False, two_sided))
    return torch.view_as_complex(
        torch.ops.fastseg.analysis(x, modes, scale, False, two_sided, backend)
    )


def truncated_irfftn(
    spectrum: Tensor,
    sizes,
    norm: str = "backward",
    two_sided: bool = True,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The inverse of `truncated_rfftn`, bins outside `modes` being zero.

    spectrum: (B, C, *modes) complex; returns (B, C, *sizes), float32 or float64 unless `dtype` asks
    otherwise. The complex inverse runs over all axes but the last first, then the imaginary part of
    the last axis's columns 0 and (even size) size/2 is ignored, on every backend
    (`fastseg.reference`). Differentiable, writes the result once.

    Raises ValueError for shapes, sizes or norm that do not fit, TypeError for dtypes.
    """
    if not spectrum.is_complex() or spectrum.dtype == torch.complex32:
        raise TypeError(f"spectrum: got dtype {spectrum.dtype}, want complex64 or complex128")
    if not 3 <= spectrum.dim() <= 5:
        raise ValueError(
            f"spectrum: got shape {tuple(spectrum.shape)}, want (B, C, *modes) with 1 to 3 mode "
            f"axes"
        )
    modes = tuple(spectrum.shape[2:])
    sizes = _check_sizes(sizes, len(modes))
    _check_norm(norm)
    _check_modes(modes, sizes, two_sided, "the output's")
    wide = torch.float64 if spectrum.dtype == torch.complex128 else torch.float32
    dtype = wide if dtype is None else dtype
    if dtype not in _FLOATS:
        raise TypeError(f"dtype: got {dtype}, want float32, float64, float16 or bfloat16")
    backend = _backends.select(spectrum, sizes, sizes, modes)
    if backend == "reference":
        return reference.truncated_irfftn(spectrum, sizes, norm, two_sided, dtype)
    _, scale = plan.scales(norm, sizes)
    real = torch.view_as_real(spectrum.resolve_conj())
    # 16-bit output of a double spectrum, or the reverse, has no kernel: the cast is cheap beside
    # the transform
    written = wide if wide == torch.float64 or dtype == torch.float64 else dtype
    if backend == "matmul":
        return _matmul.synthesis(real, sizes, scale, True, two_sided, written, None).to(dtype)
    return torch.ops.fastseg.synthesis(real, sizes, scale, True, two_sided, written, backend).to(
        dtype
    )


def _real_weight(weight: Tensor, x: Tensor) -> Tensor:
    """The weight as a real tensor with a trailing 2, in the dtype the mix computes in."""
    if weight.is_complex():
        weight = torch.view_as_real(weight.resolve_conj())
    elif weight.dtype not in _FLOATS or weight.dim() < 1 or weight.shape[-1] != 2:
        raise TypeError(
            f"weight: got {weight.dtype} of shape {tuple(weight.shape)}, want complex, or "
            f"real with a trailing axis of 2"
        )
    return weight.to(torch.float64 if x.dtype == torch.float64 else torch.float32)


def _check_weight(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, modes) -> None:
    channels, shape = x.shape[1], tuple(weight.shape[:-1])
    if groups < 1 or channels % groups or shape[1] % groups:
        raise ValueError(
            f"groups: got {groups}, want a divisor of {channels} input and {shape[1]} output "
            f"channels"
        )
    if shape[0] != channels // groups:
        raise ValueError(
            f"weight: got {shape[0]} input channels, "
            f"want {channels} // groups = {channels // groups}"
        )
    if any(have not in (1, want) for have, want in zip(shape[2:], modes, strict=True)):
        raise ValueError(
            f"weight: got mode axes {shape[2:]}, want {tuple(modes)}, "
            "or 1 where a matrix is shared by all modes"
        )
    if bias is not None and tuple(bias.shape) != (shape[1],):
        raise ValueError(f"bias: got shape {tuple(bias.shape)}, want ({shape[1]},)")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name}: is on {tensor.device}, want x's device {x.device}")


def spectral_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    sizes=None,
    groups: int = 1,
    norm: str = "backward",
    two_sided: bool = True,
    modes=None,
) -> Tensor:
    """Truncated-mode spectral convolution: `truncated_irfftn(mix(truncated_rfftn(x), weight)) +
    bias` (Li et al., 2021, eq. 5).

    x: (B, Cin, *S) real; weight: (Cin/groups, Cout, *modes) complex, or real with a trailing 2;
    output channel o belongs to group o // (Cout/groups); bias: (Cout,). With `modes` given, the
    weight's mode axes may be 1 (one matrix shared by all modes). `sizes` asks for another output
    grid. Returns (B, Cout, *sizes) in x.dtype; 16-bit inputs are computed in float32. Backward: x,
    weight, bias; only the weight and the kept spectrum of x are saved.

    Raises ValueError or TypeError naming the argument, RuntimeError where a forced backend cannot
    run.
    """
    real = _real_weight(weight, x)
    modes = tuple(real.shape[2:-1]) if modes is None else tuple(modes)
    _check_real("x", x, len(modes))
    if real.dim() != len(modes) + 3:
        raise ValueError(
            f"weight: got {real.dim() - 3} mode axes, want {len(modes)}, as many as modes"
        )
    _check_norm(norm)
    out_sizes = tuple(x.shape[2:]) if sizes is None else _check_sizes(sizes, len(modes))
    _check_modes(modes, x.shape[2:], two_sided, "x's")
    _check_modes(modes, out_sizes, two_sided, "the output's")
    _check_weight(x, real, bias, groups, modes)
    backend = _backends.select(x, x.shape[2:], out_sizes, modes)
    if backend == "reference":
        return reference.spectral_conv(
            x,
            torch.view_as_complex(real.contiguous()),
            bias,
            out_sizes,
            groups,
            norm,
            two_sided,
            modes,
        )
    real = real.expand(*real.shape[:2], *modes, 2)
    analysis_scale, synthesis_scale = (
        plan.scales(norm, x.shape[2:])[0],
        plan.scales(norm, out_sizes)[1],
    )
    if backend == "matmul":
        spectrum = _matmul.analysis(x, modes, analysis_scale, False, two_sided)
        mixed = _mix("ngim,igom->ngom", _matmul.mix, spectrum, real, groups)
        return _matmul.synthesis(mixed, out_sizes, synthesis_scale, True, two_sided, x.dtype, bias)
    return torch.ops.fastseg.spectral_conv(
        x, real, bias, out_sizes, groups, analysis_scale, synthesis_scale, two_sided, backend
    )[0]


def fno_block(
    x: Tensor, weight: Tensor, skip_weight: Tensor, bias: Tensor | None = None, sizes=None,
    groups: int = 1, norm: str = "backward", two_sided: bool = True,
) -> Tensor:  # fmt: skip
    """`gelu(spectral_conv(x, weight) + skip_weight·x + bias)`, the block of a Fourier neural
    operator (Li et al., 2021, eq. 2).

    skip_weight: (Cout, Cin/groups), applied at every point; the other arguments are
    `spectral_conv`'s. `sizes` must be x's.
    """
    if sizes is not None and tuple(sizes) != tuple(x.shape[2:]):
        raise ValueError(
            f"sizes: got {tuple(sizes)}, want x's {tuple(x.shape[2:])}: the skip path keeps the "
            f"grid"
        )
    if skip_weight.dim() != 2 or skip_weight.shape[1] * groups != x.shape[1]:
        raise ValueError(
            f"skip_weight: got shape {tuple(skip_weight.shape)}, want (Cout, {x.shape[1]} // "
            f"groups)"
        )
    spectral = spectral_conv(x, weight, None, None, groups, norm, two_sided)
    kernel = skip_weight.to(x.dtype).view(*skip_weight.shape, *[1] * (x.dim() - 2))
    convolution = (F.conv1d, F.conv2d, F.conv3d)[x.dim() - 3]
    with torch.autocast(x.device.type, enabled=False):
        skip = convolution(x, kernel, None if bias is None else bias.to(x.dtype), groups=groups)
    return F.gelu(spectral + skip)


def _grouped(spectrum: Tensor, groups: int) -> Tensor:
    batch, channels = spectrum.shape[:2]
    return spectrum.reshape(batch, groups, channels // groups, math.prod(spectrum.shape[2:-1]), 2)


def _grouped_weight(weight: Tensor, groups: int) -> Tensor:
    inputs, outputs = weight.shape[:2]
    return weight.reshape(inputs, groups, outputs // groups, math.prod(weight.shape[2:-1]), 2)


def _mix(subscripts: str, mix, a: Tensor, weight: Tensor, groups: int) -> Tensor:
    out = mix(_grouped(a, groups), _grouped_weight(weight, groups), subscripts)
    return out.reshape(a.shape[0], out.shape[1] * out.shape[2], *a.shape[2:])


_library = torch.library.Library("fastseg", "FRAGMENT")
_library.define(
    "analysis(Tensor x, SymInt[] modes, float scale, bool weighted, bool two_sided, str backend)"
    " -> Tensor"
)
_library.define(
    "synthesis(Tensor spectrum, SymInt[] sizes, float scale, bool weighted, bool two_sided, "
    "ScalarType dtype, str backend) -> Tensor"
)
_library.define(
    "spectral_conv(Tensor x, Tensor weight, Tensor? bias, SymInt[] sizes, int groups,"
    " float analysis_scale, float synthesis_scale, bool two_sided, str backend) -> (Tensor, Tensor)"
)
_library.define(
    "spectral_conv_backward(Tensor grad, Tensor spectrum, Tensor weight, SymInt[] sizes,"
    " int groups, float analysis_scale, float synthesis_scale, bool two_sided,"
    " bool[3] wanted, str backend) -> (Tensor, Tensor, Tensor)"
)


def _analysis(x, modes, scale, weighted, two_sided, backend):
    return _backends.SPECTRAL[backend].analysis(x, modes, scale, weighted, two_sided)


def _analysis_fake(x, modes, scale, weighted, two_sided, backend):
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty((*x.shape[:2], *modes, 2), dtype=wide)


def _analysis_setup(ctx, inputs, output):
    x, _, *ctx.rest = inputs
    ctx.sizes, ctx.dtype = x.shape[2:], x.dtype


def _analysis_backward(ctx, grad):
    scale, weighted, two_sided, backend = ctx.rest
    return torch.ops.fastseg.synthesis(
        grad, ctx.sizes, scale, weighted, two_sided, ctx.dtype, backend
    ), *[None] * 5


def _synthesis(spectrum, sizes, scale, weighted, two_sided, dtype, backend):
    return _backends.SPECTRAL[backend].synthesis(
        spectrum, sizes, scale, weighted, two_sided, dtype, None
    )


def _synthesis_fake(spectrum, sizes, scale, weighted, two_sided, dtype, backend):
    return spectrum.new_empty((*spectrum.shape[:2], *sizes), dtype=dtype)


def _synthesis_setup(ctx, inputs, output):
    spectrum, _, *ctx.rest = inputs
    ctx.modes = spectrum.shape[2:-1]


def _synthesis_backward(ctx, grad):
    scale, weighted, two_sided, _, backend = ctx.rest
    return torch.ops.fastseg.analysis(grad, ctx.modes, scale, weighted, two_sided, backend), *[
        None
    ] * 6


def _spectral_conv(
    x, weight, bias, sizes, groups, analysis_scale, synthesis_scale, two_sided, backend
):
    kernels = _backends.SPECTRAL[backend]
    spectrum = kernels.analysis(x, weight.shape[2:-1], analysis_scale, False, two_sided)
    mixed = _mix("ngim,igom->ngom", kernels.mix, spectrum, weight, groups)
    return kernels.synthesis(
        mixed, sizes, synthesis_scale, True, two_sided, x.dtype, bias
    ), spectrum


def _spectral_conv_fake(
    x, weight, bias, sizes, groups, analysis_scale, synthesis_scale, two_sided, backend
):
    y = x.new_empty((x.shape[0], weight.shape[1], *sizes))
    return y, weight.new_empty((*x.shape[:2], *weight.shape[2:]))


def _spectral_conv_setup(ctx, inputs, output):
    x, weight, bias, _, *ctx.rest = inputs
    ctx.sizes, ctx.dtype, ctx.bias_dtype = (
        x.shape[2:],
        x.dtype,
        None if bias is None else bias.dtype,
    )
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1], weight)


def _spectral_conv_vjp(ctx, grad, _):
    if grad is None:
        return (None,) * 9
    spectrum, weight = ctx.saved_tensors
    wanted = ctx.needs_input_grad[:3]
    dx, dw, db = torch.ops.fastseg.spectral_conv_backward(
        grad, spectrum, weight, ctx.sizes, *ctx.rest[:-1], wanted, ctx.rest[-1]
    )
    db = db.to(ctx.bias_dtype) if wanted[2] else None
    return dx if wanted[0] else None, dw if wanted[1] else None, db, *[None] * 6


def _spectral_conv_backward(
    grad,
    spectrum,
    weight,
    sizes,
    groups,
    analysis_scale,
    synthesis_scale,
    two_sided,
    wanted,
    backend,
):
    kernels, modes = _backends.SPECTRAL[backend], weight.shape[2:-1]
    grad_mixed = kernels.analysis(grad, modes, synthesis_scale, True, two_sided)
    empty = weight.new_empty(0)
    dx, dw, db = grad.new_empty(0), empty, empty
    if wanted[0]:
        grad_spectrum = _mix("ngom,igom->ngim", kernels.mix, grad_mixed, weight, groups)
        dx = kernels.synthesis(
            grad_spectrum, sizes, analysis_scale, False, two_sided, grad.dtype, None
        )
    if wanted[1]:
        dw = kernels.mix(
            _grouped(spectrum, groups), _grouped(grad_mixed, groups), "ngim,ngom->igom"
        ).reshape(weight.shape)
    if wanted[2]:
        # the zero frequency of the gradient is its sum, times the table's scale
        db = grad_mixed.flatten(2)[..., 0].sum(0) / synthesis_scale
    return dx, dw, db


def _spectral_conv_backward_fake(
    grad,
    spectrum,
    weight,
    sizes,
    groups,
    analysis_scale,
    synthesis_scale,
    two_sided,
    wanted,
    backend,
):
    dx = grad.new_empty((*spectrum.shape[:2], *sizes) if wanted[0] else (0,))
    dw = (
        torch.empty_like(weight, memory_format=torch.contiguous_format)
        if wanted[1]
        else weight.new_empty(0)
    )
    return dx, dw, weight.new_empty((weight.shape[1],) if wanted[2] else (0,))


for _name, _run, _fake in (
    ("analysis", _analysis, _analysis_fake),
    ("synthesis", _synthesis, _synthesis_fake),
    ("spectral_conv", _spectral_conv, _spectral_conv_fake),
    ("spectral_conv_backward", _spectral_conv_backward, _spectral_conv_backward_fake),
):
    _library.impl(_name, _run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastseg::{_name}", _fake, lib=_library)

for _name, _backward, _setup in (
    ("analysis", _analysis_backward, _analysis_setup),
    ("synthesis", _synthesis_backward, _synthesis_setup),
    ("spectral_conv", _spectral_conv_vjp, _spectral_conv_setup),
):
    torch.library.register_autograd(
        f"fastseg::{_name}", _backward, setup_context=_setup, lib=_library
    )
