"""Tensors to addresses: the 1×1 convolutions and affine ReLUs of `fastseg._C.cpu` and
`fastseg._C.cuda`.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from fastseg.ops.impl import contract
from fastseg.ops.impl.contract import Epilogue, Matrix
from fastseg.ops.impl.native import DTYPE_CODES, address, dense, lane, on_device_of

# the epilogues of csrc/ops.h
EPILOGUES = {"none": 0, "gelu": 1, "gelu_gradient": 2, "affine_relu": 3, "moments": 4}


class Pointwise(contract.Pointwise):
    """Run one table's kernels."""

    def __init__(self, library, table):
        self.library, self.table = library, table
        self.shaped = lru_cache(maxsize=512)(self._shaped)

    def _shaped(self, shape, weight_shape, groups: int, transposed: bool, kind: str, dtypes):
        """What shapes and dtypes decide of a product, and the shape of its result."""
        rows, columns = weight_shape
        outputs = columns if transposed else rows // groups
        return self.library.Pointwise(
            batch=shape[0], groups=groups, outputs=outputs, inputs=shape[1] // groups,
            points=math.prod(shape[2:]), transposed=transposed, epilogue=EPILOGUES[kind],
            in_dtype=DTYPE_CODES[dtypes[0]], out_dtype=DTYPE_CODES[dtypes[1]],
        ), (shape[0], groups * outputs, *shape[2:])  # fmt: skip

    def product(
        self, x: Tensor, matrix: Matrix, epilogue: Epilogue = Epilogue(),  # noqa: B008  immutable
        dtype: torch.dtype | None = None, out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        (x, weight), (kind, *operands) = dense(x, matrix.weight), epilogue
        dtype = out.dtype if out is not None else dtype or x.dtype
        made, shape = self.shaped(
            x.shape, weight.shape, matrix.groups, matrix.transposed, kind, (x.dtype, dtype)
        )
        if out is None:
            out = torch.empty(shape, dtype=dtype, device=x.device)
        addend, factor, scale, shift = dense(*operands)
        if kind == "gelu_gradient" and factor.dtype != x.dtype:
            raise TypeError(f"factor: got {factor.dtype}, want x's {x.dtype}")
        moments = partial = None
        if kind == "moments":
            moments, partial = self._sums(*shape[:2], math.prod(shape[2:]), weight)
        with on_device_of(x):
            self.table.pointwise(
                of=made, x=x.data_ptr(), weight=weight.data_ptr(), addend=address(addend),
                factor=address(factor), scale=address(scale), shift=address(shift),
                out=out.data_ptr(), moments=address(moments), partial=address(partial),
                lane=lane(x),
            )  # fmt: skip
        return out, moments

    def affine_relu(self, z: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return self._affine_relu(dense(z)[0], None, scale, shift, None, None)

    def affine_relu_backward(
        self, gradient: Tensor, z: Tensor, scale: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor]:
        z, gradient = dense(z, gradient)
        sums, partial = self._sums(*z.shape[:2], math.prod(z.shape[2:]), z)
        return self._affine_relu(z, gradient, scale, shift, sums, partial), sums

    def _sums(self, batch: int, channels: int, points: int, like: Tensor):
        """Two sums a channel, and the scratch of their blocks."""
        blocks = self.library.moment_blocks(batch, points)
        partial = torch.empty((blocks, 2, channels), dtype=like.dtype, device=like.device)
        # without a block no kernel writes them
        make = torch.empty if blocks else torch.zeros
        return make((2, channels), dtype=like.dtype, device=like.device), partial

    def _affine_relu(self, z, gradient, scale, shift, sums, partial) -> Tensor:
        scale, shift = dense(scale, shift)
        out = torch.empty(z.shape, dtype=z.dtype, device=z.device)
        with on_device_of(z):
            self.table.affine_relu(
                z=z.data_ptr(), gradient=address(gradient), scale=scale.data_ptr(),
                shift=shift.data_ptr(), out=out.data_ptr(), sums=address(sums),
                partial=address(partial), batch=z.shape[0], channels=z.shape[1],
                points=math.prod(z.shape[2:]), is_double=z.dtype == torch.float64, lane=lane(z),
            )  # fmt: skip
        return out
