"""Tensors to addresses: the 1×1 convolutions and affine ReLUs of `fastseg._C.cpu` and
`fastseg._C.cuda`.
"""

import math

import torch
from torch import Tensor

from fastseg.ops.impl.native import DTYPE_CODES, address, run

# the epilogues of csrc/ops.h
EPILOGUES = {"none": 0, "gelu": 1, "gelu_gradient": 2, "affine_relu": 3, "moments": 4}


class Pointwise:
    """One table's kernels; the meaning of each is in `impl`."""

    def __init__(self, library, table):
        self.library, self.table = library, table

    def product(
        self, x: Tensor, weight: Tensor, epilogue: str = "none", dtype: torch.dtype | None = None,
        groups: int = 1, transposed: bool = False, addend: Tensor | None = None,
        factor: Tensor | None = None, scale: Tensor | None = None, shift: Tensor | None = None,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        x, weight = x.contiguous(), weight.contiguous()
        rows, columns = weight.shape
        inputs = rows // groups if transposed else columns
        outputs = columns if transposed else rows // groups
        batch, points = x.shape[0], math.prod(x.shape[2:])
        if out is None:
            shape = (batch, groups * outputs, *x.shape[2:])
            out = torch.empty(shape, dtype=dtype or x.dtype, device=x.device)
        addend, factor, scale, shift = (
            None if t is None else t.contiguous() for t in (addend, factor, scale, shift)
        )
        moments = partial = None
        if epilogue == "moments":
            moments, partial = self._sums(batch, groups * outputs, points, weight)
        run(
            self.table.pointwise, x, x.data_ptr(), weight.data_ptr(), address(addend),
            address(factor), address(scale), address(shift), out.data_ptr(), address(moments),
            address(partial),
            [batch, groups, outputs, inputs, points], transposed, EPILOGUES[epilogue],
            [DTYPE_CODES[t.dtype] for t in (x, x if factor is None else factor, out)],
        )  # fmt: skip
        return out, moments

    def affine_relu(self, z: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        z, out = z.contiguous(), torch.empty(z.shape, dtype=z.dtype, device=z.device)
        self._affine_relu(z, None, scale, shift, out, None, None)
        return out

    def affine_relu_backward(
        self, gradient: Tensor, z: Tensor, scale: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor]:
        z, gradient = z.contiguous(), gradient.contiguous()
        out = torch.empty(z.shape, dtype=z.dtype, device=z.device)
        sums, partial = self._sums(*z.shape[:2], math.prod(z.shape[2:]), z)
        self._affine_relu(z, gradient, scale, shift, out, sums, partial)
        return out, sums

    def _sums(self, batch: int, channels: int, points: int, like: Tensor):
        """Two sums a channel, and the scratch of their blocks."""
        blocks = self.library.moment_blocks(batch, points)
        partial = torch.empty((blocks, 2, channels), dtype=like.dtype, device=like.device)
        # without a block no kernel writes them
        make = torch.empty if blocks else torch.zeros
        return make((2, channels), dtype=like.dtype, device=like.device), partial

    def _affine_relu(self, z, gradient, scale, shift, out, sums, partial) -> None:
        scale, shift = scale.contiguous(), shift.contiguous()
        run(
            self.table.affine_relu, z, z.data_ptr(), address(gradient), scale.data_ptr(),
            shift.data_ptr(), out.data_ptr(), address(sums), address(partial),
            [*z.shape[:2], math.prod(z.shape[2:])], z.dtype == torch.float64,
        )  # fmt: skip
