"""Convolutions beyond real data in three dimensions, composed of the real operator.

Complex data: the real and imaginary parts are channels of one real convolution, since a complex
kernel is a pair of real ones. It costs four half-spectrum products where a complex product has one
of the whole spectrum, twice the multiply-adds, and a weight of twice the size, built once a
forward.

Four axes: the first is taken to its kept cosines and sines by a matrix, one product of 2(k + 1)
rows for frequencies up to k; for each frequency the other three are a convolution of its own, a
group of one call of the operator, with twice the multiply-adds of a complex product.

`by_fft` is any other: torch.fft over the whole spectrum.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fastseg import ops
from fastseg.nn.neuralop.frequencies import Axis, take


def _blocks(direct: Tensor, crossed: Tensor) -> Tensor:
    """[[direct, crossed], [−crossed, direct]] of (I, O, …) as (2I, 2O, …), the parts innermost."""
    first = torch.stack([direct, crossed], 2)
    second = torch.stack([-crossed, direct], 2)
    return torch.stack([first, second], 1).flatten(0, 1).flatten(1, 2)


def _halves(weight: Tensor, sizes) -> tuple[Tensor, Tensor]:
    """The half spectra, in torch.fft's order, of the real and imaginary parts of a kernel whose
    spectrum (I, O, *modes) has ascending frequencies.
    """
    counts = weight.shape[2:]
    room = [value for count in reversed(counts) for value in (0, (count + 1) % 2)]
    weight = F.pad(weight, room)  # −k … k on every axis
    axes = tuple(range(2, weight.dim()))
    mirrored = weight.flip(axes).conj()
    halves = torch.stack([(weight + mirrored) / 2, (weight - mirrored) / 2j])
    for axis, (count, size) in enumerate(zip(counts, sizes, strict=True), start=3):
        if count == size and count % 2 == 0:  # ±k are one bin
            both = halves.narrow(axis, 0, 1) + halves.narrow(axis, count, 1)
            inner = halves.narrow(axis, 1, count - 1)
            last = axis == halves.dim() - 1
            halves = torch.cat([inner, both] if last else [both, inner], axis)
    columns = counts[-1] // 2 + 1
    halves = halves[..., -columns:]
    if len(axes) > 1:
        halves = torch.fft.ifftshift(halves, dim=tuple(range(3, halves.dim() - 1)))
    return halves[0], halves[1]


def of_complex(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, norm: str) -> Tensor:
    """Return the convolution of complex x (B, Cin, *S), on its own grid, by a weight (Cin/groups,
    Cout, *modes) with the frequencies of both signs of every axis ascending.
    """
    channels = torch.view_as_real(x.resolve_conj()).movedim(-1, 2).flatten(1, 2)
    if bias is not None:
        bias = torch.stack([bias, torch.zeros_like(bias)], 1).flatten()
    blocks = _blocks(*_halves(weight, x.shape[2:]))
    y = real(channels, blocks, bias, x.shape[2:], groups, norm)
    return torch.view_as_complex(y.unflatten(1, (-1, 2)).movedim(2, -1).contiguous())


def real(x: Tensor, weight: Tensor, bias: Tensor | None, sizes, groups: int, norm: str) -> Tensor:
    """Return the convolution of real x by a weight, complex or real with a trailing 2, in one to
    four dimensions.
    """
    if len(sizes) < 4:
        return ops.spectral_conv(x, weight, bias, tuple(sizes), groups, norm)
    weight = weight if weight.is_complex() else torch.view_as_complex(weight)
    return _four_axes(x, weight, bias, tuple(sizes), groups, norm)


def _waves(most: int, size: int, scale: float, like: Tensor) -> Tensor:
    """Cosines and sines (2(most + 1), size) of frequencies 0 … most, times `scale`."""
    steps = torch.arange(most + 1)[:, None] * torch.arange(size) % size
    angles = steps.double() * (2 * math.pi / size)
    waves = torch.stack([angles.cos(), angles.sin()], 1).flatten(0, 1) * scale
    return waves.to(like.device, like.dtype)


def _four_axes(x, weight, bias, sizes, groups: int, norm: str) -> Tensor:
    wide = x if x.dtype == torch.float64 else x.float()
    count, size, out = weight.shape[2], x.shape[2], sizes[0]
    most, outputs = count // 2, weight.shape[1]
    power = {"backward": (0.0, 1.0), "ortho": (0.5, 0.5), "forward": (1.0, 0.0)}[norm]
    analysis = _waves(most, size, size ** -power[0], wide)
    parts = torch.matmul(analysis, wide.flatten(3)).unflatten(2, (most + 1, 2))  # (B, C, k, 2, …)
    parts = parts.movedim(2, 1).flatten(1, 3).unflatten(2, x.shape[3:])
    y = ops.spectral_conv(parts, _by_frequency(weight), None, sizes[1:], (most + 1) * groups, norm)
    y = y.flatten(2).unflatten(1, (most + 1, outputs, 2)).movedim(1, 2).flatten(2, 3)
    synthesis = _waves(most, out, out ** -power[1], wide).T
    y = torch.matmul(synthesis, y).unflatten(3, sizes[1:])
    y = y if bias is None else y + bias.to(y.dtype).view(-1, 1, 1, 1, 1)
    return y.to(x.dtype)


def _by_frequency(weight: Tensor) -> Tensor:
    """The weights between cosines and sines of a 4-D weight's first mode axis: (2·Cin/groups, k ·
    2·Cout, *other modes), a frequency after the other.
    """
    count, most = weight.shape[2], weight.shape[2] // 2
    low, high = weight.narrow(2, 0, count - most), weight.narrow(2, count - most, most).flip(2)
    positive = F.pad(low, (0, 0) * 3 + (0, most + 1 - low.shape[2]))
    negative = F.pad(high, (0, 0) * 3 + (1, 0))
    blocks = _blocks(positive + negative, (positive - negative) * 1j)
    return blocks.movedim(2, 1).flatten(1, 2)


def by_fft(
    x: Tensor, weight: Tensor, axes: tuple[Axis, ...], full, sizes, norm: str, split: bool
) -> Tensor:
    """Return the convolution of x by rows of a weight, from the bins that `axes` read to those that
    they write, in a spectrum of shape `full` that the inverse brings to `sizes`.

    x: (B, Cin, *S) real or complex; weight: (Cin or 1, Cout, *rows), 1 for a channel by itself.
    `split` takes the last axis's inverse by itself, without the imaginary part of self-conjugate
    columns, as `fastseg.reference` does.
    """
    dims = tuple(range(2, x.dim()))
    dtype, narrow = x.dtype, x.dtype in (torch.float16, torch.bfloat16)
    x = x.float() if narrow else x
    spectrum = (torch.fft.fftn if x.is_complex() else torch.fft.rfftn)(x, dim=dims, norm=norm)
    for dim, axis in zip(dims, axes, strict=True):
        spectrum = take(spectrum, dim, axis.read)
    weight = weight.to(spectrum.dtype)
    if weight.shape[0] == 1 and x.shape[1] > 1:
        z = spectrum * weight
    else:
        z = torch.einsum("bi...,io...->bo...", spectrum, weight)
    for dim, axis, count in zip(dims, axes, full, strict=True):
        index = torch.tensor(axis.written, device=z.device)
        empty = z.new_zeros((*z.shape[:dim], count, *z.shape[dim + 1 :]))
        z = empty.index_copy(dim, index, z)
    if x.is_complex():
        return torch.fft.ifftn(z, s=sizes, dim=dims, norm=norm)
    if split:
        z = torch.fft.ifftn(z, s=sizes[:-1], dim=dims[:-1], norm=norm) if len(dims) > 1 else z
        keep = torch.ones(z.shape[-1], device=z.device)
        keep[0] = 0
        if sizes[-1] % 2 == 0:
            keep[-1] = 0
        z = torch.complex(z.real, z.imag * keep)
        return torch.fft.irfft(z, n=sizes[-1], dim=-1, norm=norm).to(dtype)
    return torch.fft.irfftn(z, s=sizes, dim=dims, norm=norm).to(dtype)
