"""The Gaussian filter as one (banded, circulant) matrix an axis: plain torch.matmul, which autograd
differentiates in x and in the taps.
"""

import torch
from torch import Tensor

from fastseg.ops._taps import Taps


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


def gaussian_filter(x: Tensor, taps: Taps, mode: str, padding: str):
    with torch.autocast(x.device.type, enabled=False):
        wide = x if x.dtype == torch.float64 else x.float()
        low = _low(wide, taps, padding)
        if mode == "low":
            return low.to(x.dtype)
        high = (wide - low).to(x.dtype)
        return high if mode == "high" else (low.to(x.dtype), high)
