"""The FNO block, gelu(convolution + skip·x): the public function, its registered op and its
backward.

Saved are x, the weights and the kept spectrum; the backward computes the pre-activation again.
16-bit inputs are computed in float32.
"""

from functools import partial

import torch
from torch import Tensor

from fastseg import reference
from fastseg.ops import checks, context, impl
from fastseg.ops.fourier_unit import weight_gradient
from fastseg.ops.impl import matmul
from fastseg.ops.impl.native import mix_channels, mix_weight_gradient
from fastseg.ops.register import op
from fastseg.ops.spectral import prepare


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
    checks.check_tensor("x", x)
    checks.check_real("x", x.dtype, x.shape, x.dim() - 2)
    if sizes is not None and checks.integers("sizes", sizes) != tuple(x.shape[2:]):
        raise ValueError(
            f"sizes: got {tuple(sizes)}, want x's {tuple(x.shape[2:])}: the skip keeps the grid"
        )
    real = checks.real_weight(weight, x)
    checks.check_device(x, weight=real, bias=bias)
    call = prepare(
        context.setting(), x.device, x.dtype, x.shape, real.shape,
        None if bias is None else (bias.shape, bias.dtype), None, groups, norm, two_sided, None,
        impl.SPECTRAL_POINTWISE,
    )  # fmt: skip
    scales, backend = call.scales, call.backend
    checks.check_skip(x, skip_weight, real.shape[1], groups)
    if backend == "reference":
        return reference.fno_block(x, real, skip_weight, bias, None, groups, norm, two_sided)
    if backend == "matmul":
        return matmul.fno_block(x, real, skip_weight, bias, groups, *scales, two_sided)
    skip = skip_weight.to(real.dtype)
    return _block(x, real, skip, bias, groups, *scales, two_sided, backend)[0]


def _fno_block(
    x, weight, skip_weight, bias, groups, analysis_scale, synthesis_scale, two_sided, backend
):
    """y, and the kept spectrum of x for the backward."""
    if backend in impl.BLOCK:
        return impl.BLOCK[backend](
            x, weight, skip_weight, bias, groups, analysis_scale, synthesis_scale, two_sided
        )
    kernels = impl.SPECTRAL[backend]
    spectrum = kernels.analysis(x, weight.shape[2:-1], analysis_scale, False, two_sided)
    convolved = _convolved(
        spectrum, x.shape[2:], weight, bias, groups, synthesis_scale, two_sided, backend
    )
    y, _ = impl.POINTWISE[backend].product(x, skip_weight, "gelu", groups=groups, addend=convolved)
    return y, spectrum


def _convolved(spectrum, sizes, weight, bias, groups, scale, two_sided, backend) -> Tensor:
    kernels = impl.SPECTRAL[backend]
    mixed = mix_channels("ngim,igom->ngom", kernels.mix, spectrum, weight, groups)
    return kernels.synthesis(mixed, sizes, scale, True, two_sided, weight.dtype, bias)


def _fno_block_fake(
    x, weight, skip_weight, bias, groups, analysis_scale, synthesis_scale, two_sided, backend
):
    y = x.new_empty((x.shape[0], weight.shape[1], *x.shape[2:]))
    return y, weight.new_empty((*x.shape[:2], *weight.shape[2:]))


def _fno_block_save(ctx, inputs, output):
    x, weight, skip_weight, bias, *ctx.rest = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, output[1], weight, skip_weight, bias)


def _fno_block_vjp(ctx, grad, _):
    if grad is None:
        return (None,) * 9
    wanted = ctx.needs_input_grad[:4]
    grads = _block_backward(grad, *ctx.saved_tensors, *ctx.rest[:-1], wanted, ctx.rest[-1])
    dx, dw, dskip, db = (g if want else None for g, want in zip(grads, wanted, strict=True))
    return dx, dw, dskip, None if db is None else db.to(ctx.bias_dtype), *[None] * 5


