"""Rows of the Fourier unit and its halves."""

import math

import torch
from operators import Draw, Row
from tolerances import wide

from fastseg import reference
from fastseg.ops import tables

GRIDS = [
    *[(n,) for n in (1, 2, 3, 4, 5, 8, 17, 32, 85)],
    (1, 1), (1, 6), (6, 1), (2, 2), (3, 2), (5, 8), (17, 12), (16, 16), (32, 33), (48, 9),
    (1, 1, 1), (1, 4, 6), (4, 1, 6), (4, 6, 1), (2, 2, 2), (3, 4, 5), (7, 9, 5), (8, 8, 8),
    (16, 5, 12),
]  # fmt: skip
FEW = [(1,), (9,), (2, 3), (5, 8), (1, 4, 6), (4, 5, 6), (7, 3, 5)]


def channels(sizes) -> tuple[int, int, int]:
    """Batch, inputs and outputs, drawn from the grid so that every tile size of a kernel occurs.

    Large grids have several inputs: of a lone one, batch statistics leave so little of the weight's
    gradient that float32 sums cancel.
    """
    turn = sum(sizes) + len(sizes)
    return 1 + 60 // math.prod(sizes) + turn % 3, 1 + turn % 5, 3 + (3 * turn) % 5


def mixed(sizes, dtype, attempt=0):
    draw = Draw(("fu_mix", sizes, attempt), dtype)
    batch, inputs, outputs = channels(sizes)
    tensors = {
        "x": draw.real(batch, inputs, *sizes),
        "weight": draw.parameter(2 * outputs, 2 * inputs),
    }
    return tensors, {}


def affine(z, scale, shift):
    per_channel = (-1, *[1] * (z.dim() - 2))
    return wide(scale).view(per_channel) * wide(z) + wide(shift).view(per_channel)


def away_from_the_kink(draw_once):
    """Redraws until no pre-activation is so near zero that rounding decides its ReLU."""

    def draw(sizes, dtype):
        for attempt in range(20):
            tensors, options, activation = draw_once(sizes, dtype, attempt)
            if activation.abs().min() > 1e-5:
                return tensors, options
        raise AssertionError(f"every draw on {sizes} has a pre-activation near zero")

    return draw


@away_from_the_kink
def finished(sizes, dtype, attempt):
    dtype = torch.float64 if dtype == torch.float64 else torch.float32
    draw = Draw(("fu_finish", sizes, attempt), dtype)
    batch, outputs, _ = channels(sizes)
    tensors = {
        "z": draw.real(batch, 2 * outputs, *tables.half_spectrum(sizes)),
        "scale": draw.real(2 * outputs),
        "shift": draw.real(2 * outputs),
    }
    return tensors, {"sizes": sizes}, affine(**tensors)


def unit(training: bool):
    def draw_once(sizes, dtype, attempt):
        tensors, _ = mixed(sizes, dtype, attempt)
        draw, outputs = Draw(("fourier_unit", sizes, attempt), dtype), tensors["weight"].shape[0]
        tensors["norm_weight"], tensors["norm_bias"] = (draw.parameter(outputs) for _ in "wb")
        mean, var = draw.parameter(outputs), draw.parameter(outputs).square() + 0.5
        z, *_ = reference.fu_mix(wide(tensors["x"]), wide(tensors["weight"]))
        dims = (0, *range(2, z.dim()))
        taken = (z.mean(dims), z.var(dims, correction=0)) if training else (wide(mean), wide(var))
        scale = wide(tensors["norm_weight"]) * torch.rsqrt(taken[1] + 1e-3)
        options = {"running_mean": mean, "running_var": var, "training": training}
        activation = affine(z, scale, wide(tensors["norm_bias"]) - taken[0] * scale)
        return tensors, options | {"momentum": 0.3, "eps": 1e-3}, activation

    return away_from_the_kink(draw_once)


ROWS = {
    "fu_mix": Row(mixed, GRIDS, FEW, ("SPECTRAL", "POINTWISE")),
    "fu_finish": Row(finished, GRIDS, FEW, ("SPECTRAL", "POINTWISE"), batched=("z",)),
    "fourier_unit": Row(unit(True), GRIDS, FEW, ("SPECTRAL", "POINTWISE")),
}
