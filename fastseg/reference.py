"""Every operator in plain torch.fft: the specification the kernels are tested against.

Each function has the signature of its namesake in `fastseg.ops` and takes any floating dtype;
16-bit inputs are computed in float32. Self-conjugate bins are decided here, once: the inverse runs
over all axes but the last first, then the imaginary part of the last axis's columns 0 and, for an
even size, size/2 is dropped, then the real inverse over the last axis follows.

>>> from fastseg import ops
>>> x, weight = torch.randn(1, 2, 12, 9), torch.randn(2, 2, 4, 3, dtype=torch.complex64)
>>> torch.allclose(ops.spectral_conv(x, weight), spectral_conv(x, weight), atol=1e-4)
True
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def kept_rows(modes: int, size: int, two_sided: bool) -> list[int]:
    """Return the indices of an axis that truncation keeps: ⌈m/2⌉ non-negative ones, then ⌊m/2⌋
    negative ones (or 0 … m−1).

    >>> kept_rows(5, size=8, two_sided=True)
    [0, 1, 2, 6, 7]
    """
    negative = modes // 2 if two_sided else 0
    return [*range(modes - negative), *range(size - negative, size)]


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _rfftn(x: Tensor, axes: int, norm: str) -> Tensor:
    if x.numel() == 0:  # not every FFT library takes an empty batch
        half = x.sum().expand(*x.shape[:-1], x.shape[-1] // 2 + 1)
        return torch.complex(half, half)
    return torch.fft.rfftn(x, dim=tuple(range(-axes, 0)), norm=norm)


def _irfftn(spectrum: Tensor, sizes, norm: str) -> Tensor:
    """The real inverse of a half spectrum over the last len(sizes) axes."""
    if spectrum.numel() == 0:
        return spectrum.real.sum().expand(*spectrum.shape[: -len(sizes)], *sizes)
    if len(sizes) > 1:
        spectrum = torch.fft.ifftn(spectrum, dim=tuple(range(-len(sizes), -1)), norm=norm)
    self_conjugate = torch.zeros(spectrum.shape[-1], dtype=torch.bool, device=spectrum.device)
    self_conjugate[0] = True
    if sizes[-1] % 2 == 0:
        self_conjugate[-1] = True
    spectrum = torch.complex(spectrum.real, spectrum.imag.masked_fill(self_conjugate, 0))
    return torch.fft.irfft(spectrum, n=sizes[-1], dim=-1, norm=norm)


def truncated_rfftn(x: Tensor, modes, norm: str = "backward", two_sided: bool = True) -> Tensor:
    """Return the kept part of `torch.fft.rfftn` over the last len(modes) axes: (B, C, *S) → (B, C,
    *modes), complex.

    >>> truncated_rfftn(torch.randn(1, 2, 12, 10), modes=(4, 3)).shape
    torch.Size([1, 2, 4, 3])
    """
    spectrum = _rfftn(_wide(x), len(modes), norm).narrow(-1, 0, modes[-1])
    for dim, kept in zip(range(-len(modes), -1), modes[:-1], strict=True):
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
    """Return the inverse of a zero-filled truncated spectrum: (B, C, *modes) complex → (B, C,
    *sizes), real.

    >>> truncated_irfftn(torch.randn(1, 2, 4, 3, dtype=torch.complex64), sizes=(12, 10)).shape
    torch.Size([1, 2, 12, 10])
    """
    real = torch.view_as_real(spectrum.resolve_conj())
    full = F.pad(real, (0, 0, 0, sizes[-1] // 2 + 1 - spectrum.shape[-1]))
    full = torch.view_as_complex(full.contiguous())
    for dim, size in zip(range(-len(sizes), -1), sizes[:-1], strict=True):
        rows = kept_rows(full.shape[dim], size, two_sided)
        shape = list(full.shape)
        shape[dim] = size
        zeros = full.new_zeros(shape)
        full = zeros.index_copy(dim, torch.tensor(rows, device=full.device), full)
    y = _irfftn(full, sizes, norm)
    return y if dtype is None else y.to(dtype)


def _mix(spectrum: Tensor, weight: Tensor, groups: int) -> Tensor:
    batch, channels, *modes = spectrum.shape
    outputs, count = weight.shape[1], math.prod(modes)
    grouped = spectrum.reshape(batch, groups, channels // groups, count)
    weight = weight.expand(*weight.shape[:2], *modes)
    weight = weight.reshape(channels // groups, groups, outputs // groups, count)
    return torch.einsum("bgim,igom->bgom", grouped, weight).reshape(batch, outputs, *modes)


def _hartley(x: Tensor, axes: int, norm: str) -> Tensor:
    if x.numel() == 0:  # not every FFT library takes an empty batch
        return x
    spectrum = torch.fft.fftn(x, dim=tuple(range(-axes, 0)), norm=norm)
    return spectrum.real - spectrum.imag


def truncated_dhtn(x: Tensor, modes, norm: str = "backward") -> Tensor:
    """Return the kept part of the discrete Hartley transform, Re − Im of `torch.fft.fftn`, over the
    last len(modes) axes: (B, C, *S) → (B, C, *modes), real. Every axis keeps both signs.

    >>> truncated_dhtn(torch.randn(1, 2, 12, 10), modes=(4, 3)).shape
    torch.Size([1, 2, 4, 3])
    """
    spectrum = _hartley(_wide(x), len(modes), norm)
    for dim, kept in zip(range(-len(modes), 0), modes, strict=True):
        rows = kept_rows(kept, x.shape[dim], True)
        spectrum = spectrum.index_select(dim, torch.tensor(rows, device=x.device))
    return spectrum


def truncated_idhtn(
    spectrum: Tensor, sizes, norm: str = "backward", dtype: torch.dtype | None = None
) -> Tensor:
    """Return the inverse of a zero-filled truncated Hartley spectrum, which is the transform itself
    scaled otherwise: (B, C, *modes) real → (B, C, *sizes).

    >>> truncated_idhtn(torch.randn(1, 2, 4, 3), sizes=(12, 10)).shape
    torch.Size([1, 2, 12, 10])
    """
    full = _wide(spectrum)
    for dim, size in zip(range(-len(sizes), 0), sizes, strict=True):
        rows = torch.tensor(kept_rows(full.shape[dim], size, True), device=full.device)
        shape = list(full.shape)
        shape[dim] = size
        full = full.new_zeros(shape).index_copy(dim, rows, full)
    scale = {"backward": "forward", "forward": "backward"}.get(norm, norm)
    y = _hartley(full, len(sizes), scale)
    return y if dtype is None else y.to(dtype)


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
    """Convolve in the spectrum: analysis, one complex matrix product over channels a mode,
    synthesis (Li et al., 2021, eq. 5). Arguments and result are `fastseg.ops.spectral_conv`'s.

    >>> weight = torch.randn(2, 3, 4, 3, dtype=torch.complex64)
    >>> spectral_conv(torch.randn(1, 2, 12, 10), weight).shape
    torch.Size([1, 3, 12, 10])
    """
    weight = weight if weight.is_complex() else torch.view_as_complex(_wide(weight).contiguous())
    modes = weight.shape[2:] if modes is None else modes
    spectrum = truncated_rfftn(x, modes, norm, two_sided)
    mixed = _mix(spectrum, weight.to(spectrum.dtype), groups)
    y = truncated_irfftn(mixed, x.shape[2:] if sizes is None else sizes, norm, two_sided)
    if bias is not None:
        y = y + bias.to(y.dtype).view(-1, *[1] * (x.dim() - 2))
    return y.to(x.dtype)


def _pointwise(x: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
    """The 1×1 convolution of weight (Cout, Cin/groups) at every point, whatever autocast says."""
    with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
        kernel = weight.to(x.dtype).unflatten(0, (groups, weight.shape[0] // groups))
        grouped = x.unflatten(1, (groups, x.shape[1] // groups))
        return torch.einsum("goi,bgi...->bgo...", kernel, grouped).flatten(1, 2)


def fno_block(
    x: Tensor, weight: Tensor, skip_weight: Tensor, bias: Tensor | None = None, sizes=None,
    groups: int = 1, norm: str = "backward", two_sided: bool = True,
) -> Tensor:  # fmt: skip
    """Return `gelu(spectral_conv(x, weight) + skip_weight·x + bias)` (Li et al., 2021, eq. 2).

    >>> weight = torch.randn(2, 3, 4, 3, dtype=torch.complex64)
    >>> fno_block(torch.randn(1, 2, 12, 10), weight, skip_weight=torch.randn(3, 2)).shape
    torch.Size([1, 3, 12, 10])
    """
    wide = _wide(x)
    y = spectral_conv(wide, weight, bias, sizes, groups, norm, two_sided)
    return F.gelu(y + _pointwise(wide, skip_weight, groups)).to(x.dtype)


def spectral_filter(x: Tensor, gain: Tensor) -> Tensor:
    """Return `irfftn(rfftn(x)·gain)` over all axes of x (B, C, *S); gain real or complex,
    broadcastable to the half spectrum (B, C, *S[:-1], S[-1]//2+1).

    >>> spectral_filter(torch.randn(1, 2, 8, 10), gain=torch.zeros(6)).abs().sum()
    tensor(0.)
    """
    wide = _wide(x)
    spectrum = _rfftn(wide, x.dim() - 2, "backward")
    gain = gain.to(spectrum.dtype if gain.is_complex() else wide.dtype)
    return _irfftn(spectrum * gain, x.shape[2:], "backward").to(x.dtype)


def fu_mix(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first half of a Fourier unit: (B, Cin, *S) → z (B, 2Cout, *half spectrum), Σ z and
    Σ z² (2Cout,) over batch and bins, every stored bin counting once.

    weight: (2Cout, 2Cin), or with trailing axes of 1; channels 2i and 2i+1 are the real and the
    imaginary part of channel i of rfftn(x, norm="ortho").

    >>> fu_mix(torch.randn(2, 3, 8, 10), weight=torch.randn(8, 6))[0].shape
    torch.Size([2, 8, 8, 6])
    """
    spectrum = _rfftn(_wide(x), x.dim() - 2, "ortho")
    # torch 2.6 has no gradient of view_as_real for an empty batch in this order of axes
    pairs = torch.stack((spectrum.real, spectrum.imag), 2).flatten(1, 2)
    z = _pointwise(pairs, weight.flatten(1))
    dims = (0, *range(2, z.dim()))
    return z, z.sum(dims), z.square().sum(dims)


def _per_channel(vector: Tensor, x: Tensor) -> Tensor:
    return vector.to(x.dtype).view(-1, *[1] * (x.dim() - 2))


def fu_finish(z: Tensor, scale: Tensor, shift: Tensor, sizes) -> Tensor:
    """Return the second half of a Fourier unit: irfftn(relu(scale·z + shift), norm="ortho"), (B,
    2C, *half spectrum) → (B, C, *sizes).

    >>> fu_finish(torch.randn(2, 8, 8, 6), torch.ones(8), torch.zeros(8), sizes=(8, 10)).shape
    torch.Size([2, 4, 8, 10])
    """
    z = F.relu(_per_channel(scale, z) * z + _per_channel(shift, z))
    real, imag = z.unflatten(1, (z.shape[1] // 2, 2)).unbind(2)
    return _irfftn(torch.complex(real, imag), tuple(sizes), "ortho")


def fourier_unit(
    x: Tensor, weight: Tensor, norm_weight: Tensor, norm_bias: Tensor,
    running_mean: Tensor | None, running_var: Tensor | None, training: bool, momentum: float,
    eps: float,
) -> Tensor:  # fmt: skip
    """Apply a Fourier unit: rfftn, 1×1 convolution of real and imaginary parts, batch norm over
    batch and bins, ReLU, irfftn (Chi et al., 2020, fig. 2): (B, Cin, *S) → (B, Cout, *S).

    Training takes the batch's statistics and moves the running ones, where given, by `momentum`
    towards them, the variance unbiased; otherwise the running ones are taken.

    >>> one, zero = torch.ones(4), torch.zeros(4)
    >>> x, weight = torch.randn(2, 3, 8, 10), torch.randn(4, 6)
    >>> fourier_unit(x, weight, one, zero, None, None, training=True, momentum=0.1, eps=1e-5).shape
    torch.Size([2, 2, 8, 10])
    """
    z, total, squares = fu_mix(x, weight)
    mean, var = running_mean, running_var
    if training:
        count = max(z.numel() // z.shape[1], 1)
        mean = total / count
        var = (squares / count - mean.square()).clamp(min=0)
        if running_mean is not None and count > 1:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean), momentum)
                running_var.lerp_((var * (count / (count - 1))).to(running_var), momentum)
    scale = norm_weight.to(z.dtype) * torch.rsqrt(var.to(z.dtype) + eps)
    shift = norm_bias.to(z.dtype) - mean.to(z.dtype) * scale
    return fu_finish(z, scale, shift, x.shape[2:]).to(x.dtype)


def _gaussian_response(sigma: Tensor, offset: Tensor, size: int, last: bool) -> Tensor:
    """exp(−2π²σ²f² + 2πi·f·offset) on an axis's bins: (B, C) → (B, C, bins), complex128."""
    bins, device = size // 2 + 1, sigma.device
    f = (
        torch.arange(bins, device=device)
        if last
        else torch.fft.fftfreq(size, 1 / size, device=device)
    )
    turns = 2 * math.pi * f.to(sigma) / size
    decay = torch.exp(-0.5 * (sigma[..., None] * turns).square())
    phase = offset[..., None] * turns
    # taps are real, so the gain of the self-conjugate bin is
    sine = phase.sin().masked_fill(2 * f.abs() == size, 0)
    return torch.where(sigma[..., None] > 0, torch.complex(decay * phase.cos(), decay * sine), 1)


def _circular_gaussian(x: Tensor, sigma: Tensor, offset: Tensor) -> Tensor:
    axes = x.dim() - 2
    spectrum = _rfftn(x, axes, "backward")
    for axis, size in enumerate(x.shape[2:]):
        response = _gaussian_response(sigma[..., axis], offset[..., axis], size, axis == axes - 1)
        shape = [1] * axis + [response.shape[-1]] + [1] * (axes - 1 - axis)
        spectrum = spectrum * response.to(spectrum.dtype).unflatten(-1, shape)
    return _irfftn(spectrum, x.shape[2:], "backward")


def _gaussian_taps(
    sigma: Tensor, offset: Tensor, radius: int, own_radius: Tensor | int, kind: str
) -> Tensor:
    """The weights of x[n − radius … n + radius]: (...) → (..., 2·radius+1)."""
    r = torch.arange(-radius, radius + 1, device=sigma.device)
    sigma, distance = sigma[..., None], r - offset[..., None]
    positive = sigma > 0
    scale = torch.where(positive, sigma, 1) * math.sqrt(2)
    outside = r.abs() > own_radius
    if kind == "erf":  # of MONAI: a Gaussian's integral over each voxel, not normalised
        taps = (torch.erf((distance + 0.5) / scale) - torch.erf((distance - 0.5) / scale)) / 2
        taps = taps.masked_fill(outside, 0)
    elif kind == "scalespace":  # exp(−σ²)·I_r(σ²) = ∫ exp(σ²(cos ω − 1))·cos(rω) dω/π over 0 … π
        last = 2 * torch.asin((20**0.5 / sigma.detach()).clamp(max=1))  # exp(−40) is left there
        share = torch.linspace(0, 1, 2 * radius + 128, dtype=sigma.dtype, device=sigma.device)
        omega = (last * share)[..., None]
        response = (sigma[..., None].square() * (omega.cos() - 1)).exp()
        taps = torch.trapezoid(response * (omega * r).cos(), omega, dim=-2) / math.pi
        taps = taps.masked_fill(outside, 0)
    else:
        taps = (-(distance / scale).square()).masked_fill(outside, -math.inf).softmax(-1)
    return torch.where(positive, taps, (r == 0).to(taps))


def _extended(x: Tensor, radius: int, padding: str) -> Tensor:
    """x with `radius` more samples before and after its last axis."""
    if padding == "zeros":
        return F.pad(x, (radius, radius))
    size = x.shape[-1]
    index = torch.arange(-radius, size + radius, device=x.device)
    if padding == "reflect":
        return x[..., size - 1 - (size - 1 - index.abs()).abs()]
    return x[..., index % size]


def _spatial_gaussian(x: Tensor, taps: Tensor, padding: str) -> Tensor:
    """Σ_r taps[b, c, axis, r + R]·x[n + r] along one axis after the other."""
    radius = taps.shape[-1] // 2
    for axis, size in enumerate(x.shape[2:]):
        rows = _extended(x.movedim(axis + 2, -1), radius, padding)
        weights = taps[:, :, axis].unflatten(1, (-1, *[1] * (x.dim() - 2)))
        y = sum(weights[..., r] * rows.narrow(-1, r, size) for r in range(2 * radius + 1))
        x = y.movedim(-1, axis + 2)
    return x


def gaussian_filter(
    x: Tensor, sigma, mode: str = "low", padding: str = "circular", truncate: float | None = None,
    radius: int | None = None, taps: str = "sampled", offset=None, max_sigma: float | None = None,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """Filter by a Gaussian of standard deviation sigma, in voxels, over all axes of x (B, C, *S).

    sigma, offset: broadcastable to (B, C, axes); sigma 0 is the identity. "circular" with neither
    truncate nor radius multiplies the spectrum by exp(−2π²σ²f²), and offset shifts by exp(2πi·f·
    offset). Otherwise taps exp(−(r − offset)²/2σ²), |r| ≤ radius or, for each sigma by itself, |r|
    ≤ int(truncate·sigma + 0.5), at most that of max_sigma; "sampled" taps sum to 1; "scalespace"
    ones are exp(−σ²)·Iᵣ(σ²), with Bessel's I.

    >>> flat = torch.ones(1, 1, 8, 8)
    >>> torch.allclose(gaussian_filter(flat, sigma=1.5, padding="reflect", radius=3), flat)
    True
    """
    wide = _wide(x)
    shape = (*x.shape[:2], x.dim() - 2)
    sigma, offset = (
        torch.as_tensor(v, dtype=torch.float64, device=x.device).expand(shape)
        for v in (sigma, 0 if offset is None else offset)
    )
    if padding == "circular" and truncate is None and radius is None:
        low = _circular_gaussian(wide, sigma, offset)
    else:
        own_radius = radius
        if radius is None:
            own_radius = (truncate * sigma.detach()[..., None] + 0.5).floor()
            if max_sigma is not None:
                radius = int(truncate * max_sigma + 0.5)
            else:
                radius = int(own_radius.max()) if own_radius.numel() else 0
        weights = _gaussian_taps(sigma, offset, radius, own_radius, taps)
        low = _spatial_gaussian(wide, weights.to(wide.dtype), padding)
    if mode == "low":
        return low.to(x.dtype)
    high = (wide - low).to(x.dtype)
    return high if mode == "high" else (low.to(x.dtype), high)


def anchor_gate(
    cond: Tensor, feat: Tensor, sigma, conv_weight: Tensor, conv_bias: Tensor | None,
    radius: int = 2, offset=None,
) -> Tensor:  # fmt: skip
    """Return `sigmoid(conv(max(gaussian(cond), cond)))·feat + feat`, conv 1×1 to one channel (Wu et
    al., 2024, eq. 2–3): cond (B, Cc, *S), feat (B, C, *S) → (B, C, *S).

    sigma, offset: (Cc,), or broadcastable to (B, Cc, axes). conv_weight: (1, Cc), or with trailing
    axes of 1. The Gaussian has sampled taps and reflects at the borders.

    >>> cond, feat = torch.randn(1, 3, 8, 8), torch.randn(1, 5, 8, 8)
    >>> anchor_gate(cond, feat, sigma=1.0, conv_weight=torch.randn(1, 3), conv_bias=None).shape
    torch.Size([1, 5, 8, 8])
    """

    def per_channel(v):
        return v[:, None] if isinstance(v, Tensor) and v.dim() == 1 else v

    wide = _wide(cond)
    low = gaussian_filter(
        wide, per_channel(sigma), padding="reflect", radius=radius, offset=per_channel(offset)
    )
    gate = _pointwise(torch.maximum(low, wide), conv_weight.flatten(1))
    if conv_bias is not None:
        gate = gate + _per_channel(conv_bias, gate)
    return (_wide(feat) * (1 + torch.sigmoid(gate))).to(feat.dtype)
