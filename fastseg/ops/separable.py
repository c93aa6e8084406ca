"""The separable filter of one call: constant taps are kept, those of sigmas on a GPU come from a
kernel where a backend has one, the others from torch.
"""

import torch
from torch import Tensor

from fastseg.ops import forked, impl, tables
from fastseg.ops.context import transformed
from fastseg.ops.impl.contract import SeparableFilter
from fastseg.ops.impl.native import compute_dtype
from fastseg.ops.register import op
from fastseg.ops.taps import Design, Taps, build, constant, packed


def make_taps(x: Tensor, sigma, offset, design: Design) -> Taps:
    """Return the taps of a filter of x, made by torch: all derivatives."""
    arguments = _constant(x, sigma, offset, design)
    if arguments:
        return constant(*arguments)
    devices = [v.device for v in (sigma, offset) if isinstance(v, Tensor)]
    device = x.device if x.device in devices else devices[0]
    wide = (_float64(v, device) for v in (sigma, offset))
    return build(*wide, design, compute_dtype(x.dtype), x.device)


def packed_taps(x: Tensor, sigma, offset, design: Design, backend: str) -> SeparableFilter:
    """Return the taps of a filter of x as the kernels of a backend take them."""
    arguments = _constant(x, sigma, offset, design)
    if arguments:
        return _constant_filter(*arguments)

    def make(sigma, offset) -> tuple[Tensor, Tensor]:
        return packed(make_taps(x, sigma, offset, design), *x.shape[:2])

    given = [v for v in (sigma, offset) if isinstance(v, Tensor)]
    known = backend in impl.TAPS and design.kind != "scalespace"  # those torch makes alone
    if known and all(v.device == x.device for v in given) and not transformed():
        sigma, offset = (_number(v, x.device) for v in (sigma, offset))
        by = _made(sigma, offset, x.shape, *design[1:-1], backend)
    elif forked.in_child():
        wide = [_float64(v, x.device) for v in (sigma, offset)]
        by = forked.alone(make, *wide)
    else:
        by = make(sigma, offset)
    return SeparableFilter(*by, design.padding, offset is None)


def _constant(x: Tensor, sigma, offset, design: Design) -> tuple | None:
    """The arguments of taps that all images share, which are worth keeping."""
    if isinstance(sigma, Tensor) or isinstance(offset, Tensor):
        return None
    return sigma, offset, design, compute_dtype(x.dtype), x.device


@tables.cached
def _constant_filter(sigma, offset, design: Design, *where) -> SeparableFilter:
    taps = packed(constant(sigma, offset, design, *where), 1, 1)
    return SeparableFilter(*taps, design.padding, offset is None)


def _number(value, device: torch.device) -> Tensor | None:
    if isinstance(value, float):
        return torch.full((1, 1, 1), value, dtype=torch.float64, device=device)
    return value


def _float64(value, device: torch.device) -> Tensor | None:
    value = _number(value, device)
    return None if value is None else value.to(device, torch.float64)


def _design(shape, fields) -> Design:
    return Design(tuple(shape[2:]), *fields, 0)


def _make(sigma, offset, shape, *fields):
    *fields, backend = fields
    return impl.TAPS[backend].make(sigma, offset, _design(shape, fields), *shape[:2])


def _make_fake(sigma, offset, shape, *fields):
    design = _design(shape, fields[:-1])
    shared = all(v.shape[0] == v.shape[1] == 1 for v in (sigma, offset) if v is not None)
    images = 1 if shared else shape[0] * shape[1]
    taps = sigma.new_empty((images, 3, 2 * design.widest() + 1), dtype=torch.float32)
    return taps, sigma.new_empty((images, 3), dtype=torch.int32)


def _save(ctx, inputs, output):
    sigma, offset, *ctx.rest = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(sigma, offset)


def _vjp(ctx, grad, _):
    """Through the taps that torch makes."""
    if grad is None:
        return None, None
    shape, *fields, _ = ctx.rest
    wanted, again = ctx.needs_input_grad[:2], torch.is_grad_enabled()
    with torch.enable_grad():
        # views, so that nothing is followed beyond them though they stay connected
        given = [
            v if v is None else v.view_as(v) if again else v.detach().requires_grad_()
            for v in ctx.saved_tensors
        ]
        wide = (None if v is None else v.double() for v in given)
        taps = build(*wide, _design(shape, fields), torch.float64, grad.device)
        chosen = [v for v, asked in zip(given, wanted, strict=True) if asked]
        made = packed(taps, *shape[:2])[0]
        found = iter(torch.autograd.grad(made, chosen, grad.double(), create_graph=again))
    return tuple(next(found) if asked else None for asked in wanted)


_made = op(
    "gaussian_taps(Tensor sigma, Tensor? offset, SymInt[] shape, str padding, str kind,"
    " SymInt radius, float? truncate, bool compact, str backend) -> (Tensor, Tensor)",
    _make,
    _make_fake,
    _vjp,
    _save,
)
