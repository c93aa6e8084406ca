"""Layers on the spectral convolution. Complex weights are stored as real parameters with a trailing
2.
"""

import math
import warnings

import torch
from torch import Tensor, nn

from fastseg import ops, reference
from fastseg.errors import FastsegWarning
from fastseg.nn.parameters import SpectralModule, draw_normal


def _fits(weight_shape, shape) -> bool:
    """Whether every mode of a weight is a bin of x's grid."""
    last = len(shape) - 1
    if len(weight_shape) != last + 2:
        return True  # the op says what is wrong
    for axis in range(2, last):
        if weight_shape[axis] > shape[axis]:
            return False
    return weight_shape[last] <= shape[last] // 2 + 1


def _clip_modes(weight: Tensor, sizes, two_sided: bool) -> Tensor:
    """The weight rows whose frequencies exist on grid `sizes`: the lowest |k| of every axis."""
    modes = tuple(weight.shape[2:-1])
    if len(sizes) != len(modes):
        return weight  # the op says what is wrong
    fit = list(map(min, modes, (*sizes[:-1], sizes[-1] // 2 + 1)))
    if fit == list(modes):
        return weight
    if not torch.compiler.is_compiling():
        warnings.warn(
            f"modes {modes} exceed the bins of size {tuple(sizes)}; using the lowest {tuple(fit)}",
            FastsegWarning,
            stacklevel=3,
        )
    for axis, (m, n) in enumerate(zip(fit, modes, strict=True)):
        if m < n:
            last = axis == len(modes) - 1
            rows = reference.kept_rows(m, n, two_sided and not last)
            weight = weight.index_select(axis + 2, torch.tensor(rows, device=weight.device))
    return weight


def _draw_weight(weight: Tensor, groups: int) -> None:
    """Zero-mean complex normal weights of variance 2/(in + out), the default of neuraloperator."""
    std = math.sqrt(2 / (weight.shape[0] * groups + weight.shape[1]))
    draw_normal(weight, std / math.sqrt(2))


def _check_channels(in_channels: int, out_channels: int, modes, groups: int) -> tuple:
    modes = (modes,) if isinstance(modes, int) else tuple(modes)
    if not 1 <= len(modes) <= 3 or any(m < 1 for m in modes):
        raise ValueError(f"modes: got {modes}, want 1 to 3 positive counts")
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError(
            f"groups: got {groups}, want a divisor of {in_channels} input and {out_channels} "
            "output channels"
        )
    return modes


class SpectralConv(SpectralModule):
    """Convolve in the spectrum, keeping few modes: `fastseg.ops.spectral_conv` with its weight (Li
    et al., 2021, eq. 5).

    x: (B, in_channels, *S) → (B, out_channels, *sizes or *S), 1-, 2- or 3-D by len(modes). `modes`
    counts kept rows as `ops` does: the classic "modes k" is (2k, k) in 2-D and (2k, 2k, k) in 3-D.
    Modes beyond a small grid's bins are clipped with one warning.

    Parameters: weight (in_channels/groups, out_channels, *modes, 2) real, bias (out_channels,).
    Raises ValueError for modes or groups that do not fit.

    >>> layer = SpectralConv(4, 4, modes=(8, 5))
    >>> layer(torch.randn(1, 4, 20, 15), sizes=(40, 30)).shape
    torch.Size([1, 4, 40, 30])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        modes,
        *,
        norm: str = "ortho",
        bias: bool = True,
        groups: int = 1,
        two_sided: bool = True,
    ):
        super().__init__()
        self.modes = _check_channels(in_channels, out_channels, modes, groups)
        self.norm, self.groups, self.two_sided = norm, groups, two_sided
        self.weight = nn.Parameter(torch.empty(in_channels // groups, out_channels, *self.modes, 2))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight anew; the bias starts at zero."""
        _draw_weight(self.weight, self.groups)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, sizes=None) -> Tensor:
        weight = self.weight
        if sizes is not None:
            grid = [min(a, b) for a, b in zip(x.shape[2:], sizes, strict=True)]
            weight = _clip_modes(weight, grid, self.two_sided)
        elif not _fits(weight.shape, x.shape):
            weight = _clip_modes(weight, x.shape[2:], self.two_sided)
        return ops.spectral_conv(
            x, weight, self.bias, sizes, self.groups, self.norm, self.two_sided
        )

    def extra_repr(self) -> str:
        shape = self.weight.shape
        return (
            f"{shape[0] * self.groups}, {shape[1]}, modes={self.modes}, norm={self.norm!r}, "
            f"groups={self.groups}, two_sided={self.two_sided}"
        )

    @classmethod
    def from_neuralop(cls, module: nn.Module) -> "SpectralConv":
        """Return a layer equal to a dense `neuralop.layers.spectral_convolution.SpectralConv`,
        weights copied. Raises ValueError for any other layer. See `fastseg.nn.neuralop`.
        """
        from fastseg.nn.neuralop.conversion import spectral_conv

        return spectral_conv(cls, module)

    @classmethod
    def from_classic(cls, module: nn.Module) -> "SpectralConv":
        """Return a layer equal to one of fourier_1d.py, fourier_2d.py or fourier_3d.py (Li et al.,
        2021), the weights weights1, … copied. Raises ValueError for any other layer.
        """
        from fastseg.nn.classic import convert_classic

        return convert_classic(cls, module)


class FNOBlock(SpectralModule):
    """Compute `gelu(spectral_conv(x) + W·x + b)`, the block of a Fourier neural operator (Li et
    al., 2021, eq. 2): `fastseg.ops.fno_block` with its weights.

    x: (B, in_channels, *S) → (B, out_channels, *S). Parameters: weight as `SpectralConv`'s,
    skip_weight (out_channels, in_channels/groups), bias (out_channels,). Raises ValueError for
    modes or groups that do not fit.

    >>> FNOBlock(3, 5, modes=(4, 4, 3))(torch.randn(1, 3, 8, 8, 8)).shape
    torch.Size([1, 5, 8, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        modes,
        *,
        norm: str = "ortho",
        groups: int = 1,
        two_sided: bool = True,
    ):
        super().__init__()
        self.modes = _check_channels(in_channels, out_channels, modes, groups)
        self.norm, self.groups, self.two_sided = norm, groups, two_sided
        inputs = in_channels // groups
        self.weight = nn.Parameter(torch.empty(inputs, out_channels, *self.modes, 2))
        self.skip_weight = nn.Parameter(torch.empty(out_channels, inputs))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew, those of the skip as nn.Conv does."""
        _draw_weight(self.weight, self.groups)
        bound = 1 / math.sqrt(self.skip_weight.shape[1])
        nn.init.uniform_(self.skip_weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if not _fits(weight.shape, x.shape):
            weight = _clip_modes(weight, x.shape[2:], self.two_sided)
        return ops.fno_block(
            x, weight, self.skip_weight, self.bias, None, self.groups, self.norm, self.two_sided
        )
