"""Layers in the Hartley spectrum, which is real: HNOSeg and HNOSeg-XS (Wong et al., 2023, 2025),
with the parameter names of the published code, on `fastseg.ops.truncated_dhtn`.
"""

import math
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg import ops, reference
from fastseg.errors import FastsegWarning
from fastseg.nn.fourier_unit import convolution
from fastseg.nn.parameters import in_format_of, reset_children
from fastseg.ops.context import without_autocast

_SLAB = 1 << 17  # voxels, of which a few maps fit a cache and memory is used again


def _axes(modes) -> tuple:
    modes = (modes,) if isinstance(modes, int) else tuple(modes)
    if not 1 <= len(modes) <= 3 or any(m < 1 for m in modes):
        raise ValueError(f"modes: got {modes}, want 1 to 3 positive counts")
    return modes


def _fitting(modes: tuple, sizes) -> tuple:
    """The modes that a grid has: of each axis the most that are even, or odd, like the count."""
    if len(sizes) != len(modes):
        return modes  # the op says what is wrong
    fit = tuple(m if m <= n else max(n - (m - n) % 2, 1) for m, n in zip(modes, sizes, strict=True))
    if fit != modes and not torch.compiler.is_compiling():
        warnings.warn(
            f"modes {modes} exceed the bins of size {tuple(sizes)}; using the lowest {fit}",
            FastsegWarning,
            stacklevel=4,
        )
    return fit


class HartleyMix(nn.Module):
    """Mix the channels of a Hartley spectrum at every frequency, by one real matrix for all of
    them, or by the Hartley spectrum of a kernel, a value each.

    spectrum: (B, in_channels, *modes) real → (B, out_channels, *modes). Shared: W·H[k]. By mode, as
    Hartley spectra of convolutions do, (W[k]·(H[k] + H[−k]) + W[−k]·(H[k] − H[−k]))/2 (Bracewell,
    1983); −k is sought among the kept frequencies, where −m/2 of an even m stands for itself.

    Parameters: weight (out_channels, in_channels), or (out_channels, in_channels, *modes), of which
    a smaller spectrum takes the lowest modes.

    >>> HartleyMix(4, 6)(torch.randn(2, 4, 8, 6)).shape
    torch.Size([2, 6, 8, 6])
    """

    def __init__(self, in_channels: int, out_channels: int, modes=None):
        super().__init__()
        shape = () if modes is None else _axes(modes)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw a normal weight of variance 1/in_channels, which SELU wants."""
        nn.init.normal_(self.weight, std=1 / math.sqrt(self.weight.shape[1]))

    def forward(self, spectrum: Tensor) -> Tensor:
        weight = self.weight.to(spectrum.dtype)
        # few numbers, whose sizes differ by orders: not in 16 bits
        with without_autocast(spectrum):
            if weight.dim() == 2:
                return (weight @ spectrum.flatten(2)).unflatten(2, spectrum.shape[2:])
            for dim, (m, n) in enumerate(
                zip(spectrum.shape[2:], weight.shape[2:], strict=True), start=2
            ):
                if m < n:
                    rows = torch.tensor(reference.kept_rows(m, n, True), device=weight.device)
                    weight = weight.index_select(dim, rows)
            opposite = _negated(spectrum)
            even, odd = spectrum + opposite, spectrum - opposite
            of = "oi...,bi...->bo..."
            mixed = torch.einsum(of, weight, even) + torch.einsum(of, _negated(weight), odd)
            return mixed / 2


def _negated(x: Tensor) -> Tensor:
    """x at −k, k in torch.fft order on all axes but the first two."""
    dims = tuple(range(2, x.dim()))
    return x.flip(dims).roll([1] * len(dims), dims)


class HartleyConv(HartleyMix):
    """Convolve in the Hartley spectrum, keeping few modes (HNOSeg, Wong et al., 2023): transform,
    mix channels (`HartleyMix`), `activation`, inverse, bias.

    x: (B, in_channels, *S) → (B, out_channels, *sizes or *S) in x.dtype, 1-, 2- or 3-D by
    len(modes); the spectrum is computed in float32, or float64. `modes` counts rows of both signs
    on every axis, as `ops.truncated_dhtn` does: the published "modes k" is 2k. Those beyond a small
    grid's are left out with one warning. norm "forward" makes a spectrum that hardly depends on the
    size of the grid. shared: one matrix for all modes. activation: "selu" of the spectrum, as
    published, or None for a linear layer.

    Parameters: weight as `HartleyMix`'s, bias (out_channels,). Raises ValueError for modes that are
    no 1 to 3 counts and an unknown activation.

    >>> HartleyConv(4, 6, modes=(8, 6))(torch.randn(2, 4, 20, 15)).shape
    torch.Size([2, 6, 20, 15])
    """

    def __init__(
        self, in_channels: int, out_channels: int, modes, *, shared: bool = True,
        norm: str = "forward", bias: bool = False, activation: str | None = None,
    ):  # fmt: skip
        if activation not in (None, "selu"):
            raise ValueError(f"activation: got {activation!r}, want 'selu' or None")
        own = None if shared else modes
        super().__init__(in_channels, out_channels, own)
        self.modes, self.norm, self.activation = _axes(modes), norm, activation
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self._reset_bias()

    def _reset_bias(self) -> None:
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def reset_parameters(self) -> None:
        """Draw the weight as `HartleyMix` does; the bias starts at zero."""
        super().reset_parameters()
        if hasattr(self, "bias"):  # made after the weight
            self._reset_bias()

    def forward(self, x: Tensor, sizes=None) -> Tensor:
        sizes = tuple(x.shape[2:]) if sizes is None else tuple(sizes)
        modes = _fitting(self.modes, tuple(map(min, x.shape[2:], sizes)))
        spectrum = super().forward(ops.truncated_dhtn(x, modes, self.norm))
        if self.activation is not None:
            spectrum = F.selu(spectrum)
        y = ops.truncated_idhtn(spectrum, sizes, self.norm, dtype=x.dtype)
        if self.bias is None:
            return in_format_of(x, y)
        return in_format_of(x, y) + self.bias.to(y.dtype).view(-1, *[1] * len(sizes))

    def extra_repr(self) -> str:
        return f"modes={self.modes}, norm={self.norm!r}, activation={self.activation!r}"


class PointwiseSELU(nn.Module):
    """Return selu(W·x + b) of maps x whose channels come in parts, which are never put together.

    parts: (B, Cᵢ, *S), Σ Cᵢ = in_channels → (B, out_channels, *S). Parameters: op.weight
    (out_channels, in_channels, 1…) and op.bias, those of a 1×1 convolution.

    >>> PointwiseSELU(5, 3, dims=2)(torch.randn(1, 4, 8, 8), torch.randn(1, 1, 8, 8)).shape
    torch.Size([1, 3, 8, 8])
    """

    def __init__(self, in_channels: int, out_channels: int, *, dims: int = 3):
        super().__init__()
        self.op = convolution(dims, in_channels, out_channels, 1)
        self_normalising(self.op)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self.op.reset_parameters()
        self_normalising(self.op)

    def forward(self, *parts: Tensor) -> Tensor:
        first = parts[0]
        with without_autocast(first):
            weight, bias = self.op.weight.flatten(1).to(first.dtype), self.op.bias.to(first.dtype)
            weights = weight.expand(len(first), -1, -1).split([p.shape[1] for p in parts], 2)
            y = torch.baddbmm(bias.view(1, -1, 1), weights[0], first.flatten(2))
            for part, w in zip(parts[1:], weights[1:], strict=True):
                y.baddbmm_(w, part.flatten(2))
            return F.selu(y, inplace=True).unflatten(2, first.shape[2:])


def self_normalising(layer: nn.Module) -> None:
    """Draw weights of variance 1/fan_in and biases near 0, as networks of SELU want."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    if layer.bias is not None:
        nn.init.uniform_(layer.bias, -0.001, 0.001)


