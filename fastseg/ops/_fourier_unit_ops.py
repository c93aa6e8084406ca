"""The registered ops of the Fourier unit: schema, kernel entry, fake and backward.

Spectra are planar, (B, 2C, *half spectrum): what a transform writes a product reads, and what the
product writes the other transform reads. Only the kept spectrum and z are saved.
"""

import math

import torch
from torch import Tensor

from fastseg import plan
from fastseg.ops import _backends
from fastseg.ops._spectral_ops import no_second_order

_library = torch.library.Library("fastseg", "FRAGMENT")
_library.define("fu_mix(Tensor x, Tensor weight, str backend) -> (Tensor, Tensor, Tensor)")
_library.define(
    "fu_mix_backward(Tensor? grad, Tensor? grad_moments, Tensor z, Tensor spectrum, Tensor weight,"
    " SymInt[] sizes, ScalarType dtype, bool[2] wanted, str backend) -> (Tensor, Tensor)"
)
_library.define(
    "fu_finish(Tensor z, Tensor scale, Tensor shift, SymInt[] sizes, ScalarType dtype, str backend)"
    " -> Tensor"
)
_library.define(
    "fu_finish_backward(Tensor grad, Tensor z, Tensor scale, Tensor shift, str backend)"
    " -> (Tensor, Tensor)"
)


def _ortho(sizes) -> float:
    return math.prod(sizes) ** -0.5


def _spectrum(x: Tensor, weighted: bool, backend: str) -> Tensor:
    sizes = x.shape[2:]
    return _backends.SPECTRAL[backend].analysis(
        x, plan.half_spectrum(sizes), _ortho(sizes), weighted, True, planar=True
    )


def _image(spectrum: Tensor, sizes, weighted: bool, dtype: torch.dtype, backend: str) -> Tensor:
    return _backends.SPECTRAL[backend].synthesis(
        spectrum, sizes, _ortho(sizes), weighted, True, dtype, None, planar=True
    )


def normalised_unit(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, backend: str):
    """A whole Fourier unit of known scale and shift, nothing kept."""
    z, _ = _backends.POINTWISE[backend].product(
        _spectrum(x, False, backend), weight, "affine_relu", scale=scale, shift=shift
    )
    return _image(z, x.shape[2:], True, x.dtype, backend)


def fu_mix(x, weight, backend):
    """z, its moments (2, 2·outputs), and the spectrum of x for the backward."""
    spectrum = _spectrum(x, False, backend)
    z, moments = _backends.POINTWISE[backend].product(spectrum, weight, "moments")
    return z, moments, spectrum


def _fu_mix_fake(x, weight, backend):
    batch, inputs, *sizes = x.shape
    half, outputs = plan.half_spectrum(sizes), weight.shape[0]
    z = weight.new_empty((batch, outputs, *half))
    return z, weight.new_empty((2, outputs)), weight.new_empty((batch, 2 * inputs, *half))


def _fu_mix_setup(ctx, inputs, output):
    x, weight, ctx.backend = inputs
    z, _, spectrum = output
    ctx.sizes, ctx.dtype = x.shape[2:], x.dtype
    ctx.mark_non_differentiable(spectrum)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(z, spectrum, weight)


def _fu_mix_vjp(ctx, grad, grad_moments, _):
    if grad is None and grad_moments is None:
        return None, None, None
    wanted = ctx.needs_input_grad[:2]
    dx, dweight = torch.ops.fastseg.fu_mix_backward(
        grad, grad_moments, *ctx.saved_tensors, ctx.sizes, ctx.dtype, wanted, ctx.backend
    )
    return dx if wanted[0] else None, dweight if wanted[1] else None, None


def _through_moments(grad: Tensor | None, grad_moments: Tensor | None, z: Tensor) -> Tensor:
    """The gradient of z, what reaches it through Σ z and Σ z² included."""
    if grad_moments is None:
        return grad
    total, squares = grad_moments.view(2, -1, *[1] * (z.dim() - 2))
    through = torch.mul(z, 2 * squares) if grad is None else torch.addcmul(grad, z, 2 * squares)
    return through.add_(total)


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Σ grad·xᵀ over batch and points: (B, O, …), (B, I, …) → (O, I)."""
    with torch.autocast(x.device.type, enabled=False):
        return torch.matmul(grad.flatten(2), x.flatten(2).transpose(1, 2)).sum(0)


def _fu_mix_backward(
    grad, grad_moments, z, spectrum, weight, sizes, dtype, wanted, backend
):  # fmt: skip
    grad = _through_moments(grad, grad_moments, z)
    dx, dweight = z.new_empty(0, dtype=dtype), z.new_empty(0)
    if wanted[0]:
        grad_spectrum, _ = _backends.POINTWISE[backend].product(grad, weight, transposed=True)
        dx = _image(grad_spectrum, sizes, False, dtype, backend)
    if wanted[1]:
        dweight = weight_gradient(grad, spectrum)
    return dx, dweight


def _fu_mix_backward_fake(
    grad, grad_moments, z, spectrum, weight, sizes, dtype, wanted, backend
):  # fmt: skip
    shape = (z.shape[0], spectrum.shape[1] // 2, *sizes)
    dx = z.new_empty(shape if wanted[0] else (0,), dtype=dtype)
    return dx, z.new_empty(weight.shape if wanted[1] else (0,))


def fu_finish(z, scale, shift, sizes, dtype, backend):
    active = _backends.POINTWISE[backend].affine_relu(z, scale, shift)
    return _image(active, sizes, True, dtype, backend)


def _fu_finish_fake(z, scale, shift, sizes, dtype, backend):
    return z.new_empty((z.shape[0], z.shape[1] // 2, *sizes), dtype=dtype)


def _fu_finish_setup(ctx, inputs, output):
    *tensors, _, _, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _fu_finish_vjp(ctx, grad):
    dz, sums = torch.ops.fastseg.fu_finish_backward(grad, *ctx.saved_tensors, ctx.backend)
    return dz, sums[0], sums[1], None, None, None


def _fu_finish_backward(grad, z, scale, shift, backend):
    grad_active = _spectrum(grad, True, backend)
    return _backends.POINTWISE[backend].affine_relu_backward(grad_active, z, scale, shift)


def _fu_finish_backward_fake(grad, z, scale, shift, backend):
    return z.new_empty(z.shape), z.new_empty((2, z.shape[1]))


for _name, _run, _fake in (
    ("fu_mix", fu_mix, _fu_mix_fake),
    ("fu_mix_backward", _fu_mix_backward, _fu_mix_backward_fake),
    ("fu_finish", fu_finish, _fu_finish_fake),
    ("fu_finish_backward", _fu_finish_backward, _fu_finish_backward_fake),
):
    _library.impl(_name, _run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastseg::{_name}", _fake, lib=_library)

for _name, _backward, _setup in (
    ("fu_mix", _fu_mix_vjp, _fu_mix_setup),
    ("fu_finish", _fu_finish_vjp, _fu_finish_setup),
    ("fu_mix_backward", no_second_order, None),
    ("fu_finish_backward", no_second_order, None),
):
    torch.library.register_autograd(
        f"fastseg::{_name}", _backward, setup_context=_setup, lib=_library
    )
