"""The registered ops of the spectral filter: schema, kernel entry, fake and backward.

A gain is a real tensor with every axis of the spectrum, each of full length or 1, and a trailing 1
(real) or 2 (complex). The filter is linear in x and in the gain: with X the spectrum of x and G the
synthesis's adjoint applied to the gradient, dx is the analysis's adjoint of conj(gain)·G, and the
gain's gradient is conj(X)·G summed over what it was broadcast along.
"""

import math

import torch
from torch import Tensor

from fastseg.ops import _backends
from fastseg.ops._spectral_ops import no_second_order

_library = torch.library.Library("fastseg", "FRAGMENT")
_library.define("spectral_filter(Tensor x, Tensor gain, str backend) -> Tensor")
_library.define(
    "spectral_filter_backward(Tensor grad, Tensor x, Tensor gain, bool[2] wanted, str backend)"
    " -> (Tensor, Tensor)"
)


def _product(a: Tensor, b: Tensor, conjugate: bool = False) -> Tensor:
    """a·b, or a·conj(b), of (real, imaginary) pairs; a trailing 1 is a real number."""
    if b.shape[-1] == 1:
        return a * b
    # a lazy conjugation would be lost: below autograd its key may be excluded from dispatch
    b = torch.view_as_complex(b.contiguous())
    b = b.conj_physical() if conjugate else b
    return torch.view_as_real(torch.view_as_complex(a) * b)


def _inner(a: Tensor, b: Tensor, shape) -> Tensor:
    """conj(a)·b of pairs, summed to `shape`; its real part for a trailing 1."""
    real = shape[-1] == 1
    return (a * b if real else _product(b, a, conjugate=True)).sum_to_size(shape)


def _bins(x: Tensor) -> tuple:
    return (*x.shape[2:-1], x.shape[-1] // 2 + 1)


def _fused(x: Tensor, backend: str):
    """The backend's kernel of a whole filter, where it has one for x."""
    kernel = _backends.FILTER.get(backend)
    return kernel if kernel and kernel.serves(x) else None


def spectral_filter(x: Tensor, gain: Tensor, backend: str) -> Tensor:
    fused = _fused(x, backend)
    if fused:
        return fused.forward(x, gain)
    kernels, sizes = _backends.SPECTRAL[backend], x.shape[2:]
    spectrum = _product(kernels.analysis(x, _bins(x), 1.0, False, True), gain)
    return kernels.synthesis(spectrum, sizes, 1 / math.prod(sizes), True, True, x.dtype, None)


def _backward(grad, x, gain, wanted, backend):
    dx, dgain = grad.new_empty(0), gain.new_empty(0)
    fused = _fused(grad, backend)
    if fused:
        grads = fused.backward(grad, x, gain, wanted)
        return tuple(e if g is None else g for g, e in zip(grads, (dx, dgain), strict=True))
    kernels, sizes, bins = _backends.SPECTRAL[backend], grad.shape[2:], _bins(grad)
    grad_spectrum = kernels.analysis(grad, bins, 1 / math.prod(sizes), True, True)
    if wanted[0]:
        product = _product(grad_spectrum, gain, conjugate=True)
        dx = kernels.synthesis(product, sizes, 1.0, False, True, grad.dtype, None)
    if wanted[1]:
        dgain = _inner(kernels.analysis(x, bins, 1.0, False, True), grad_spectrum, gain.shape)
    return dx, dgain


def _fake(x, gain, backend):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _backward_fake(grad, x, gain, wanted, backend):
    dx, dgain = (
        torch.empty_like(t, memory_format=torch.contiguous_format) if want else t.new_empty(0)
        for t, want in zip((grad, gain), wanted, strict=True)
    )
    return dx, dgain


def _setup(ctx, inputs, output):
    x, gain, ctx.backend = inputs
    # dx needs the gain alone
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else x.new_empty(0), gain)


def _vjp(ctx, grad):
    x, gain = ctx.saved_tensors
    wanted = ctx.needs_input_grad[:2]
    grads = torch.ops.fastseg.spectral_filter_backward(grad, x, gain, wanted, ctx.backend)
    return *(g if want else None for g, want in zip(grads, wanted, strict=True)), None


for _name, _run, _shape in (
    ("spectral_filter", spectral_filter, _fake),
    ("spectral_filter_backward", _backward, _backward_fake),
):
    _library.impl(_name, _run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastseg::{_name}", _shape, lib=_library)

torch.library.register_autograd(
    "fastseg::spectral_filter", _vjp, setup_context=_setup, lib=_library
)
torch.library.register_autograd("fastseg::spectral_filter_backward", no_second_order, lib=_library)
