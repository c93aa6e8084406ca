"""Tensors for `fastseg.kernels.pointwise`: products over channels and affine ReLUs."""

import torch
from torch import Tensor

from fastseg.ops._triton import grouped, guard, precision


class Pointwise:
    """The kernels of the family; the meaning of each is in `_backends`."""

    def __init__(self, kernels):
        self.kernels = kernels.pointwise

    def product(
        self, x: Tensor, weight: Tensor, epilogue: str = "none", dtype: torch.dtype | None = None,
        groups: int = 1, transposed: bool = False, addend: Tensor | None = None,
        factor: Tensor | None = None, scale: Tensor | None = None, shift: Tensor | None = None,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        x, matrix = x.contiguous(), grouped(weight, groups, transposed)
        channels, moments = groups * matrix.shape[1], None
        if out is None:
            shape = (x.shape[0], channels, *x.shape[2:])
            out = torch.empty(shape, dtype=dtype or x.dtype, device=x.device)
        if not out.numel():
            return out, x.new_zeros(2, channels).float() if epilogue == "moments" else None
        addend, factor = (t if t is None else t.contiguous() for t in (addend, factor))
        with guard(x):
            moments = self.kernels.product(
                x, matrix, out, epilogue, precision(), addend=addend, factor=factor, scale=scale,
                shift=shift,
            )  # fmt: skip
        return out, moments

    def affine_relu(self, z: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return self._affine_relu(z, None, scale, shift)[0]

    def affine_relu_backward(
        self, gradient: Tensor, z: Tensor, scale: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self._affine_relu(z, gradient.contiguous(), scale, shift)

    def _affine_relu(self, z: Tensor, gradient: Tensor | None, scale: Tensor, shift: Tensor):
        z, scale, shift = z.contiguous(), scale.contiguous(), shift.contiguous()
        out = torch.empty_like(z)
        if not z.numel():
            return out, None if gradient is None else z.new_zeros(2, z.shape[1])
        with guard(z):
            return out, self.kernels.affine_relu(z, gradient, scale, shift, out)