def _fno_block_backward(
    grad, x, spectrum, weight, skip_weight, bias, groups, analysis_scale, synthesis_scale,
    two_sided, wanted, backend,
):  # fmt: skip
    through = impl.BLOCK_BACKWARD.get(backend) or partial(_composed_backward, backend)
    dx, grad_mixed, dskip = through(
        grad, x, spectrum, weight, skip_weight, bias, groups, analysis_scale, synthesis_scale,
        two_sided, wanted[0], wanted[2],
    )  # fmt: skip
    empty = weight.new_empty(0)
    dw, db = empty, empty
    if wanted[1]:
        mix = impl.SPECTRAL[backend].mix
        dw = mix_weight_gradient(mix, spectrum, grad_mixed, weight.shape, groups)
    if wanted[3]:
        # the zero frequency of the gradient is its sum, times the table's scale
        db = grad_mixed.flatten(2)[..., 0].sum(0) / synthesis_scale
    return x.new_empty(0) if dx is None else dx, dw, empty if dskip is None else dskip, db


def _composed_backward(
    backend, grad, x, spectrum, weight, skip_weight, bias, groups, analysis_scale,
    synthesis_scale, two_sided, wants_x, wants_skip,
):  # fmt: skip
    """The gradients of x, of what the synthesis read, and of skip_weight."""
    kernels, product = impl.SPECTRAL[backend], impl.POINTWISE[backend].product
    sizes, modes = x.shape[2:], weight.shape[2:-1]
    z = _convolved(spectrum, sizes, weight, bias, groups, synthesis_scale, two_sided, backend)
    grad_z, _ = product(
        x, skip_weight, "gelu_gradient", groups=groups, addend=z, factor=grad, out=z
    )
    grad_mixed = kernels.analysis(grad_z, modes, synthesis_scale, True, two_sided)
    dx = None
    if wants_x:
        grad_spectrum = mix_channels("ngom,igom->ngim", kernels.mix, grad_mixed, weight, groups)
        through = kernels.synthesis(
            grad_spectrum, sizes, analysis_scale, False, two_sided, weight.dtype, None
        )
        dx, _ = product(
            grad_z, skip_weight, dtype=x.dtype, groups=groups, transposed=True, addend=through
        )
    return dx, grad_mixed, _skip_gradient(grad_z, x, groups) if wants_skip else None


def _skip_gradient(grad: Tensor, x: Tensor, groups: int) -> Tensor:
    grad, x = (t.flatten(2).unflatten(1, (groups, -1)) for t in (grad, x.to(grad.dtype)))
    pairs = zip(grad.unbind(1), x.unbind(1), strict=True)
    return torch.cat([weight_gradient(g, i) for g, i in pairs])


def _fno_block_backward_fake(
    grad, x, spectrum, weight, skip_weight, bias, groups, analysis_scale, synthesis_scale,
    two_sided, wanted, backend,
):  # fmt: skip
    return tuple(
        like.new_empty(shape if want else (0,))
        for like, shape, want in zip(
            (x, weight, weight, weight),
            (x.shape, weight.shape, skip_weight.shape, (weight.shape[1],)),
            wanted,
            strict=True,
        )
    )


_block_backward = op(
    "fno_block_backward(Tensor grad, Tensor x, Tensor spectrum, Tensor weight, Tensor skip_weight,"
    " Tensor? bias, int groups, float analysis_scale, float synthesis_scale, bool two_sided,"
    " bool[4] wanted, str backend) -> (Tensor, Tensor, Tensor, Tensor)",
    _fno_block_backward,
    _fno_block_backward_fake,
)
_block = op(
    "fno_block(Tensor x, Tensor weight, Tensor skip_weight, Tensor? bias, int groups,"
    " float analysis_scale, float synthesis_scale, bool two_sided, str backend)"
    " -> (Tensor, Tensor)",
    _fno_block,
    _fno_block_fake,
    _fno_block_vjp,
    _fno_block_save,
)
