"""Spatial attention from a condition network's features, blurred before it is trusted."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg import ops
from fastseg.nn.parameters import reset_children

SMALLEST_SIGMA = 0.1


class AnchorGate(nn.Module):
    """Attend to where a blurred condition is strong, as feat·(1 + sigmoid(conv(max(gaussian(cond),
    cond)))), with a learnt Gaussian a condition channel (Wu et al., 2024, eq. 2–3):
    `fastseg.ops.anchor_gate`.

    cond: (B, cond_channels, *S), feat: (B, C, *S) → (B, C, *S) in feat's dtype. The Gaussian has
    2·radius+1 taps an axis, σ = softplus(s) + 0.1 voxels, starting at `sigma`, and with `offset` a
    centre shifted by tanh(o), −1 … 1 voxels, starting at 0; it reflects at the borders.

    Parameters: s (cond_channels,), o (cond_channels,) with offset, conv.weight (1, cond_channels),
    conv.bias (1,). Raises ValueError for radius below 1 or sigma not above 0.1.

    >>> AnchorGate(3)(cond=torch.randn(1, 3, 8, 8), feat=torch.randn(1, 6, 8, 8)).shape
    torch.Size([1, 6, 8, 8])
    """

    def __init__(
        self, cond_channels: int, *, radius: int = 2, sigma: float = 1.0, offset: bool = False
    ):
        super().__init__()
        if radius < 1:
            raise ValueError(f"radius: got {radius}, want at least 1")
        if not sigma > SMALLEST_SIGMA:
            raise ValueError(f"sigma: got {sigma}, want more than {SMALLEST_SIGMA}")
        self.radius = radius
        self.first_sigma = sigma
        self.s = nn.Parameter(torch.empty(cond_channels))
        self.o = nn.Parameter(torch.empty(cond_channels)) if offset else None
        self.conv = nn.Linear(cond_channels, 1)
        self._reset_gaussian()

    def _reset_gaussian(self) -> None:
        inverse_softplus = math.log(math.expm1(self.first_sigma - SMALLEST_SIGMA))
        nn.init.constant_(self.s, inverse_softplus)
        if self.o is not None:
            nn.init.zeros_(self.o)

    def reset_parameters(self) -> None:
        """Set sigma and offset as they were at first and draw the convolution anew."""
        self._reset_gaussian()
        reset_children(self)

    def sigma(self) -> Tensor:
        """Return the standard deviations in voxels, (cond_channels,)."""
        return F.softplus(self.s) + SMALLEST_SIGMA

    def forward(self, cond: Tensor, feat: Tensor) -> Tensor:
        offset = None if self.o is None else torch.tanh(self.o)
        conv = self.conv
        return ops.anchor_gate(
            cond.to(feat.dtype), feat, self.sigma(), conv.weight, conv.bias, self.radius, offset
        )
