"""The registered ops of the spectral family's kernel backends: schema, kernel entry, fake and
backward.

Spectra are real tensors (B, C, *modes, 2). The backward of a transform is the other one with the
same scale and weights; a spectral convolution saves its weight and the kept spectrum of its input,
nothing else.
"""

import torch

from fastseg.ops import _backends
from fastseg.ops._native import mix_channels, mix_weight_gradient

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


def spectral_conv(
    x, weight, bias, sizes, groups, analysis_scale, synthesis_scale, two_sided, backend
):
    return _backends.SPECTRAL[backend].convolve(
        x, weight, bias, sizes, groups, analysis_scale, synthesis_scale, two_sided
    )


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
    ("spectral_conv", spectral_conv, _spectral_conv_fake),
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


def no_second_order(ctx, *grads):
    raise RuntimeError(
        "the kernels have first derivatives only; second ones need fastseg.use_backend('matmul')"
    )


torch.library.register_autograd("fastseg::spectral_conv_backward", no_second_order, lib=_library)
