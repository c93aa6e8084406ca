"""Tensors to addresses: the Gaussian kernels, the spectral filter and the anchor gate of
`fastseg._C.cpu` and `fastseg._C.cuda`.
"""

import math

import torch
from torch import Tensor

from fastseg.ops import tables
from fastseg.ops.impl.native import DTYPE_CODES, address, compute_dtype, run

PADDINGS = {"circular": 0, "reflect": 1, "zeros": 2}


class Gaussian:
    """One table's filters; the meaning of each is in `impl`."""

    def __init__(self, library, table):
        self.library, self.table = library, table

    def filter(
        self, x: Tensor, taps: Tensor, radii: Tensor, padding: str, mode: str, adjoint: bool,
        symmetric: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        x, taps, radii = x.contiguous(), taps.contiguous(), radii.contiguous()
        low = torch.empty_like(x) if mode != "high" else None
        high = torch.empty_like(x) if mode != "low" else None
        images, sizes = x.shape[0] * x.shape[1], _three(x)
        if x.numel():
            scratch = self.scratch(x, sizes)
            run(
                self.table.gaussian,
                x,
                x.data_ptr(),
                address(low),
                address(high),
                taps.data_ptr(),
                radii.data_ptr(),
                address(scratch),
                (images, taps.shape[0], *sizes, taps.shape[-1] // 2),
                PADDINGS[padding],
                adjoint,
                symmetric,
                DTYPE_CODES[x.dtype],
            )
        return x.new_empty(0) if low is None else low, x.new_empty(0) if high is None else high

    def scratch(self, x: Tensor, sizes) -> Tensor:
        return torch.empty((2, x.numel()), dtype=compute_dtype(x.dtype), device=x.device)

    def taps_gradient(
        self, x: Tensor, gradient: Tensor, axis: int, radius: int, padding: str
    ) -> Tensor:
        """(images, 2·radius+1): `axis` counts D, H, W."""
        x, gradient = x.contiguous(), gradient.contiguous()
        images, sizes = x.shape[0] * x.shape[1], _three(x)
        shape = (images, 2 * radius + 1)
        out = torch.empty(shape, dtype=compute_dtype(x.dtype), device=x.device)
        if x.numel():
            partial = self.partial(out, math.prod(sizes))
            run(
                self.table.taps_gradient,
                x,
                x.data_ptr(),
                gradient.data_ptr(),
                out.data_ptr(),
                address(partial),
                (images, *sizes, radius),
                axis,
                PADDINGS[padding],
                DTYPE_CODES[x.dtype],
            )
        return out

    def partial(self, out: Tensor, voxels: int) -> Tensor | None:
        return out.new_empty((out.shape[0], self.library.taps_blocks(voxels), out.shape[1]))


class CpuGaussian(Gaussian):
    def scratch(self, x: Tensor, sizes) -> Tensor | None:
        """An image between its planes and its depth, rows of planes a few numbers further apart."""
        if sizes[0] == 1:
            return None
        plane = sizes[1] * sizes[2] + 32
        return torch.empty(sizes[0] * plane, dtype=compute_dtype(x.dtype), device=x.device)

    def partial(self, out: Tensor, voxels: int) -> None:
        return None


def _three(x: Tensor) -> tuple:
    return (1,) * (5 - x.dim()) + tuple(x.shape[2:])


_LANES = 16  # of the widest vectors: channels side by side
_MOST_BINS = 64 * 65  # of planes: two in every lane stay in a core's cache


class SpectralFilter:
    """Its meaning is in `impl`."""

    def __init__(self, table, spectral):
        self.table, self.spectral = table, spectral

    def serves(self, x: Tensor) -> bool:
        sizes, channels = tuple(x.shape[2:]), x.shape[1]
        bins = tables.half_spectrum(sizes)
        filled = 3 * channels >= 2 * (-(-channels // _LANES) * _LANES)
        return (
            len(sizes) == 2 and filled and math.prod(bins) <= _MOST_BINS
            and tables.fft_serves(sizes, bins)
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
        shape = (-(-batch // _chunk(gain)), channels, *tables.half_spectrum(sizes), gain.shape[-1])
        sums = gain.new_empty(shape)
        self._run(gradient, gain, True, dx, x.contiguous(), sums)
        return dx, sums.sum_to_size(gain.shape)

    def _run(self, x: Tensor, gain: Tensor, conjugate: bool, y, seen, sums) -> None:
        batch, channels, *sizes = x.shape
        bins = tables.half_spectrum(sizes)
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


class Gate:
    """One table's gates; the meaning of each is in `impl`."""

    def __init__(self, library, table):
        self.library, self.table = library, table

    def forward(
        self, low: Tensor, cond: Tensor, weight: Tensor, bias: Tensor, feat: Tensor
    ) -> tuple[Tensor, Tensor]:
        inputs = [t.contiguous() for t in (low, cond, weight, bias, feat)]
        extents = _extents(cond, feat)
        out = torch.empty_like(feat, memory_format=torch.contiguous_format)
        logits = weight.new_empty((cond.shape[0], extents[-1]))
        if math.prod(extents):
            run(
                self.table.gate,
                cond,
                *(t.data_ptr() for t in inputs),
                out.data_ptr(),
                logits.data_ptr(),
                extents,
                DTYPE_CODES[cond.dtype],
            )
        return out, logits

    def backward(
        self, low: Tensor, cond: Tensor, weight: Tensor, bias: Tensor, feat: Tensor,
        logits: Tensor, gradient: Tensor,
    ) -> list:  # fmt: skip
        """The gradients of low, cond, feat, weight and bias."""
        inputs = [t.contiguous() for t in (low, cond, weight, bias, feat, logits, gradient)]
        low, cond, weight, bias, feat, logits, _ = inputs
        extents = batch, channels, _, points = _extents(cond, feat)
        results = [torch.empty_like(t) for t in (low, cond, feat, logits, weight, bias)]
        blocks = self.library.moment_blocks(batch, points)
        results.append(weight.new_empty((blocks, channels + 1)))
        if math.prod(extents):
            run(
                self.table.gate_backward,
                cond,
                *(t.data_ptr() for t in inputs),
                tuple(t.data_ptr() for t in results),
                extents,
                DTYPE_CODES[cond.dtype],
            )
        else:
            for result in results:
                result.zero_()
        dlow, dcond, dfeat, _, dweight, dbias, _ = results
        return [dlow, dcond, dfeat, dweight, dbias]


def _extents(cond: Tensor, feat: Tensor) -> tuple:
    return (*cond.shape[:2], feat.shape[1], math.prod(cond.shape[2:]))
