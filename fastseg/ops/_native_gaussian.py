"""Tensors to addresses: the Gaussian kernels of `fastseg._C.cpu` and `fastseg._C.cuda`."""

import math

import torch
from torch import Tensor

from fastseg.ops._native import DTYPE_CODES, address, compute_dtype, run

PADDINGS = {"circular": 0, "reflect": 1, "zeros": 2}


class Gaussian:
    """One table's filters; the meaning of each is in `_backends`."""

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
