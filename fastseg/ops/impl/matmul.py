"""The truncated transforms in plain torch.matmul: the honest baseline, and what exports to ONNX.
Autograd differentiates it. What is composed of them takes `by`, whose transforms it is to use.
"""

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from fastseg.ops import tables
from fastseg.ops.context import recorded, without_autocast
from fastseg.ops.impl.contract import Geometry, whole
from fastseg.ops.taps import Taps

_recorded = partial(recorded, backend="matmul")


def _last(size, columns, scale, weighted, like: Tensor) -> Tensor:
    return tables.last_matrix(size, columns, scale, weighted, like.dtype, like.device)


def _outer(size, axis: tables.Kept, like: Tensor) -> Tensor:
    return tables.outer_matrix(size, axis, like.dtype, like.device)


def _rotate(z: Tensor, dim: int, matrix: Tensor, sign: int) -> Tensor:
    """Σ (cos ∓ i sin)·z along `dim` of z (B, C, …, 2m), whose last axis holds real parts, then
    imaginary ones; matrix is (2K, n).
    """
    half, columns = matrix.shape[0] // 2, z.shape[-1] // 2
    product = torch.matmul(matrix, z.movedim(dim, -2))
    cos, sin = product[..., :half, :], product[..., half:, :]
    real = cos[..., :columns] + sign * sin[..., columns:]
    imag = cos[..., columns:] - sign * sin[..., :columns]
    return torch.cat([real, imag], dim=-1).movedim(-2, dim)


@_recorded
def analysis(x: Tensor, geometry: Geometry) -> Tensor:
    """Return the kept spectrum of x, as `contract.Spectral.analysis` does."""
    modes, scale = geometry.modes, geometry.scales[0]
    with without_autocast(x):
        x = x if x.dtype == torch.float64 else x.float()
        z = torch.matmul(x, _last(x.shape[-1], modes[-1], scale, geometry.adjoint, x))
        axes = tables.kept_axes(modes, geometry.two_sided)
        for dim in range(x.dim() - 2, 1, -1):
            z = _rotate(z, dim, _outer(x.shape[dim], axes[dim - 2], x), 1)
        return torch.stack([z[..., : modes[-1]], z[..., modes[-1] :]], dim=-1)


@_recorded
def synthesis(
    spectrum: Tensor, geometry: Geometry, dtype: torch.dtype, bias: Tensor | None = None
) -> Tensor:
    """Return what a spectrum stands for, as `contract.Spectral.synthesis` does."""
    sizes, modes, weighted = geometry.sizes, geometry.modes, not geometry.adjoint
    with without_autocast(spectrum):
        wide, scale = spectrum.dtype, geometry.scales[1]
        z = torch.cat([spectrum[..., 0], spectrum[..., 1]], dim=-1)
        kept = tables.kept_axes(modes, geometry.two_sided)[:-1]
        for dim, (size, axis) in enumerate(zip(sizes[:-1], kept, strict=True), start=2):
            forward = _outer(size, axis, z)
            both = forward.view(2, -1, size).transpose(1, 2).reshape(2 * size, -1)
            z = _rotate(z, dim, both, -1)
        y = torch.matmul(z, _last(sizes[-1], modes[-1], scale, weighted, z).T)
        if bias is not None:
            y = y + bias.to(wide).view(-1, *[1] * len(sizes))
        return y.to(dtype)


def multiply(spectrum: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Return spectra (B, Cin, *modes, 2) times a weight, as one batched real product over modes:
    [re | im] of the inputs times 2x2 blocks of weights; one product in all where a weight
    (Cin/groups, Cout, 1, …, 2) is shared by all modes.
    """
    batch, _, *modes, _ = spectrum.shape
    inputs, outputs = weight.shape[:2]
    count, matrices = math.prod(modes), math.prod(weight.shape[2:-1])
    with without_autocast(spectrum):
        x = spectrum.reshape(batch, groups, inputs, count, 2).permute(1, 3, 0, 4, 2)  # g m n 2 i
        w = weight.reshape(inputs, groups, outputs // groups, matrices, 2)
        real, imag = w.permute(1, 3, 0, 2, 4).unbind(-1)  # g m i o
        blocks = torch.cat([torch.cat([real, imag], -1), torch.cat([-imag, real], -1)], dim=-2)
        rows = batch * (1 if matrices == count else count)
        product = torch.matmul(x.reshape(groups, matrices, rows, 2 * inputs), blocks)
    product = product.reshape(groups, count, batch, 2, outputs // groups)
    return product.permute(2, 0, 4, 1, 3).reshape(batch, outputs, *modes, 2)


class Dense:
    """Name this file's transforms as those of a backend are."""

    analysis, synthesis, multiply = map(staticmethod, (analysis, synthesis, multiply))


@_recorded
def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, by=Dense
) -> Tensor:
    """Return the spectral convolution of x; the weight's mode axes may be 1, for all modes."""
    mixed = by.multiply(by.analysis(x, geometry), weight, geometry.groups)
    return by.synthesis(mixed, geometry, x.dtype, bias)