class HNOBlock(nn.Module):
    """Apply several mixes in the Hartley spectrum between one pair of transforms (HNOSeg-XS, Wong
    et al., 2025): H ← selu(W·H + H), `mixes` times; y = selu(inverse); selu(1×1 of y and x).

    x, in parts of together in_channels channels: (B, Cᵢ, *S) → (B, out_channels, *S), 1- to 3-D by
    len(modes). modes, shared, norm: as `HartleyConv`'s. Where in_channels is not out_channels, a
    1×1 convolution and SELU stand in front.

    Parameters, with the published names: mapping_conv.op.{weight,bias} if it is there,
    conv_blocks.i.op.weight, conv_concat.op.{weight,bias}. Raises ValueError for other modes.

    >>> HNOBlock(4, 6, modes=(4, 4, 4))(torch.randn(1, 4, 8, 8, 8)).shape
    torch.Size([1, 6, 8, 8, 8])
    """

    def __init__(
        self, in_channels: int, out_channels: int, modes, *, mixes: int = 3, shared: bool = True,
        norm: str = "forward",
    ):  # fmt: skip
        super().__init__()
        self.modes, self.norm = _axes(modes), norm
        dims, width = len(self.modes), out_channels
        own = None if shared else self.modes
        self.mapping_conv = None
        if in_channels != width:
            self.mapping_conv = PointwiseSELU(in_channels, width, dims=dims)
        self.conv_blocks = nn.ModuleList(
            nn.ModuleDict({"op": HartleyMix(width, width, own)}) for _ in range(mixes)
        )
        self.conv_concat = PointwiseSELU(2 * width, width, dims=dims)

    reset_parameters = reset_children

    def forward(self, *parts: Tensor) -> Tensor:
        x = parts[0] if self.mapping_conv is None else self.mapping_conv(*parts)
        sizes = tuple(x.shape[2:])
        spectrum = ops.truncated_dhtn(x, _fitting(self.modes, sizes), self.norm)
        for block in self.conv_blocks:
            spectrum = F.selu(block["op"](spectrum) + spectrum)
        y = ops.truncated_idhtn(spectrum, sizes, self.norm, dtype=x.dtype)
        if torch.is_grad_enabled():
            return in_format_of(parts[0], self.conv_concat(F.selu(y, inplace=True), x))
        # nobody needs y again: the result takes its place, part by part
        for part, beside in zip(*(t.flatten(2).split(_SLAB, 2) for t in (y, x)), strict=True):
            part.copy_(self.conv_concat(F.selu(part, inplace=True), beside))
        return in_format_of(parts[0], y)
