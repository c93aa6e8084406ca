"""The registered linear operators that others are made of: transforms, the product over channels of
every mode, 1×1 convolutions. The derivative of each is one of them, so that what is composed of
them can be differentiated any number of times.

Registered spectra are real tensors: (B, C, *modes, 2), or, where `planar`, (B, 2C, *modes). The
backward of a transform is the other one with the transposed geometry.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fastseg.ops import impl
from fastseg.ops.impl import matmul, mixes
from fastseg.ops.impl.composed import grouped_sum_of_products
from fastseg.ops.impl.contract import Geometry, Matrix
from fastseg.ops.register import folded, multilinear, op


def _analysis(x, geometry, backend, planar=False):
    return impl.SPECTRAL[backend].analysis(x, geometry, planar)


def _analysis_fake(x, geometry, backend, planar=False):
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    (batch, channels), modes = x.shape[:2], geometry.modes
    shape = (batch, 2 * channels, *modes) if planar else (batch, channels, *modes, 2)
    return x.new_empty(shape, dtype=wide)


def _analysis_save(ctx, inputs, output):
    x, geometry, ctx.backend, ctx.planar = (*inputs, False)[:4]
    ctx.adjoint, ctx.dtype = geometry.transposed(x.shape[2:]), x.dtype


def _analysis_backward(ctx, grad):
    return (synthesise(grad, ctx.adjoint, ctx.dtype, ctx.backend, ctx.planar),)


def _transform_vmap(call, size, dims, values):
    y = call(folded(values[0], dims[0], size), *values[1:])
    return y.unflatten(0, (size, -1)), 0


def _synthesis(spectrum, geometry, dtype, backend, planar=False):
    return impl.SPECTRAL[backend].synthesis(spectrum, geometry, dtype, planar=planar)


def _synthesis_fake(spectrum, geometry, dtype, backend, planar=False):
    batch, channels = spectrum.shape[0], spectrum.shape[1] // (2 if planar else 1)
    return spectrum.new_empty((batch, channels, *geometry.sizes), dtype=dtype)


def _synthesis_save(ctx, inputs, output):
    _, geometry, _, ctx.backend, ctx.planar = (*inputs, False)[:5]
    ctx.adjoint = geometry.transposed(geometry.sizes)


def _synthesis_backward(ctx, grad):
    return (analyse(grad, ctx.adjoint, ctx.backend, ctx.planar),)


def _mix(a, b, product, backend):
    return impl.SPECTRAL[backend].mix(a, b, product)


def _mix_fake(a, b, product, backend):
    return a.new_empty((*mixes.result_shape(product, a.shape[:-1], b.shape[:-1]), 2))


def _mix_save(ctx, inputs, output):
    a, b, ctx.product, ctx.backend = inputs
    wanted = ctx.needs_input_grad
    ctx.save_for_backward(a if wanted[1] else None, b if wanted[0] else None)


def _mix_backward(ctx, grad):
    a, b = ctx.saved_tensors
    given, found = {"a": a, "b": b, "grad": grad}, []
    for wanted, (product, *sides) in zip(
        ctx.needs_input_grad[:2], mixes.GRADIENTS[ctx.product], strict=True
    ):
        first, second = (given[side] for side in sides)
        found.append(mix(first, second, product, ctx.backend) if wanted else None)
    return tuple(found)


def _mix_vmap(call, size, dims, values):
    """Over an axis that one operand has, one of its own letters is lengthened; over one that both
    have, the groups are.
    """
    (a, b, product, backend), (of_a, of_b, of_out) = values, mixes.letters(values[2])
    if None in dims:
        others = of_b if dims[1] is None else of_a
        (axis,) = (set(of_b if dims[0] is None else of_a) & set(of_out)) - set(others)
    else:
        axis = "g"
    a, b = (
        t if dim is None else folded(t, dim, size, names.index(axis))
        for t, dim, names in ((a, dims[0], of_a), (b, dims[1], of_b))
    )
    at = of_out.index(axis)
    return call(a, b, product, backend).unflatten(at, (size, -1)), at


def _pointwise(x, weight, groups, transposed, backend):
    return impl.POINTWISE[backend].product(x, Matrix(weight, groups, transposed))[0]


def _pointwise_fake(x, weight, groups, transposed, backend):
    outputs = Matrix(weight, groups, transposed).outputs
    return x.new_empty((x.shape[0], groups * outputs, *x.shape[2:]))


def _pointwise_save(ctx, inputs, output):
    x, weight, ctx.groups, ctx.transposed, ctx.backend = inputs
    wanted = ctx.needs_input_grad
    ctx.save_for_backward(x if wanted[1] else None, weight if wanted[0] else None)


def _pointwise_backward(ctx, grad):
    (x, weight), dx, dweight = ctx.saved_tensors, None, None
    if ctx.needs_input_grad[0]:
        dx = pointwise(grad, weight, ctx.groups, not ctx.transposed, ctx.backend)
    if ctx.needs_input_grad[1]:
        sides = (x, grad) if ctx.transposed else (grad, x)
        dweight = grouped_sum_of_products(*sides, ctx.groups)
    return dx, dweight


analyse = op(
    "analysis(Tensor x, Geometry geometry, str backend, bool planar=False) -> Tensor",
    _analysis,
    _analysis_fake,
    _analysis_backward,
    _analysis_save,
    (multilinear, _transform_vmap),
)
synthesise = op(
    "synthesis(Tensor spectrum, Geometry geometry, ScalarType dtype, str backend,"
    " bool planar=False) -> Tensor",
    _synthesis,
    _synthesis_fake,
    _synthesis_backward,
    _synthesis_save,
    (multilinear, _transform_vmap),
)
mix = op(
    "mix(Tensor a, Tensor b, str product, str backend) -> Tensor",
    _mix,
    _mix_fake,
    _mix_backward,
    _mix_save,
    (multilinear, _mix_vmap),
)
pointwise = op(
    "pointwise(Tensor x, Tensor weight, int groups, bool transposed, str backend) -> Tensor",
    _pointwise,
    _pointwise_fake,
    _pointwise_backward,
    _pointwise_save,
)


class Registered(NamedTuple):
    """Stand for the kernels of a backend, `impl.SPECTRAL[backend]`, as operators for torch."""

    backend: str

    def analysis(self, x: Tensor, geometry: Geometry, planar: bool = False) -> Tensor:
        """Return the kept spectrum of x."""
        return analyse(x, geometry, self.backend, planar)

    def synthesis(
        self, spectrum: Tensor, geometry: Geometry, dtype: torch.dtype, bias: Tensor | None = None,
        planar: bool = False,
    ) -> Tensor:  # fmt: skip
        """Return what a spectrum stands for, plus bias (C,)."""
        if bias is None:
            return synthesise(spectrum, geometry, dtype, self.backend, planar)
        y = synthesise(spectrum, geometry, spectrum.dtype, self.backend, planar)
        return (y + bias.to(y.dtype).view(-1, *[1] * len(geometry.sizes))).to(dtype)

    def mix(self, a: Tensor, b: Tensor, product: str) -> Tensor:
        """Return one of the products of a spectral convolution, a key of `mixes.PRODUCTS`."""
        return mix(a, b, product, self.backend)

    def multiply(self, spectrum: Tensor, weight: Tensor, groups: int) -> Tensor:
        """Return spectra times a weight, which all modes may share."""
        if weight.shape[2:] != spectrum.shape[2:]:
            return matmul.multiply(spectrum, weight, groups)
        return mixes.forward(self, spectrum, weight, groups)
