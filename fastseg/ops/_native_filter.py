"""Tensors to addresses: the spectral filter in one visit of x, `fastseg._C.cpu.spectral_filter`."""

import math

import torch
from torch import Tensor

from fastseg import plan
from fastseg.ops._native import DTYPE_CODES, address, compute_dtype

_LANES = 16  # of the widest vectors: channels side by side
_MOST_BINS = 64 * 65  # of planes: two in every lane stay in a core's cache


class Filter:
    """Its meaning is in `_backends`."""

    def __init__(self, table, spectral):
        self.table, self.spectral = table, spectral

    def serves(self, x: Tensor) -> bool:
        sizes, channels = tuple(x.shape[2:]), x.shape[1]
        bins = plan.half_spectrum(sizes)
        filled = 3 * channels >= 2 * (-(-channels // _LANES) * _LANES)
        return (
            len(sizes) == 2 and filled and math.prod(bins) <= _MOST_BINS
            and plan.fft_serves(sizes, bins)
        )  # fmt: skip

    def forward(self, x: Tensor, gain: Tensor) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x)
        self._run(x, gain, False, y, None, None)
        return y

    def backward(
        self, gradient: Tensor, x: Tensor, gain: Tensor, wanted
    ) -> tuple[Tensor | None, Tensor | None]:
        gradient = gradient.contiguous()
        dx = torch.empty_like(gradient) if wanted[0] else None
        if not wanted[1]:
            self._run(gradient, gain, True, dx, None, None)
            return dx, None
        batch, channels, *sizes = gradient.shape
        shape = (-(-batch // _chunk(gain)), channels, *plan.half_spectrum(sizes), gain.shape[-1])
        sums = gain.new_empty(shape)
        self._run(gradient, gain, True, dx, x.contiguous(), sums)
        return dx, sums.sum_to_size(gain.shape)

    def _run(self, x: Tensor, gain: Tensor, conjugate: bool, y, seen, sums) -> None:
        batch, channels, *sizes = x.shape
        bins = plan.half_spectrum(sizes)
        gain = gain.expand(*gain.shape[:2], *bins, gain.shape[-1]).contiguous()
        strides = [gain.stride(axis) if gain.shape[axis] > 1 else 0 for axis in (0, 1)]
        transform = self.spectral.plan(
            tuple(sizes), bins, True, False, 1.0, False, compute_dtype(x.dtype), x.device
        ).transform
        self.table.spectral_filter(
            transform, x.data_ptr(), gain.data_ptr(), address(y), address(seen), address(sums),
            [batch, channels, _chunk(gain)], strides, gain.shape[-1], conjugate,
            DTYPE_CODES[x.dtype], torch.get_num_threads(),
        )  # fmt: skip


def _chunk(gain: Tensor) -> int:
    """Batch entries that share a gain, and one sum of its gradient."""
    return 8 if gain.shape[0] == 1 else 1
