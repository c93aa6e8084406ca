"""Tensors to addresses: the Gaussian kernels, the spectral filter and the anchor gate of
`fastseg._C.cpu` and `fastseg._C.cuda`.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from fastseg.ops import fft, tables
from fastseg.ops.impl import composed, contract
from fastseg.ops.impl.contract import GateInputs, SeparableFilter, whole
from fastseg.ops.impl.native import (
    DTYPE_CODES,
    address,
    aligned,
    compute_dtype,
    dense,
    lane,
    on_device_of,
)

PADDINGS = {"circular": 0, "reflect": 1, "zeros": 2}


class Gaussian(contract.Gaussian):
    """Run one table's filters."""

    def __init__(self, library, table):
        self.library, self.table = library, table
        self.shaped = lru_cache(maxsize=512)(self._shaped)

    def _shaped(self, shape, tap_shape, padding: str, adjoint: bool, symmetric: bool, dtype):
        """What shapes and dtypes decide of a filter."""
        d, h, w = _three(shape)
        return self.library.Gaussian(
            images=shape[0] * shape[1], tap_images=tap_shape[0], d=d, h=h, w=w,
            radius=tap_shape[-1] // 2, padding=PADDINGS[padding], adjoint=adjoint,
            symmetric=symmetric, dtype=DTYPE_CODES[dtype],
        )  # fmt: skip

    def filter(
        self, x: Tensor, by: SeparableFilter, mode: str, adjoint: bool
    ) -> tuple[Tensor, Tensor]:
        x, taps, radii = dense(x, by.taps, by.radii)
        low = torch.empty_like(x) if mode != "high" else None
        high = torch.empty_like(x) if mode != "low" else None
        if x.numel():
            made = self.shaped(x.shape, taps.shape, by.padding, adjoint, by.symmetric, x.dtype)
            with on_device_of(x):
                scratch = self.scratch(x, made)
                self.table.gaussian(
                    of=made, x=x.data_ptr(), low=address(low), high=address(high),
                    taps=taps.data_ptr(), radii=radii.data_ptr(), scratch=address(scratch),
                    lane=lane(x),
                )  # fmt: skip
        return x.new_empty(0) if low is None else low, x.new_empty(0) if high is None else high

    def scratch(self, x: Tensor, made) -> Tensor | None:
        """Return the room for what lies between two axes, as much as the device's L2 holds."""
        count = self.table.gaussian_scratch(of=made)
        return torch.empty(count, dtype=torch.float32, device=x.device) if count else None

    def taps_gradient(
        self, x: Tensor, gradient: Tensor, axis: int, radius: int, padding: str
    ) -> Tensor:
        x, gradient = dense(x, gradient)
        images, (d, h, w) = x.shape[0] * x.shape[1], _three(x.shape)
        shape = (images, 2 * radius + 1)
        out = torch.empty(shape, dtype=compute_dtype(x.dtype), device=x.device)
        if x.numel():
            partial = self.partial(out, d * h * w)
            with on_device_of(x):
                self.table.taps_gradient(
                    x=x.data_ptr(), gradient=gradient.data_ptr(), out=out.data_ptr(),
                    partial=address(partial), images=images, d=d, h=h, w=w, radius=radius,
                    axis=axis, padding=PADDINGS[padding], dtype=DTYPE_CODES[x.dtype], lane=lane(x),
                )  # fmt: skip
        return out

    def partial(self, out: Tensor, voxels: int) -> Tensor | None:
        """Return the room for sums over parts of the voxels, where a kernel takes such."""
        return out.new_empty((out.shape[0], self.library.taps_blocks(voxels), out.shape[1]))


class CpuGaussian(Gaussian):
    """Run the CPU's filters, which need less room."""

    def scratch(self, x: Tensor, made) -> Tensor | None:
        # an image between its planes and its depth, rows of planes a few numbers further apart
        if x.dim() < 5 or x.shape[2] == 1:
            return None
        plane = x.shape[3] * x.shape[4] + 32
        return torch.empty(x.shape[2] * plane, dtype=compute_dtype(x.dtype), device=x.device)

    def partial(self, out: Tensor, voxels: int) -> Tensor | None:
        return None


def _three(shape) -> tuple:
    return (1,) * (5 - len(shape)) + tuple(shape[2:])


