"""The mixer of adaptive Fourier neural operators, on the truncated transforms."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg import ops
from fastseg.nn.spectral import _check_channels
from fastseg.ops.context import without_autocast


class AFNO(nn.Module):
    """Mix channels of the spectrum by a small network of complex numbers, the same at every
    frequency, block-diagonal and with soft shrinkage (Guibas et al., 2022, alg. 1):
    x + irfftn(S(W₂·relu(W₁·rfftn(x) + b₁) + b₂)), S(z) = sign(z)·max(|z| − threshold, 0); relu and
    S act on real and imaginary parts.

    x: (B, channels, *S) → the same shape and dtype, 1- to 3-D, any size; the spectrum is that of
    norm="ortho", in float32 or float64. blocks: of the channels; hidden: a block's channels inside,
    times those outside. modes: frequencies to keep, counted as `fastseg.ops` does, None for all;
    those of a smaller grid are left out. residual: add x.

    Parameters, with the published names: w1 (2, blocks, c, hidden·c), b1 (2, blocks, hidden·c), w2
    (2, blocks, hidden·c, c), b2 (2, blocks, c), c = channels/blocks; 2 for real and imaginary part.
    Raises ValueError for channels that blocks do not divide and a negative threshold.

    >>> AFNO(8, blocks=2)(torch.randn(2, 8, 10, 7)).shape
    torch.Size([2, 8, 10, 7])
    """

    def __init__(
        self, channels: int, *, blocks: int = 8, hidden: int = 1, threshold: float = 0.01,
        modes=None, residual: bool = True,
    ):  # fmt: skip
        super().__init__()
        if blocks < 1 or channels % blocks:
            raise ValueError(f"blocks: got {blocks}, want a divisor of {channels} channels")
        if threshold < 0:
            raise ValueError(f"threshold: got {threshold}, want 0 or more")
        self.modes = None if modes is None else _check_channels(channels, channels, modes, 1)
        self.threshold, self.residual = threshold, residual
        c, inside = channels // blocks, hidden * channels // blocks
        shapes = {"w1": (c, inside), "b1": (inside,), "w2": (inside, c), "b2": (c,)}
        for name, shape in shapes.items():
            value = nn.Parameter(torch.empty(2, blocks, *shape))
            self.register_parameter(name, value)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw normal weights and biases of deviation 0.02, as published."""
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.02)

    def _kept(self, sizes) -> tuple:
        whole = (*sizes[:-1], sizes[-1] // 2 + 1)
        return whole if self.modes is None else tuple(map(min, self.modes, whole))

    def forward(self, x: Tensor) -> Tensor:
        sizes = tuple(x.shape[2:])
        if self.modes is not None and len(self.modes) != len(sizes):
            raise ValueError(
                f"x: got shape {tuple(x.shape)}, want (B, C, *S) with {len(self.modes)} axes S"
            )
        spectrum = ops.truncated_rfftn(x, self._kept(sizes), "ortho")
        blocks = self.w1.shape[1]
        grouped = spectrum.flatten(2).unflatten(1, (blocks, -1))  # (B, blocks, c, bins)
        h = torch.cat((grouped.real, grouped.imag), 2)
        with without_autocast(x):
            h = torch.relu(_complex_layer(h, self.w1, self.b1))
            h = F.softshrink(_complex_layer(h, self.w2, self.b2), self.threshold)
        real, imag = h.chunk(2, 2)
        mixed = torch.complex(real, imag).flatten(1, 2).view(spectrum.shape)
        y = ops.truncated_irfftn(mixed, sizes, "ortho", dtype=x.dtype)
        return x + y if self.residual else y


def _complex_layer(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """W·h + b in every block, h (B, blocks, 2c, bins) being real parts above imaginary ones."""
    real, imag = weight.to(h.dtype).transpose(2, 3).unbind(0)
    matrix = torch.cat((torch.cat((real, -imag), 2), torch.cat((imag, real), 2)), 1)
    return matrix @ h + torch.cat((*bias.to(h.dtype),), 1).unsqueeze(-1)
