"""Tensors to addresses: the FNO blocks of `fastseg._C.cpu` and `fastseg._C.cuda`."""

from functools import partial

import torch
from torch import Tensor

from fastseg.ops.impl import composed, contract
from fastseg.ops.impl.contract import BlockInputs, Geometry
from fastseg.ops.impl.native import Whole, address, dense


class Forward:
    """Run the whole block in one call, by `self.spectral`."""

    spectral: Whole

    def forward(
        self, x: Tensor, weight: Tensor, skip_weight: Tensor, bias: Tensor | None,
        geometry: Geometry, keep: bool = True,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        (skip_weight,) = dense(skip_weight)
        kernel = partial(self.spectral.table.convolve_block, skip=skip_weight.data_ptr())
        return self.spectral.call(kernel, x, weight, bias, geometry, keep, True)


class CpuBlock(Forward, contract.Block):
    """Run all of the backward that reads x in one call too."""

    def __init__(self, spectral: Whole):
        self.spectral, self.table = spectral, spectral.table

    def backward(
        self, grad: Tensor, inputs: BlockInputs, geometry: Geometry, wants_x: bool, wants_skip: bool
    ) -> tuple[Tensor | None, Tensor, Tensor | None]:
        *tensors, bias = inputs
        grad, x, spectrum, weight, skip = dense(grad, *tensors)
        bias = None if bias is None else dense(bias.to(weight.dtype))[0]
        convolution, adjoint = (
            self.spectral.convolution(x.shape, weight.shape, direction, x.dtype, x.device).native
            for direction in (geometry, geometry.transposed(x.shape[2:]))
        )
        batch, outputs = grad.shape[:2]
        dx = torch.empty_like(x) if wants_x else None
        grad_mixed = weight.new_empty((batch, outputs, *weight.shape[2:]))
        chunks = self.table.convolve_block_chunks(convolution=convolution, batch=batch)
        dskip = weight.new_empty((chunks, *skip.shape)) if wants_skip else None
        self.table.convolve_block_backward(
            convolution=convolution, adjoint=adjoint, x=x.data_ptr(), weight=weight.data_ptr(),
            skip=skip.data_ptr(), bias=address(bias), spectrum=spectrum.data_ptr(),
            gradient=grad.data_ptr(), dx=address(dx), grad_mixed=grad_mixed.data_ptr(),
            dskip=address(dskip), batch=batch, lane=torch.get_num_threads(),
        )  # fmt: skip
        return dx, grad_mixed, dskip.sum(0) if wants_skip else None


class CudaBlock(Forward, composed.Block):
    """Compose the backward of other kernels."""

    def forward(
        self, x: Tensor, weight: Tensor, skip_weight: Tensor, bias: Tensor | None,
        geometry: Geometry, keep: bool = True,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        # its kernel reads packs of 16 bytes, and a view may start between two
        x = x.clone() if x.data_ptr() % 16 else x
        return super().forward(x, weight, skip_weight, bias, geometry, keep)
