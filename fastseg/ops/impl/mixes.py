"""The product over channels of every mode: its three forms, and how their operands lie."""

import math
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

# a, b → out over batch n, groups g, channels i (in) and o (out) of a group, modes m; the second
# operand or, in the weight gradient, the first one is conjugated
FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT = "ngim,igom->ngom", "ngom,igom->ngim", "ngim,ngom->igom"
PRODUCTS = {
    FORWARD: (False, False),
    INPUT_GRADIENT: (False, True),
    WEIGHT_GRADIENT: (True, False),
}
# the gradients of a product's operands a and b are such products too
GRADIENTS = {
    FORWARD: ((INPUT_GRADIENT, "grad", "b"), (WEIGHT_GRADIENT, "a", "grad")),
    INPUT_GRADIENT: ((FORWARD, "grad", "b"), (WEIGHT_GRADIENT, "grad", "a")),
    WEIGHT_GRADIENT: ((INPUT_GRADIENT, "b", "grad"), (FORWARD, "a", "grad")),
}


class Layout(NamedTuple):
    """Say how the operands of a product lie, out[p, q, m] = Σ_r a[p, r, m]·b[r, q, m] of every
    group: extents, then strides in complex numbers.
    """

    extents: tuple  # groups, p, q, r, modes
    a: tuple  # group, p, r
    b: tuple  # group, r, q
    out: tuple  # group, p, q
    shape: tuple  # out's, in the order of its letters


def letters(product: str) -> tuple[str, str, str]:
    """Return the axes of a product's operands and of its result, but for the pairs."""
    names_a, rest = product.split(",")
    return names_a, *rest.split("->")


def result_shape(product: str, shape_a, shape_b) -> tuple:
    """Return the shape of a product of operands of these shapes."""
    names_a, names_b, names_out = letters(product)
    shape = dict(zip(names_a, shape_a, strict=True)) | dict(zip(names_b, shape_b, strict=True))
    return tuple(shape[axis] for axis in names_out)


def _strides(names: str, shape: dict[str, int]) -> dict[str, int]:
    strides, step = {}, 1
    for axis in reversed(names):
        strides[axis], step = step, step * shape[axis]
    return strides


@lru_cache(maxsize=512)
def layout(product: str, shape_a: tuple, shape_b: tuple) -> Layout:
    """Return how contiguous operands of these shapes lie."""
    names_a, names_b, names_out = letters(product)
    shape = dict(zip(names_a, shape_a, strict=True)) | dict(zip(names_b, shape_b, strict=True))
    a, b, out = (_strides(names, shape) for names in (names_a, names_b, names_out))
    (p,) = set(names_a) & set(names_out) - set("gm")
    (q,) = set(names_b) & set(names_out) - set("gm")
    (r,) = set(names_a) & set(names_b) - set("gm")
    return Layout(
        tuple(shape[axis] for axis in ("g", p, q, r, "m")),
        (a["g"], a[p], a[r]),
        (b["g"], b[r], b[q]),
        (out["g"], out[p], out[q]),
        result_shape(product, shape_a, shape_b),
    )


def _grouped(spectrum: Tensor, groups: int) -> Tensor:
    batch, channels = spectrum.shape[:2]
    return spectrum.reshape(batch, groups, channels // groups, math.prod(spectrum.shape[2:-1]), 2)


def _grouped_weight(weight: Tensor, groups: int) -> Tensor:
    inputs, outputs = weight.shape[:2]
    return weight.reshape(inputs, groups, outputs // groups, math.prod(weight.shape[2:-1]), 2)


def forward(kernels, spectrum: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Return the spectra (B, Cin, *modes, 2) times the weight (Cin/groups, Cout, *modes, 2)."""
    out = kernels.mix(_grouped(spectrum, groups), _grouped_weight(weight, groups), FORWARD)
    return out.reshape(spectrum.shape[0], weight.shape[1], *spectrum.shape[2:])


def input_gradient(kernels, gradient: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Return the gradient of the spectra from that of their product (B, Cout, *modes, 2)."""
    out = kernels.mix(_grouped(gradient, groups), _grouped_weight(weight, groups), INPUT_GRADIENT)
    return out.reshape(gradient.shape[0], groups * weight.shape[0], *gradient.shape[2:])


def weight_gradient(kernels, spectrum: Tensor, gradient: Tensor, shape, groups: int) -> Tensor:
    """Return the gradient of a weight of this shape."""
    product = kernels.mix(_grouped(spectrum, groups), _grouped(gradient, groups), WEIGHT_GRADIENT)
    return product.reshape(shape)