class Filter(composed.Filter):
    """Apply a gain to whole spectra of small planes in one visit, composed for the others."""

    def __init__(self, table, spectral: contract.Spectral):
        super().__init__(spectral)
        self.table = table

    def serves(self, x: Tensor) -> bool:
        """Tell whether the one visit serves tensors of x's shape."""
        raise NotImplementedError

    def ready(self, x: Tensor) -> Tensor:
        """Return x in memory that the kernels can read."""
        return dense(x)[0]

    def forward(self, x: Tensor, gain: Tensor) -> Tensor:
        if not self.serves(x):
            return super().forward(x, gain)
        x = self.ready(x)
        y = torch.empty_like(x)
        self._run(x, gain, False, y, None, None)
        return y

    def backward(
        self, grad: Tensor, x: Tensor, gain: Tensor, wanted
    ) -> tuple[Tensor | None, Tensor | None]:
        if not self.serves(grad):
            return super().backward(grad, x, gain, wanted)
        grad = self.ready(grad)
        dx = torch.empty_like(grad) if wanted[0] else None
        if not wanted[1]:
            self._run(grad, gain, True, dx, None, None)
            return dx, None
        batch, channels, *sizes = grad.shape
        shape = (-(-batch // _chunk(gain)), channels, *tables.half_spectrum(sizes), gain.shape[-1])
        sums = gain.new_empty(shape)
        self._run(grad, gain, True, dx, self.ready(x), sums)
        return dx, sums.sum_to_size(gain.shape)

    def _run(self, x: Tensor, gain: Tensor, conjugate: bool, y, seen, sums) -> None:
        batch, channels, *sizes = x.shape
        geometry = whole(sizes)
        (gain,) = dense(gain.expand(*gain.shape[:2], *geometry.modes, gain.shape[-1]))
        gain_batch, gain_channel = (gain.stride(i) if gain.shape[i] > 1 else 0 for i in (0, 1))
        wide = compute_dtype(x.dtype)
        plan = self.spectral.plan(geometry.sizes, geometry, False, wide, x.device, False)
        if not x.numel():
            return
        with on_device_of(x):
            self.table.spectral_filter(
                transform=plan.transform, x=x.data_ptr(), gain=gain.data_ptr(), y=address(y),
                seen=address(seen), sums=address(sums), batch=batch, channels=channels,
                chunk=_chunk(gain), gain_batch=gain_batch, gain_channel=gain_channel,
                parts=gain.shape[-1], conjugate=conjugate, dtype=DTYPE_CODES[x.dtype],
                lane=lane(x),
            )  # fmt: skip


_LANES = 16  # of the widest vectors: channels side by side
_MOST_BINS = 64 * 65  # of planes: two in every lane stay in a core's cache


class CpuFilter(Filter):
    """Take as many channels at once as a vector has lanes."""

    def serves(self, x: Tensor) -> bool:
        sizes, channels = tuple(x.shape[2:]), x.shape[1]
        bins = tables.half_spectrum(sizes)
        filled = 3 * channels >= 2 * (-(-channels // _LANES) * _LANES)
        return (
            len(sizes) == 2 and filled and math.prod(bins) <= _MOST_BINS
            and fft.serves(sizes, bins)
        )  # fmt: skip


class CudaFilter(Filter):
    """Take a plane, or several, in a block."""

    def serves(self, x: Tensor) -> bool:
        return fft.filter_serves_on_cuda(tuple(x.shape[2:]))

    def ready(self, x: Tensor) -> Tensor:
        return aligned(x)


def _chunk(gain: Tensor) -> int:
    """Batch entries that share a gain, and one sum of its gradient."""
    return 8 if gain.shape[0] == 1 else 1


class Gate(contract.Gate):
    """Run one table's gates."""

    def __init__(self, library, table):
        self.library, self.table = library, table

    def forward(self, inputs: GateInputs) -> tuple[Tensor, Tensor]:
        low, cond, weight, bias, feat = dense(*inputs)
        batch, points = cond.shape[0], math.prod(cond.shape[2:])
        out = torch.empty_like(feat, memory_format=torch.contiguous_format)
        logits = weight.new_empty((batch, points))
        if cond.numel() and feat.numel():
            with on_device_of(cond):
                self.table.gate(
                    low=low.data_ptr(), cond=cond.data_ptr(), weight=weight.data_ptr(),
                    bias=bias.data_ptr(), feat=feat.data_ptr(), out=out.data_ptr(),
                    logits=logits.data_ptr(), batch=batch, cond_channels=cond.shape[1],
                    channels=feat.shape[1], points=points, dtype=DTYPE_CODES[cond.dtype],
                    lane=lane(cond),
                )  # fmt: skip
        return out, logits

    def backward(self, inputs: GateInputs, logits: Tensor, gradient: Tensor) -> list[Tensor]:
        inputs = low, cond, weight, bias, feat = dense(*inputs)
        logits, gradient = dense(logits, gradient)
        batch, channels, points = *cond.shape[:2], math.prod(cond.shape[2:])
        results = dlow, dcond, dweight, dbias, dfeat = [torch.empty_like(t) for t in inputs]
        if not (cond.numel() and feat.numel()):
            return [result.zero_() for result in results]
        dlogits, blocks = torch.empty_like(logits), self.library.moment_blocks(batch, points)
        partial = weight.new_empty((blocks, channels + 1))
        with on_device_of(cond):
            self.table.gate_backward(
                low=low.data_ptr(), cond=cond.data_ptr(), weight=weight.data_ptr(),
                bias=bias.data_ptr(), feat=feat.data_ptr(), logits=logits.data_ptr(),
                gradient=gradient.data_ptr(), dlow=dlow.data_ptr(), dcond=dcond.data_ptr(),
                dfeat=dfeat.data_ptr(), dlogits=dlogits.data_ptr(), dweight=dweight.data_ptr(),
                dbias=dbias.data_ptr(), partial=partial.data_ptr(), batch=batch,
                cond_channels=channels, channels=feat.shape[1], points=points,
                dtype=DTYPE_CODES[cond.dtype], lane=lane(cond),
            )  # fmt: skip
        return results
