"""How many floating-point operations each registered operator stands for, for FlopCounterMode.

As torch counts them: two for a multiply and an add, of matrix products alone. A transform counts as
the product by a matrix along each axis that the matmul backend makes of it, whatever a kernel folds
or leaves out, so that backends compare by their times.
"""

import math

import torch

from fastseg.ops.tables import half_spectrum


def transform(images: int, sizes, modes) -> int:
    """Count a transform of so many images between a grid and its kept modes.

    >>> transform(1, (8,), (3,))
    96
    """
    pairs, total = 2 * modes[-1], 0
    for axis, (size, kept) in enumerate(zip(sizes, modes, strict=True)):
        before, last = math.prod(sizes[:axis]), axis == len(sizes) - 1
        lines = 1 if last else math.prod(modes[axis + 1 : -1]) * pairs
        total += 2 * images * before * lines * size * (pairs if last else 2 * kept)
    return total


def whole(images: int, sizes) -> int:
    """Count a transform of whole spectra."""
    return transform(images, sizes, half_spectrum(sizes))


def product(batch: int, weight) -> int:
    """Count a product over channels of every mode by a weight (Cin/groups, Cout, *modes, 2)."""
    return 8 * batch * math.prod(weight[:-1])


def pointwise(x, weight) -> int:
    """Count a 1×1 convolution of x by a matrix (outputs, inputs of a group)."""
    return 2 * x[0] * math.prod(x[2:]) * math.prod(weight)


def _analysis(x, sizes, modes, *rest, **_):
    return transform(x[0] * x[1], x[2:], modes)


def _synthesis(spectrum, sizes, modes, *rest, **_):
    planar = len(spectrum) == len(modes) + 2  # real and imaginary parts are channels
    return transform(spectrum[0] * spectrum[1] // (1 + planar), sizes, modes)


def _mode_product(a, b, letters, *rest, **_):
    extents = dict(zip(letters.replace(",", ""), (*a[:-1], *b[:-1]), strict=False))
    return 8 * math.prod(extents.values())


def _conv(x, weight, bias, sizes, *rest, **_):
    (batch, inputs), modes = x[:2], weight[2:-1]
    into, out = transform(batch * inputs, x[2:], modes), transform(batch * weight[1], sizes, modes)
    return into + product(batch, weight) + out


def _conv_backward(grad, spectrum, weight, sizes, modes, scales, numbers, wanted, *rest, **_):
    batch, outputs = grad[:2]
    total = transform(batch * outputs, grad[2:], modes) + wanted[1] * product(batch, weight)
    if wanted[0]:
        total += product(batch, weight) + transform(batch * spectrum[1], sizes, modes)
    return total


def _block(x, weight, skip_weight, bias, sizes, *rest, **_):
    return _conv(x, weight, bias, x[2:]) + pointwise(x, skip_weight)


def _block_backward(
    grad, x, spectrum, weight, skip_weight, bias, sizes, modes, scales, numbers, wanted, *rest, **_
):
    """The pre-activation is computed again."""
    batch, outputs = grad[:2]
    back, skip = transform(batch * outputs, x[2:], modes), pointwise(x, skip_weight)
    total = 2 * back + product(batch, weight) * (1 + wanted[1]) + skip * (1 + wanted[2])
    if wanted[0]:
        total += product(batch, weight) + transform(batch * x[1], x[2:], modes) + skip
    return total


def _mix(x, weight, *rest, **_):
    bins = half_spectrum(x[2:])
    return whole(x[0] * x[1], x[2:]) + pointwise((x[0], 0, *bins), weight)


def _mix_backward(grad, grad_moments, z, spectrum, weight, sizes, dtype, wanted, *rest, **_):
    each = pointwise(z, weight)
    return wanted[0] * (each + whole(z[0] * weight[1] // 2, sizes)) + wanted[1] * each


def _finish(z, scale, shift, sizes, *rest, **_):
    return whole(z[0] * z[1] // 2, sizes)


def _finish_backward(grad, *rest, **_):
    return whole(grad[0] * grad[1], grad[2:])


def _spectral_filter(x, *rest, **_):
    return 2 * whole(x[0] * x[1], x[2:])


def _spectral_filter_backward(grad, x, gain, wanted, *rest, **_):
    return (1 + wanted[0] + wanted[1]) * whole(grad[0] * grad[1], grad[2:])


def _gaussian(x, taps, *rest, **_):
    return 2 * (len(x) - 2) * math.prod(x) * taps[-1]


def _gaussian_backward(x, gradient, taps, *rest, **_):
    axes = len(x) - 2
    passes = axes + sum(range(axes)) + axes - 1
    return 2 * passes * math.prod(x) * taps[-1]


def _gate(low, cond, *rest, **_):
    return 2 * math.prod(cond)


def _gate_backward(low, cond, *rest, **_):
    return 4 * math.prod(cond)


FORMULAS = dict(
    analysis=_analysis,
    synthesis=_synthesis,
    mix=_mode_product,
    pointwise=lambda x, weight, *rest, **_: pointwise(x, weight),
    spectral_conv=_conv,
    spectral_conv_backward=_conv_backward,
    fno_block=_block,
    fno_block_backward=_block_backward,
    fu_mix=_mix,
    fu_mix_backward=_mix_backward,
    fu_finish=_finish,
    fu_finish_backward=_finish_backward,
    spectral_filter=_spectral_filter,
    spectral_filter_backward=_spectral_filter_backward,
    gaussian=_gaussian,
    gaussian_taps=lambda *shapes, **_: 0,  # no matrix product
    gaussian_taps_along=lambda x, grad, axis, radius, *_, **__: 2 * math.prod(x) * (2 * radius + 1),
    gaussian_taps_backward=_gaussian_backward,
    gate=_gate,
    gate_backward=_gate_backward,
)


def register() -> None:
    """Tell FlopCounterMode, one that counts already included."""
    from torch.utils import _python_dispatch, flop_counter

    for name, formula in FORMULAS.items():
        if hasattr(torch.ops.fastseg, name):
            flop_counter.register_flop_formula(getattr(torch.ops.fastseg, name))(formula)
    for mode in _python_dispatch._get_current_dispatch_mode_stack():
        counter = getattr(mode, "counter", mode)  # before torch 2.5 they were one
        if isinstance(counter, flop_counter.FlopCounterMode):
            counter.flop_registry.update(flop_counter.flop_registry)
