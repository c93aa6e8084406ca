"""The FNO block, gelu(convolution + skip·x): the public function, its registered op and its
backward.

Saved are x, the weights and the kept spectrum; the backward computes the pre-activation again.
16-bit inputs are computed in float32.
"""

import torch
from torch import Tensor

from fastseg.ops import checks, context, impl
from fastseg.ops.impl import matmul, mixes, reference
from fastseg.ops.impl.composed import grouped_sum_of_products
from fastseg.ops.impl.contract import BlockInputs
from fastseg.ops.register import op
from fastseg.ops.spectral import bias_gradient, convolution_gradients, prepare, real_weight
from fastseg.ops.transforms import Registered, pointwise


@context.public
def fno_block(
    x: Tensor, weight: Tensor, skip_weight: Tensor, bias: Tensor | None = None, sizes=None,
    groups: int = 1, norm: str = "backward", two_sided: bool = True,
) -> Tensor:  # fmt: skip
    """Return `gelu(spectral_conv(x, weight) + skip_weight·x + bias)`, the block of a Fourier neural
    operator (Li et al., 2021, eq. 2).

    x: (B, Cin, *S); skip_weight: (Cout, Cin/groups), applied at every point; the other arguments
    are `spectral_conv`'s. `sizes` must be x's. Returns (B, Cout, *S) in x.dtype; 16-bit inputs are
    computed in float32 throughout. Backward: x, skip_weight and what `spectral_conv` does; x, the
    weights and the kept spectrum of x are saved, the pre-activation is computed again.

    Raises ValueError or TypeError naming the argument, RuntimeError where a forced backend cannot
    run.

    >>> import torch
    >>> x, weight = torch.randn(1, 4, 16, 16), torch.randn(4, 4, 6, 4, dtype=torch.complex64)
    >>> fno_block(x, weight, skip_weight=torch.randn(4, 4), bias=torch.zeros(4)).shape
    torch.Size([1, 4, 16, 16])
    """
    checks.check_tensor("x", x)
    checks.check_real("x", x.dtype, x.shape, x.dim() - 2)
    if sizes is not None and checks.integers("sizes", sizes) != tuple(x.shape[2:]):
        raise ValueError(
            f"sizes: got {tuple(sizes)}, want x's {tuple(x.shape[2:])}: the skip keeps the grid"
        )
    options = None, groups, norm, two_sided, None
    geometry, backend, wide = prepare("BLOCK", x, weight, bias, options)
    real = weight if weight.dtype is wide else real_weight(weight, wide)
    checks.check_skip(x, skip_weight, real.shape[1], groups)
    if backend == "reference":
        return reference.fno_block(x, real, skip_weight, bias, None, groups, norm, two_sided)
    if backend == "matmul":
        return matmul.fno_block(x, real, skip_weight, bias, geometry)
    return _block(x, real, skip_weight.to(real.dtype), bias, geometry, backend)[0]


def _fno_block(x, weight, skip_weight, bias, geometry, backend, keep=True):
    """y, and the kept spectrum of x for the backward."""
    return impl.BLOCK[backend].forward(x, weight, skip_weight, bias, geometry, keep)


def _fno_block_fake(x, weight, skip_weight, bias, geometry, backend):
    y = x.new_empty((x.shape[0], weight.shape[1], *x.shape[2:]))
    return y, weight.new_empty((*x.shape[:2], *weight.shape[2:]))


def _fno_block_composed(x, weight, skip_weight, bias, geometry, backend):
    return matmul.fno_block(x, weight, skip_weight, bias, geometry, Registered(backend)), None


def _fno_block_save(ctx, inputs, output):
    x, weight, skip_weight, bias, ctx.geometry, ctx.backend = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, output[1], weight, skip_weight, bias)


def _fno_block_vjp(ctx, grad, grad_spectrum):
    wanted, inputs = ctx.needs_input_grad[:4], BlockInputs(*ctx.saved_tensors)
    if torch.is_grad_enabled() or grad_spectrum is not None:
        grads = _gradients(grad, grad_spectrum, inputs, ctx.geometry, wanted, ctx.backend)
    elif grad is None:
        return (None,) * 4
    else:
        grads = _block_backward(grad, inputs, ctx.geometry, wanted, ctx.backend)
    dx, dw, dskip, db = (g if want else None for g, want in zip(grads, wanted, strict=True))
    return dx, dw, dskip, None if db is None else db.to(ctx.bias_dtype)


def _gradients(grad, grad_spectrum, inputs, geometry, wanted, backend):
    """Those of x, weight, skip_weight and bias, to be differentiated again."""
    x, spectrum, weight, skip, bias = inputs
    kernels, groups, wide = Registered(backend), geometry.groups, x.to(weight.dtype)
    grad_z = None
    if grad is not None:
        mixed = mixes.forward(kernels, spectrum, weight, groups)
        z = kernels.synthesis(mixed, geometry, weight.dtype, bias)
        z = z + pointwise(wide, skip, groups, False, backend)
        grad_z = torch.ops.aten.gelu_backward(grad.to(z.dtype), z)
    dx, dw, db = convolution_gradients(
        kernels, grad_z, grad_spectrum, spectrum, weight, geometry.transposed(x.shape[2:]),
        weight.dtype, (wanted[0], wanted[1], wanted[3]),
    )  # fmt: skip
    if grad_z is None:
        return dx if dx is None else dx.to(x.dtype), None, None, None
    if wanted[0]:
        dx = (dx + pointwise(grad_z, skip, groups, True, backend)).to(x.dtype)
    return dx, dw, grouped_sum_of_products(grad_z, wide, groups) if wanted[2] else None, db


def _fno_block_backward(grad, inputs, geometry, wanted, backend):
    weight, empty = inputs.weight, inputs.weight.new_empty(0)
    dx, grad_mixed, dskip = impl.BLOCK[backend].backward(
        grad, inputs, geometry, wanted[0], wanted[2]
    )
    dw, db = empty, empty
    if wanted[1]:
        kernels, spectrum = impl.SPECTRAL[backend], inputs.spectrum
        dw = mixes.weight_gradient(kernels, spectrum, grad_mixed, weight.shape, geometry.groups)
    if wanted[3]:
        db = bias_gradient(grad_mixed, geometry.transposed(geometry.sizes))
    return grad.new_empty(0) if dx is None else dx, dw, empty if dskip is None else dskip, db


def _fno_block_backward_fake(grad, inputs, geometry, wanted, backend):
    x, _, weight, skip_weight, _ = inputs
    shapes = x.shape, weight.shape, skip_weight.shape, (weight.shape[1],)
    return tuple(
        like.new_empty(shape if want else (0,))
        for like, shape, want in zip((x, weight, weight, weight), shapes, wanted, strict=True)
    )


_block_backward = op(
    "fno_block_backward(Tensor grad, BlockInputs inputs, Geometry geometry, bool[4] wanted,"
    " str backend) -> (Tensor, Tensor, Tensor, Tensor)",
    _fno_block_backward,
    _fno_block_backward_fake,
)
_block = op(
    "fno_block(Tensor x, Tensor weight, Tensor skip_weight, Tensor? bias, Geometry geometry,"
    " str backend) -> (Tensor, Tensor)",
    _fno_block,
    _fno_block_fake,
    _fno_block_vjp,
    _fno_block_save,
    composed=_fno_block_composed,
)
