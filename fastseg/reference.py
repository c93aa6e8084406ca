"""Every operator in plain torch.fft: the specification the kernels are tested against.

Each function has the signature of its namesake in `fastseg.ops` and takes any floating dtype;
16-bit inputs are computed in float32. Self-conjugate bins are decided here, once: the inverse runs
over all axes but the last first, then the imaginary part of the last axis's columns 0 and, for an
even size, size/2 is dropped, then the real inverse over the last axis follows.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def kept_rows(modes: int, size: int, two_sided: bool) -> list[int]:
    """Indices of an axis that truncation keeps: ⌈m/2⌉ non-negative ones, then ⌊m/2⌋ negative ones
    (or 0 … m−1).
    """
    negative = modes // 2 if two_sided else 0
    return [*range(modes - negative), *range(size - negative, size)]


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def truncated_rfftn(x: Tensor, modes, norm: str = "backward", two_sided: bool = True) -> Tensor:
    """The kept part of `torch.fft.rfftn` over the last len(modes) axes: (B, C, *S) → (B, C,
    *modes), complex.
    """
    dims = tuple(range(-len(modes), 0))
    if x.numel() == 0:  # not every FFT library takes an empty batch
        return torch.complex(*[_wide(x).sum().expand(*x.shape[:2], *modes)] * 2)
    spectrum = torch.fft.rfftn(_wide(x), dim=dims, norm=norm).narrow(-1, 0, modes[-1])
    for dim, kept in zip(dims[:-1], modes[:-1], strict=True):
        rows = kept_rows(kept, x.shape[dim], two_sided)
        spectrum = spectrum.index_select(dim, torch.tensor(rows, device=x.device))
    return spectrum


def truncated_irfftn(
    spectrum: Tensor,
    sizes,
    norm: str = "backward",
    two_sided: bool = True,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The inverse of a zero-filled truncated spectrum: (B, C, *modes) complex → (B, C, *sizes),
    real.
    """
    dims = tuple(range(-len(sizes), 0))
    if spectrum.numel() == 0:
        y = spectrum.real.sum().expand(*spectrum.shape[:2], *sizes)
        return y if dtype is None else y.to(dtype)
    real = torch.view_as_real(spectrum.resolve_conj())
    full = F.pad(real, (0, 0, 0, sizes[-1] // 2 + 1 - spectrum.shape[-1]))
    full = torch.view_as_complex(full.contiguous())
    for dim, size in zip(dims[:-1], sizes[:-1], strict=True):
        rows = kept_rows(full.shape[dim], size, two_sided)
        shape = list(full.shape)
        shape[dim] = size
        zeros = full.new_zeros(shape)
        full = zeros.index_copy(dim, torch.tensor(rows, device=full.device), full)
    if len(sizes) > 1:
        full = torch.fft.ifftn(full, dim=dims[:-1], norm=norm)
    self_conjugate = torch.zeros(full.shape[-1], dtype=torch.bool, device=full.device)
    self_conjugate[0] = True
    if sizes[-1] % 2 == 0:
        self_conjugate[-1] = True
    full = torch.complex(full.real, full.imag.masked_fill(self_conjugate, 0))
    y = torch.fft.irfft(full, n=sizes[-1], dim=-1, norm=norm)
    return y if dtype is None else y.to(dtype)


def _mix(spectrum: Tensor, weight: Tensor, groups: int) -> Tensor:
    batch, channels, *modes = spectrum.shape
    outputs, count = weight.shape[1], math.prod(modes)
    grouped = spectrum.reshape(batch, groups, channels // groups, count)
    weight = weight.expand(*weight.shape[:2], *modes)
    weight = weight.reshape(channels // groups, groups, outputs // groups, count)
    return torch.einsum("bgim,igom->bgom", grouped, weight).reshape(batch, outputs, *modes)


def spectral_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    sizes=None,
    groups: int = 1,
    norm: str = "backward",
    two_sided: bool = True,
    modes=None,
) -> Tensor:
    """Analysis, one complex matrix product over channels a mode, synthesis (Li et al., 2021, eq.
    5).
    """
    weight = weight if weight.is_complex() else torch.view_as_complex(_wide(weight).contiguous())
    modes = weight.shape[2:] if modes is None else modes
    spectrum = truncated_rfftn(x, modes, norm, two_sided)
    mixed = _mix(spectrum, weight.to(spectrum.dtype), groups)
    y = truncated_irfftn(mixed, x.shape[2:] if sizes is None else sizes, norm, two_sided)
    if bias is not None:
        y = y + bias.to(y.dtype).view(-1, *[1] * (x.dim() - 2))
    return y.to(x.dtype)


def fno_block(
    x: Tensor, weight: Tensor, skip_weight: Tensor, bias: Tensor | None = None, sizes=None,
    groups: int = 1, norm: str = "backward", two_sided: bool = True,
) -> Tensor:  # fmt: skip
    """`gelu(spectral_conv(x, weight) + skip_weight·x + bias)` (Li et al., 2021, eq. 2)."""
    wide = _wide(x)
    y = spectral_conv(wide, weight, bias, sizes, groups, norm, two_sided)
    grouped = wide.unflatten(1, (groups, x.shape[1] // groups))
    kernel = skip_weight.to(wide.dtype).unflatten(0, (groups, y.shape[1] // groups))
    skip = torch.einsum("goi,bgi...->bgo...", kernel, grouped).flatten(1, 2)
    return F.gelu(y + skip).to(x.dtype)
