"""The registered separable filter, its backward, and the sums that its taps' gradients are.

Registered taps (images or 1, 3, 2R+1) and radii (images or 1, 3) are `taps.packed`'s. mode: "low",
"high" or "both"; a result that was not asked for is empty.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastseg.ops import forked, impl
from fastseg.ops.impl.contract import SeparableFilter
from fastseg.ops.register import folded, multilinear, op


def _forward(x, by, mode, adjoint, backend):
    return impl.GAUSSIAN[backend].filter(x, by, mode, adjoint)


def _forward_fake(x, by, mode, adjoint, backend):
    low = x.new_empty(x.shape if mode != "high" else (0,))
    return low, x.new_empty(x.shape if mode != "low" else (0,))


def _save(ctx, inputs, output):
    x, by, ctx.mode, ctx.adjoint, ctx.backend = inputs
    ctx.set_materialize_grads(False)
    ctx.dtype, ctx.padding, ctx.symmetric = x.dtype, by.padding, by.symmetric
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, by.taps, by.radii)


def _through(ctx, low: Tensor | None, high: Tensor | None) -> Tensor | None:
    """The gradient that reaches the filter: high = x − low."""
    if low is None or high is None:
        return low if high is None else -high
    wide = torch.float64 if ctx.dtype == torch.float64 else torch.float32
    return low.to(wide) - high.to(wide)


def _vjp(ctx, low, high):
    low, high = (
        None if ctx.mode == other else grad for grad, other in ((low, "high"), (high, "low"))
    )
    filtered = _through(ctx, low, high)
    dx = dtaps = None
    if filtered is None:
        return dx, dtaps
    x, *taps = ctx.saved_tensors
    by = SeparableFilter(*taps, ctx.padding, ctx.symmetric)
    if ctx.needs_input_grad[0]:
        passed = separable_filter(filtered, by, "low", not ctx.adjoint, ctx.backend)[0]
        dx = (passed if high is None else passed.add_(high)).to(ctx.dtype)
    if ctx.needs_input_grad[1]:
        x = x.to(filtered.dtype)
        sides = (filtered, x) if ctx.adjoint else (x, filtered)
        if torch.is_grad_enabled():
            dtaps = _taps_gradients(*sides, by, Registered(ctx.backend))
        else:
            dtaps = _taps_gradient(*sides, by, ctx.backend)
    return dx, dtaps


def _only(by: SeparableFilter, axes) -> SeparableFilter:
    """The filter of some axes alone."""
    taps, radii = by.taps, by.radii
    keep = torch.zeros(3, dtype=torch.bool, device=taps.device)
    for axis in axes:
        keep[axis] = True
    width = taps.shape[-1]
    identity = (torch.arange(width, device=taps.device) == width // 2).to(taps)
    return by._replace(
        taps=torch.where(keep[:, None], taps, identity),
        radii=torch.where(keep, radii, 0).to(radii.dtype),
    )


def _taps_backward(x, gradient, by, backend):
    """Axis by axis: what the axes before it make of x meets what the adjoints of those after it
    make of the gradient.
    """
    with forked.one_thread():
        return _taps_gradients(x, gradient, by, impl.GAUSSIAN[backend])


def _taps_gradients(x, gradient, by, kernels):
    sizes, last = (1,) * (5 - x.dim()) + tuple(x.shape[2:]), 5 - x.dim()
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    taps, radius = by.taps, by.taps.shape[-1] // 2
    x, gradient = x.to(wide), gradient.to(wide)
    rows = [x.new_zeros((x.shape[0] * x.shape[1], taps.shape[-1]))] * 3

    def along(tensor, axes, adjoint):
        return kernels.filter(tensor, _only(by, axes), "low", adjoint)[0]

    for axis in range(2, last - 1, -1):
        size = sizes[axis]
        reach = min(radius, size // 2 if by.padding == "circular" else size - 1)
        later = along(gradient, range(last, axis), True) if axis > last else gradient
        row = kernels.taps_gradient(x, later, axis, reach, by.padding)
        rows[axis] = F.pad(row, (radius - reach,) * 2)
        if axis > last:
            x = along(x, (axis,), False)
    out = torch.stack(rows, 1)
    return out.sum(0, keepdim=True) if taps.shape[0] == 1 else out


def _taps_backward_fake(x, gradient, by, backend):
    return torch.empty_like(by.taps, memory_format=torch.contiguous_format)


def _along(x, gradient, axis, radius, padding, backend):
    return impl.GAUSSIAN[backend].taps_gradient(x, gradient, axis, radius, padding)


def _along_fake(x, gradient, axis, radius, padding, backend):
    return x.new_empty((x.shape[0] * x.shape[1], 2 * radius + 1))


def _along_save(ctx, inputs, output):
    x, gradient, *ctx.where, ctx.padding, ctx.backend = inputs
    ctx.save_for_backward(x, gradient)


def _along_vjp(ctx, dtaps):
    """Σ gradient[n]·x[n + r] times dtaps is gradient times the filter of x by taps dtaps."""
    (x, gradient), (axis, radius) = ctx.saved_tensors, ctx.where
    identity = (torch.arange(-radius, radius + 1, device=x.device) == 0).to(dtaps)
    rows = [dtaps if at == axis else identity.expand_as(dtaps) for at in range(3)]
    radii = torch.zeros((dtaps.shape[0], 3), dtype=torch.int32, device=x.device)
    radii[:, axis] = radius
    by = SeparableFilter(torch.stack(rows, 1), radii, ctx.padding, False)
    dx, dgradient = (
        separable_filter(side, by, "low", adjoint, ctx.backend)[0] if wanted else None
        for side, adjoint, wanted in zip(
            (gradient, x), (True, False), ctx.needs_input_grad[:2], strict=True
        )
    )
    return dx, dgradient


def _along_vmap(call, size, dims, values):
    x, gradient = (folded(t, dim, size) for t, dim in zip(values, dims, strict=False))
    return call(x, gradient, *values[2:]).unflatten(0, (size, -1)), 0


def _filter_jvp(call, values, tangents):
    """Linear in x, and in the taps of every axis."""
    (x, by, mode, *more), (dx, dtaps, _) = values, tangents
    terms = [] if dx is None else [call(dx, by, mode, *more)]
    for axis in range(5 - x.dim(), 3) if dtaps is not None else ():
        at = torch.arange(3, device=x.device)[:, None] == axis
        along = by._replace(taps=torch.where(at, dtaps, by.taps), symmetric=False)
        low, none = call(x, along, "low", *more)
        terms.append((none if mode == "high" else low, none if mode == "low" else -low))
    return tuple(sum(parts[1:], parts[0]) for parts in zip(*terms, strict=True))


def _filter_vmap(call, size, dims, values):
    x, by, *more = values
    x = folded(x, dims[0], size)
    if by.taps.shape[0] > 1 or dims[1:] != (None, None):
        images = x.shape[0] // size * x.shape[1]
        taps, radii = (
            _each(t, dim, size, images)
            for t, dim in zip((by.taps, by.radii), dims[1:], strict=True)
        )
        by = by._replace(taps=taps, radii=radii)
    found = call(x, by, *more)
    given = [y.dim() == x.dim() for y in found]  # what was not asked for is empty
    return (
        tuple(y.unflatten(0, (size, -1)) if g else y for y, g in zip(found, given, strict=True)),
        tuple(0 if g else None for g in given),
    )


def _each(numbers: Tensor, dim: int | None, size: int, images: int) -> Tensor:
    """The taps or radii of every image, an axis of `size` folded in."""
    numbers = numbers.unsqueeze(0) if dim is None else numbers.movedim(dim, 0)
    return numbers.expand(size, images, *numbers.shape[2:]).flatten(0, 1)


class Registered(NamedTuple):
    """Stand for the kernels of a backend, `impl.GAUSSIAN[backend]`, as operators for torch."""

    backend: str

    def filter(self, x: Tensor, by: SeparableFilter, mode: str, adjoint: bool):
        """Return (low, high)."""
        return separable_filter(x, by, mode, adjoint, self.backend)

    def taps_gradient(self, x: Tensor, gradient: Tensor, axis: int, radius: int, padding: str):
        """Return Σ gradient[n]·x[n + r] along an axis."""
        return _taps_along(x, gradient, axis, radius, padding, self.backend)


_taps_along = op(
    "gaussian_taps_along(Tensor x, Tensor gradient, int axis, int radius, str padding, str backend)"
    " -> Tensor",
    _along,
    _along_fake,
    _along_vjp,
    _along_save,
    (multilinear, _along_vmap),
)
_taps_gradient = op(
    "gaussian_taps_backward(Tensor x, Tensor gradient, SeparableFilter by, str backend) -> Tensor",
    _taps_backward,
    _taps_backward_fake,
)
separable_filter = op(
    "gaussian(Tensor x, SeparableFilter by, str mode, bool adjoint, str backend)"
    " -> (Tensor, Tensor)",
    _forward,
    _forward_fake,
    _vjp,
    _save,
    (_filter_jvp, _filter_vmap),
)
