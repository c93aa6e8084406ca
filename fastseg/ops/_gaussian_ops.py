"""The registered ops of the Gaussian family's kernels: schema, kernel entry, fake and backward.

taps (images or 1, 3, 2R+1) and radii (images or 1, 3) are `_taps.packed`'s. mode: "low", "high" or
"both"; a result that was not asked for is empty.
"""

import torch
from torch import Tensor

from fastseg.ops import _backends
from fastseg.ops._spectral_ops import no_second_order

_library = torch.library.Library("fastseg", "FRAGMENT")
_library.define(
    "gaussian(Tensor x, Tensor taps, Tensor radii, str padding, str mode, bool adjoint,"
    " bool symmetric, str backend) -> (Tensor, Tensor)"
)
_library.define(
    "gaussian_taps_backward(Tensor x, Tensor gradient, Tensor taps, Tensor radii, str padding,"
    " bool symmetric, str backend) -> Tensor"
)


def gaussian(x, taps, radii, padding, mode, adjoint, symmetric, backend):
    return _backends.GAUSSIAN[backend].filter(x, taps, radii, padding, mode, adjoint, symmetric)


def _gaussian_fake(x, taps, radii, padding, mode, adjoint, symmetric, backend):
    low = x.new_empty(x.shape if mode != "high" else (0,))
    return low, x.new_empty(x.shape if mode != "low" else (0,))


def _setup(ctx, inputs, output):
    x, taps, radii, ctx.padding, ctx.mode, ctx.adjoint, ctx.symmetric, ctx.backend = inputs
    ctx.set_materialize_grads(False)
    ctx.dtype = x.dtype
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, taps, radii)


def _through(ctx, low: Tensor | None, high: Tensor | None) -> Tensor | None:
    """The gradient that reaches the filter: high = x − low."""
    if low is None or high is None:
        return low if high is None else -high
    wide = torch.float64 if ctx.dtype == torch.float64 else torch.float32
    return low.to(wide) - high.to(wide)


def _gaussian_backward(ctx, low, high):
    low, high = (
        None if ctx.mode == other else grad for grad, other in ((low, "high"), (high, "low"))
    )
    filtered = _through(ctx, low, high)
    if filtered is None:
        return (None,) * 8
    x, taps, radii = ctx.saved_tensors
    dx = dtaps = None
    if ctx.needs_input_grad[0]:
        passed = torch.ops.fastseg.gaussian(
            filtered, taps, radii, ctx.padding, "low", not ctx.adjoint, ctx.symmetric, ctx.backend
        )[0]
        dx = (passed if high is None else passed.add_(high)).to(ctx.dtype)
    if ctx.needs_input_grad[1]:
        x = x.to(filtered.dtype)
        sides = (filtered, x) if ctx.adjoint else (x, filtered)
        dtaps = torch.ops.fastseg.gaussian_taps_backward(
            *sides, taps, radii, ctx.padding, ctx.symmetric, ctx.backend
        )
    return dx, dtaps, *[None] * 6


def _only(taps: Tensor, radii: Tensor, axes) -> tuple[Tensor, Tensor]:
    """The filter of some axes alone."""
    keep = torch.zeros(3, dtype=torch.bool, device=taps.device)
    for axis in axes:
        keep[axis] = True
    width = taps.shape[-1]
    identity = (torch.arange(width, device=taps.device) == width // 2).to(taps)
    return torch.where(keep[:, None], taps, identity), torch.where(keep, radii, 0).to(radii.dtype)


def _taps_backward(x, gradient, taps, radii, padding, symmetric, backend):
    """Axis by axis: what the axes before it make of x meets what the adjoints of those after it
    make of the gradient.
    """
    kernels, sizes = _backends.GAUSSIAN[backend], (1,) * (5 - x.dim()) + tuple(x.shape[2:])
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    radius = taps.shape[-1] // 2
    out = torch.zeros((x.shape[0] * x.shape[1], 3, taps.shape[-1]), dtype=wide, device=x.device)
    x, gradient = x.to(wide), gradient.to(wide)

    def along(tensor, axes, adjoint):
        only = _only(taps, radii, axes)
        return kernels.filter(tensor, *only, padding, "low", adjoint, symmetric)[0]

    last = 5 - x.dim()
    for axis in range(2, last - 1, -1):
        size = sizes[axis]
        reach = min(radius, size // 2 if padding == "circular" else size - 1)
        later = along(gradient, range(last, axis), True) if axis > last else gradient
        out[:, axis, radius - reach : radius + reach + 1] = kernels.taps_gradient(
            x, later, axis, reach, padding
        )
        if axis > last:
            x = along(x, (axis,), False)
    return out.sum(0, keepdim=True) if taps.shape[0] == 1 else out


def _taps_backward_fake(x, gradient, taps, radii, padding, symmetric, backend):
    return torch.empty_like(taps, memory_format=torch.contiguous_format)


for _name, _run, _fake in (
    ("gaussian", gaussian, _gaussian_fake),
    ("gaussian_taps_backward", _taps_backward, _taps_backward_fake),
):
    _library.impl(_name, _run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastseg::{_name}", _fake, lib=_library)

torch.library.register_autograd(
    "fastseg::gaussian", _gaussian_backward, setup_context=_setup, lib=_library
)
torch.library.register_autograd("fastseg::gaussian_taps_backward", no_second_order, lib=_library)
