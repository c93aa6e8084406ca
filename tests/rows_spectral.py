"""Rows of the spectral family, and the cases its other tests draw."""

import math
from typing import NamedTuple

import numpy as np
import torch
from operators import Draw, Row
from tolerances import F32, F64
from torch.nn import functional as F

from fastseg import reference

NORMS = ("backward", "ortho", "forward")
SIZES_1D = [(n,) for n in (*range(1, 65), 85, 96, 141, 155, 240, 421)]
SIZES_2D = [
    (1, 1), (1, 7), (7, 1), (2, 2), (2, 3), (3, 2), (5, 64), (64, 5), (17, 31), (48, 33), (64, 64),
    (85, 85), (96, 141), (155, 31), (240, 13), (14, 240), (421, 9), (6, 421), (141, 155),
]  # fmt: skip
SIZES_3D = [
    (1, 1, 1), (1, 4, 6), (4, 1, 6), (4, 6, 1), (2, 3, 4), (5, 1, 7), (7, 9, 33), (9, 11, 13),
    (16, 12, 20), (1, 16, 17), (21, 19, 17), (3, 64, 5), (64, 3, 2), (2, 2, 85),
]  # fmt: skip
GRIDS = [*SIZES_1D, *SIZES_2D, *SIZES_3D]
FEW = [
    (1,),
    (2,),
    (9,),
    (20,),
    (1, 1),
    (2, 3),
    (5, 8),
    (17, 12),
    (1, 4, 6),
    (4, 5, 6),
    (7, 3, 5),
    (33, 50),
    (34, 64),
    (2, 17, 36),
]


class Case(NamedTuple):
    sizes: tuple
    modes: tuple
    channels: int = 4
    outputs: int = 2
    groups: int = 1
    norm: str = "backward"
    two_sided: bool = True
    bias: bool = True
    out_sizes: tuple | None = None
    batch: int = 2


def bins(sizes):
    return (*sizes[:-1], sizes[-1] // 2 + 1)


def drawn(sizes, seed: int = 0) -> Case:
    """A case on grid `sizes` with every other option drawn; one in four keeps all modes."""
    rng = np.random.default_rng((seed, *sizes))
    groups = int(rng.integers(1, 4))
    resized = tuple(int(rng.integers(max(1, n // 2), n + 4)) for n in sizes)
    out_sizes = resized if rng.random() < 0.3 else None
    fit = bins(tuple(map(min, sizes, out_sizes or sizes)))
    modes = fit if rng.random() < 0.25 else tuple(int(rng.integers(1, m + 1)) for m in fit)
    channels, outputs = groups * int(rng.integers(1, 4)), groups * int(rng.integers(4, 6))
    norm, two_sided, bias = NORMS[rng.integers(3)], rng.random() < 0.7, rng.random() < 0.7
    # few numbers can all round the wrong way, or cancel: keep hundreds
    batch = 1 + 100 // math.prod(modes)
    return Case(sizes, modes, channels, outputs, groups, norm, two_sided, bias, out_sizes, batch)


class CaseDraw(Draw):
    """The tensors of a case."""

    def __init__(self, case: Case, dtype: torch.dtype):
        super().__init__(case, dtype)
        self.case = case

    def x(self):
        return self.real(self.case.batch, self.case.channels, *self.case.sizes)

    def weight(self):
        c = self.case
        return self.complex(c.channels // c.groups, c.outputs, *c.modes)

    def bias(self):
        return self.parameter(self.case.outputs)

    def common(self, *names):
        return {name: getattr(self.case, name) for name in names}


def rfftn(draw):
    return {"x": draw.x()}, draw.common("modes", "norm", "two_sided")


def irfftn(draw):
    case = draw.case
    sizes = case.out_sizes or case.sizes
    size = {"backward": 1 / math.prod(sizes), "ortho": math.prod(sizes) ** -0.5, "forward": 1}
    # outputs of order one, inside float16's normal range
    scale = 1 / (size[case.norm] * math.sqrt(math.prod(case.modes)))
    spectrum = draw.complex(case.batch, case.channels, *case.modes, scale=scale)
    options = draw.common("norm", "two_sided") | {"sizes": sizes, "dtype": draw.dtype}
    return {"spectrum": spectrum}, options


def conv(draw):
    case = draw.case
    tensors = {"x": draw.x(), "weight": draw.weight()}
    if case.bias:
        tensors["bias"] = draw.bias()
    options = draw.common("groups", "norm", "two_sided", "modes")
    return tensors, options | {"sizes": case.out_sizes}


def block(draw):
    tensors, options = conv(draw)
    case = draw.case
    tensors["skip_weight"] = draw.real(case.outputs, case.channels // case.groups)
    return tensors, {name: options[name] for name in ("groups", "norm", "two_sided")}


def exact_block(x, weight, skip_weight, bias=None, **options):
    """The block from its definition: gelu(spectral_conv(x) + skip_weight·x + bias)."""
    grouped = x.unflatten(1, (options["groups"], -1))
    skip = skip_weight.unflatten(0, (options["groups"], -1))
    skip = torch.einsum("goi,bgi...->bgo...", skip, grouped).flatten(1, 2)
    return F.gelu(reference.spectral_conv(x, weight, bias, **options) + skip)


def spectral_filter(draw):
    case = draw.case
    full = (1, case.channels, *bins(case.sizes))
    # shared by the batch, by all channels, by all but the last axis
    gain = (full, full[2:], full[-1:])[case.outputs % 3]
    return {"x": draw.x(), "gain": (draw.complex if case.bias else draw.parameter)(*gain)}, {}


def dhtn(draw):
    case = draw.case
    return {"x": draw.x()}, {"modes": hartley_modes(case), "norm": case.norm}


def idhtn(draw):
    case = draw.case
    modes = hartley_modes(case)
    scale = {"backward": 1, "ortho": 0.5, "forward": 0}[case.norm]
    size = math.prod(case.sizes) ** scale / math.sqrt(math.prod(modes))
    spectrum = draw.real(case.batch, case.channels, *modes, dtype=F64) * size
    given = spectrum.to(F64 if draw.dtype == F64 else F32)
    return {"spectrum": given}, {"sizes": case.sizes, "norm": case.norm, "dtype": draw.dtype}


def hartley_modes(case: Case) -> tuple:
    """Of both signs on the last axis too; all of them where the case keeps all columns."""
    last, size = case.modes[-1], case.sizes[-1]
    whole = last == size // 2 + 1
    return (*case.modes[:-1], size if whole else min(2 * last - case.batch % 2, size))


BY_CASE = {
    "truncated_rfftn": rfftn,
    "truncated_irfftn": irfftn,
    "spectral_conv": conv,
    "fno_block": block,
}


def _row(arguments, **more) -> Row:
    def draw(sizes, dtype):
        return arguments(CaseDraw(drawn(sizes), dtype))

    return Row(draw, GRIDS, FEW, ("SPECTRAL",), **more)


ROWS = {
    "truncated_rfftn": _row(rfftn),
    "truncated_irfftn": _row(irfftn, batched=("spectrum",)),
    "spectral_conv": _row(conv),
    "fno_block": _row(block, exact=exact_block)._replace(tables=("SPECTRAL", "POINTWISE")),
    "spectral_filter": _row(spectral_filter),
    "truncated_dhtn": _row(dhtn),
    "truncated_idhtn": _row(idhtn, batched=("spectrum",)),
}
