"""Rows of the Gaussian family, and the cases its other tests draw."""

import math

import numpy as np
from operators import Draw, Row
from tolerances import wide

from fastseg import reference

SIZES = [
    (1,), (2,), (3,), (8,), (33,), (100,), (1, 1), (1, 7), (7, 1), (2, 2), (2, 3), (3, 2), (5, 64),
    (64, 5), (17, 31), (31, 18), (48, 33), (64, 64), (85, 85), (13, 96), (141, 9), (1, 1, 1),
    (1, 4, 6), (4, 1, 6), (4, 6, 1), (2, 3, 4), (5, 1, 7), (7, 9, 33), (9, 11, 13), (16, 12, 20),
    (1, 16, 17), (21, 19, 17), (3, 40, 5), (40, 3, 2), (2, 2, 50),
]  # fmt: skip
FEW = [(5, 8), (9,), (2,), (2, 3), (17, 12), (4, 5, 6), (1, 4, 6), (7, 3, 5)]
MODES = ("low", "high", "both")
# one number for all, of each channel, of each sample and axis
SHAPES = ("number", "channels", "all")


def few_numbers(sizes) -> int:
    """A batch that has hundreds of numbers: a few can all round the wrong way, or cancel."""
    return 2 + 200 // math.prod(sizes)


def spatial(padding, sizes, sigmas, rng) -> dict:
    """Options of a spatial kernel: one that reflects is smaller than the grid."""
    taps = ("sampled", "erf", "scalespace")[rng.integers(3)]
    room = min(sizes) - 1 if padding == "reflect" else 40
    if rng.random() < 0.5:
        return {"radius": min(int(rng.integers(0, 9)), room), "taps": taps}
    truncate = min(float(rng.uniform(1, 4)), room / max(sigmas))
    return {"truncate": truncate, "max_sigma": max(sigmas), "taps": taps}


def gaussian_filter(sizes, dtype, seed=0):
    rng, draw = np.random.default_rng((seed, len(sizes), *sizes)), Draw((sizes, seed), dtype)
    axes, channels, batch = len(sizes), 3, few_numbers(sizes)
    first = (sizes, seed) == (FEW[0], 0)  # what every op is held to wants gradients of the taps
    most = float(rng.choice([0.6, 1.7, 3.0, 8.0]))
    tensors, options = {"x": draw.real(batch, channels, *sizes)}, {}
    kind = "channels" if first else SHAPES[rng.integers(3)]
    if kind == "number":
        options["sigma"] = most * int(rng.random() < 0.9)
    else:
        shape = (channels, 1) if kind == "channels" else (batch, channels, axes)
        sigma = draw.uniform(0.3, most, *shape, dtype=draw.parameter().dtype)
        tensors["sigma"] = sigma
        if rng.random() < 0.5:
            tensors["offset"] = draw.uniform(-1, 1, channels, axes, dtype=sigma.dtype)
    padding = "reflect" if first else ("circular", "reflect", "zeros")[rng.integers(3)]
    options |= {"mode": "both" if first else MODES[rng.integers(3)], "padding": padding}
    if padding != "circular" or rng.random() < 0.3:
        options |= spatial(padding, sizes, [most], rng)
    if options.get("taps") == "scalespace":
        tensors.pop("offset", None)
    return tensors, options


def anchor_gate(sizes, dtype):
    rng, draw = np.random.default_rng(sizes), Draw(sizes, dtype)
    axes, channels, batch = len(sizes), int(rng.integers(2, 6)), few_numbers(sizes)
    sigma = draw.uniform(0.4, 2, *((channels,), (channels, axes))[rng.integers(2)])
    tensors = {
        "cond": draw.real(batch, channels, *sizes),
        "feat": draw.uniform(0, 1, batch, int(rng.integers(1, channels // 2 + 1)), *sizes),
        "sigma": sigma.to(draw.parameter().dtype),
        "conv_weight": draw.parameter(1, channels, *[1] * axes),
        "conv_bias": draw.parameter(1),
    }
    if rng.random() < 0.5:
        tensors["offset"] = draw.parameter(*sigma.shape).clamp(-1, 1)
    radius = min(int(rng.integers(1, 6)), min(sizes) - 1)
    while (
        _nearest_tie(tensors, radius) < 1e-6
    ):  # where rounding decides the larger, and the gradient
        tensors["cond"] = draw.real(batch, channels, *sizes)
    return tensors, {"radius": radius}


def _nearest_tie(tensors, radius: int) -> float:
    """The least distance between cond and its average."""
    cond = wide(tensors["cond"])
    sigma, offset = (
        t if t is None or t.dim() == 2 else t[:, None]
        for t in (tensors["sigma"], tensors.get("offset"))
    )
    low = reference.gaussian_filter(cond, sigma, padding="reflect", radius=radius, offset=offset)
    return (low - cond).abs().min().item() if radius else 1.0


def untied(grids) -> list:
    """Of two 16-bit neighbours many are equal: the larger of cond and its average is then decided
    by rounding, and with it the gradient.
    """
    return [sizes for sizes in grids if 2 not in sizes]


ROWS = {
    "gaussian_filter": Row(gaussian_filter, SIZES, FEW, ("GAUSSIAN",), relative_to="x"),
    "anchor_gate": Row(
        anchor_gate, untied(SIZES), untied(FEW), ("GAUSSIAN", "GATE"), relative_to="cond",
        batched=("cond", "feat"),
    ),
}  # fmt: skip
