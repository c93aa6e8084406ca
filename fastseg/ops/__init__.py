"""Differentiable operators on tensors (B, C, *S). Each picks a backend by device, dtype and shape;
`fastseg.use_backend` forces one. README.md beside this file lists them.

>>> import torch
>>> from fastseg import ops
>>> x = torch.randn(2, 4, 24, 17)
>>> ops.truncated_rfftn(x, modes=(8, 5)).shape
torch.Size([2, 4, 8, 5])
"""

from fastseg.ops import interop as _interop  # noqa: F401  what torch's tools are told
from fastseg.ops.block import fno_block
from fastseg.ops.context import use_backend
from fastseg.ops.fourier_unit import fourier_unit, fu_finish, fu_mix
from fastseg.ops.gate import anchor_gate
from fastseg.ops.gaussian import gaussian_filter
from fastseg.ops.hartley import truncated_dhtn, truncated_idhtn
from fastseg.ops.impl import backends
from fastseg.ops.spectral import spectral_conv, truncated_irfftn, truncated_rfftn
from fastseg.ops.spectral_filter import spectral_filter

__all__ = [
    "anchor_gate",
    "backends",
    "fno_block",
    "fourier_unit",
    "fu_finish",
    "fu_mix",
    "gaussian_filter",
    "spectral_conv",
    "spectral_filter",
    "truncated_dhtn",
    "truncated_idhtn",
    "truncated_irfftn",
    "truncated_rfftn",
    "use_backend",
]