@_recorded
def fno_block(
    x: Tensor, weight: Tensor, skip_weight: Tensor, bias: Tensor | None, geometry: Geometry,
    by=Dense,
) -> Tensor:  # fmt: skip
    """Return gelu(convolution + skip·x + bias), in float32 throughout for 16-bit x."""
    wide = x if x.dtype == torch.float64 else x.float()
    convolved = convolve(wide, weight, bias, geometry, by)
    return F.gelu(convolved + _pointwise(wide, skip_weight, geometry.groups)).to(x.dtype)


def _pointwise(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """The grouped 1x1 convolution of weight (Cout, Cin/groups), as one batched product."""
    batch, _, *sizes = x.shape
    outputs, inputs = weight.shape
    with without_autocast(x):
        kernel = weight.to(x.dtype).view(groups, outputs // groups, inputs)
        y = torch.matmul(kernel, x.reshape(batch, groups, inputs, math.prod(sizes)))
    return y.view(batch, outputs, *sizes)


@_recorded
def spectral_filter(x: Tensor, gain: Tensor, by=Dense) -> Tensor:
    """Return irfftn(rfftn(x)·gain); gain: real numbers or pairs, every axis of the spectrum and a
    trailing 1 or 2.
    """
    geometry = whole(x.shape[2:])
    spectrum = by.analysis(x, geometry)
    if gain.shape[-1] == 1:
        product = spectrum * gain
    else:
        (a, b), (c, d) = spectrum.unbind(-1), gain.unbind(-1)
        product = torch.stack([a * c - b * d, a * d + b * c], dim=-1)
    return by.synthesis(product, geometry, x.dtype)


@_recorded
def fu_mix(x: Tensor, weight: Tensor, by=Dense) -> tuple[Tensor, Tensor]:
    """Return z = weight·rfftn(x) and its moments (2, channels)."""
    spectrum = by.analysis(x, whole(x.shape[2:], "ortho"))
    with without_autocast(x):
        planar = spectrum.movedim(-1, 2).flatten(1, 2)
        z = torch.matmul(weight.to(planar.dtype), planar.flatten(2))
        z = z.unflatten(2, planar.shape[2:])
    dims = (0, *range(2, z.dim()))
    return z, torch.stack((z.sum(dims), z.square().sum(dims)))


@_recorded
def fu_finish(
    z: Tensor, scale: Tensor, shift: Tensor, sizes, dtype: torch.dtype, by=Dense
) -> Tensor:
    """Return irfftn(relu(scale·z + shift))."""
    per_channel = (-1, *[1] * len(sizes))
    z = torch.relu(scale.to(z.dtype).view(per_channel) * z + shift.to(z.dtype).view(per_channel))
    spectrum = z.unflatten(1, (z.shape[1] // 2, 2)).movedim(2, -1)
    return by.synthesis(spectrum, whole(sizes, "ortho"), dtype)


# The Gaussian filter: one (banded, circulant) matrix an axis.


def _sources(size: int, radius: int, padding: str, device: torch.device) -> Tensor:
    """The sample that stands at n + r in the extension of an axis, (N, 2·radius+1); N for none."""
    index = torch.arange(size, device=device)[:, None]
    index = index + torch.arange(-radius, radius + 1, device=device)
    if padding == "circular":
        return index % size
    if padding == "reflect":
        return (size - 1) - ((size - 1) - index.abs()).abs()
    return torch.where((index < 0) | (index >= size), size, index)


def _matrix(row: Tensor, size: int, padding: str) -> Tensor:
    """The matrix of an axis's taps (b, c, 2R+1): (b, c, N, N)."""
    sources = _sources(size, row.shape[-1] // 2, padding, row.device)
    shape = (*row.shape[:-1], *sources.shape)
    matrix = row.new_zeros((*row.shape[:-1], size, size + 1))
    weights = row.unsqueeze(-2).expand(shape)
    return matrix.scatter_add(-1, sources.expand(shape), weights)[..., :size]


def _along(x: Tensor, matrix: Tensor, dim: int) -> Tensor:
    if matrix.shape[:2] == (1, 1):
        matrix = matrix[0, 0]
    if dim == x.dim() - 1:
        return torch.matmul(x.flatten(2, -2) if x.dim() > 3 else x[:, :, None], matrix.mT)
    if matrix.dim() > 2:
        matrix = matrix.unsqueeze(2)
    return torch.matmul(matrix, x.unsqueeze(2).flatten(2, dim).flatten(4))


def _low(x: Tensor, taps: Taps, padding: str) -> Tensor:
    for dim, row in enumerate(taps.rows, start=2):
        x = _along(x, _matrix(row, x.shape[dim], padding), dim).view(x.shape)
    return x


@_recorded
def gaussian_filter(x: Tensor, taps: Taps, mode: str, padding: str):
    """Return low, high or both, a matrix along each axis."""
    with without_autocast(x):
        wide = x if x.dtype == torch.float64 else x.float()
        low = _low(wide, taps, padding)
        if mode == "low":
            return low.to(x.dtype)
        high = (wide - low).to(x.dtype)
        return high if mode == "high" else (low.to(x.dtype), high)
