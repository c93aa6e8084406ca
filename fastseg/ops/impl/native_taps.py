"""Tensors to addresses: the taps of Gaussians whose sigmas are on a GPU, by `fastseg._C.cuda`."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from fastseg.ops import tables, taps
from fastseg.ops.impl import contract
from fastseg.ops.impl.native import DTYPE_CODES, address, dense, lane, on_device_of
from fastseg.ops.impl.native_filters import PADDINGS
from fastseg.ops.taps import Design

KINDS = {"exact": 0, "sampled": 1, "erf": 2}


class Taps(contract.Taps):
    """Make taps in one kernel, in float64, whose results are float32."""

    def __init__(self, table):
        self.table = table
        self.made = lru_cache(maxsize=512)(self._made)

    def _made(self, batch: int, channels: int, design: Design):
        """What shapes and the design decide."""
        first = 3 - len(design.sizes)
        return self.table.MakeTaps(
            batch=batch, channels=channels, sizes=(1,) * first + design.sizes, first_axis=first,
            radius=design.radius, widest=design.widest(), kind=KINDS[design.kind],
            truncate=-1.0 if design.truncate is None else design.truncate,
            compact_sigma=taps.COMPACT_SIGMA if design.compact else math.inf,
            tail=taps.COMPACT_RADIUS, padding=PADDINGS[design.padding],
        )  # fmt: skip

    def make(
        self, sigma: Tensor, offset: Tensor | None, design: Design, batch: int, channels: int
    ) -> tuple[Tensor, Tensor]:
        given = dense(sigma, offset)
        shared = all(v.shape[:2] == (1, 1) for v in given if v is not None)
        batch, channels = (1, 1) if shared else (batch, channels)
        axes = len(design.sizes)
        numbers = [self.numbers(v, (batch, channels, axes)) for v in given]
        rows = torch.empty(
            (batch * channels, 3, 2 * design.widest() + 1), dtype=torch.float32, device=sigma.device
        )
        radii = torch.empty((batch * channels, 3), dtype=torch.int32, device=sigma.device)
        roots = [None] * 3
        if design.kind == "exact":
            roots[3 - axes :] = [tables.roots(n, torch.float64, sigma.device) for n in design.sizes]
        with on_device_of(sigma):
            self.table.make_taps(
                of=self.made(batch, channels, design), sigma=numbers[0], offset=numbers[1],
                roots=[address(table) for table in roots], taps=rows.data_ptr(),
                radii=radii.data_ptr(), lane=lane(sigma),
            )  # fmt: skip
        return rows, radii

    def numbers(self, value: Tensor | None, shape):
        """Return where the number of every image and axis lies."""
        if value is None:
            return self.table.ImageNumbers(data=0, strides=(0, 0, 0), dtype=0)
        strides = value.expand(shape).stride()
        return self.table.ImageNumbers(
            data=value.data_ptr(), strides=strides, dtype=DTYPE_CODES[value.dtype]
        )
