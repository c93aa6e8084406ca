"""Spectral convolutions along one axis after another: factorised Fourier neural operators."""

import torch
from torch import Tensor, nn

from fastseg import ops
from fastseg.nn.fourier_unit import convolution
from fastseg.nn.parameters import SpectralModule, in_format_of, reset_children
from fastseg.nn.spectral import _check_channels, _clip_modes, _draw_weight, _fits


class FactorizedSpectralConv(SpectralModule):
    """Add spectral convolutions along each axis alone: y = Σ_a irfft_a(W_a·rfft_a(x)) (F-FNO, Tran
    et al., 2023, eq. 8): Σ m weights a pair of channels, not Π m.

    x: (B, in_channels, *S) → (B, out_channels, *S), 1- to 3-D by len(modes); `modes` counts the
    non-negative frequencies of each axis. Those beyond a small grid's are left out with a warning.

    Parameters: weights.a (in_channels, out_channels, modes[a], 2) real, one an axis, in the order
    of the axes (the published list begins with the last). Raises ValueError for modes that are no 1
    to 3 counts, and for an x of other axes.

    >>> FactorizedSpectralConv(4, 6, modes=(5, 8))(torch.randn(2, 4, 20, 15)).shape
    torch.Size([2, 6, 20, 15])
    """

    def __init__(self, in_channels: int, out_channels: int, modes, *, norm: str = "ortho"):
        super().__init__()
        self.modes, self.norm = _check_channels(in_channels, out_channels, modes, 1), norm
        self.weights = nn.ParameterList(
            torch.empty(in_channels, out_channels, m, 2) for m in self.modes
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        for weight in self.weights:
            _draw_weight(weight, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != len(self.modes) + 2:
            raise ValueError(
                f"x: got shape {tuple(x.shape)}, want (B, C, *S) with {len(self.modes)} axes S"
            )
        return in_format_of(x, sum(self._along(x, axis) for axis in range(len(self.modes))))

    def _along(self, x: Tensor, axis: int) -> Tensor:
        """The convolution along one axis: all lines of the grid are images of the batch."""
        weight = self.weights[axis]
        if not _fits(weight.shape, (0, 0, x.shape[axis + 2])):
            weight = _clip_modes(weight, (x.shape[axis + 2],), True)
        lines = x.movedim((1, axis + 2), (-2, -1))
        y = ops.spectral_conv(lines.flatten(0, -3), weight, norm=self.norm)
        return y.unflatten(0, lines.shape[:-2]).movedim((-2, -1), (1, axis + 2))

    def extra_repr(self) -> str:
        shape = self.weights[0].shape
        return f"{shape[0]}, {shape[1]}, modes={self.modes}, norm={self.norm!r}"


class FFNOBlock(nn.Module):
    """Return x + W₂·relu(W₁·K(x) + b₁) + b₂, K a `FactorizedSpectralConv`: the block of a
    factorised Fourier neural operator (Tran et al., 2023, eq. 7).

    x: (B, channels, *S) → the same shape. modes: as `FactorizedSpectralConv`'s; factor: channels
    between the two 1×1 convolutions, times those outside. Parameters: those of conv, first and
    second. Raises ValueError for other modes.

    >>> FFNOBlock(4, modes=(4, 4, 3))(torch.randn(1, 4, 8, 9, 10)).shape
    torch.Size([1, 4, 8, 9, 10])
    """

    def __init__(self, channels: int, modes, *, factor: int = 4, norm: str = "ortho"):
        super().__init__()
        self.conv = FactorizedSpectralConv(channels, channels, modes, norm=norm)
        dims = len(self.conv.modes)
        self.first = convolution(dims, channels, factor * channels, 1)
        self.second = convolution(dims, factor * channels, channels, 1)

    reset_parameters = reset_children

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(self.conv(x))))
