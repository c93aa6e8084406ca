"""Gaussian filters as modules, and the frequency guide of missing-modality synthesis."""

import math

import torch
from torch import Tensor, nn

from fastseg import ops
from fastseg.nn.parameters import reset_children


def kernel_sigma(kernel_size: int) -> float:
    """Return the standard deviation, in voxels, usual for a kernel of that many taps (OpenCV's
    rule).

    >>> kernel_sigma(21)
    3.5
    """
    return 0.3 * ((kernel_size - 1) / 2 - 1) + 0.8


class GaussianFilter(nn.Module):
    """Filter by a Gaussian: `fastseg.ops.gaussian_filter` with its options.

    x: (B, C, *S) → the same shape, or (low, high) in mode "both"; images of integers are filtered
    in float32. sigma, in voxels: a number, or a
    tensor broadcastable to (B, C, axes), kept as a buffer; `forward(x, sigma)` takes another one,
    for example one a sample.

    >>> low, high = GaussianFilter(2.0, mode="both")(torch.randn(1, 4, 16, 16))
    >>> low.shape
    torch.Size([1, 4, 16, 16])
    """

    def __init__(
        self, sigma: float | Tensor, *, mode: str = "low", padding: str = "circular",
        truncate: float | None = None, radius: int | None = None, taps: str = "sampled",
        max_sigma: float | None = None,
    ):  # fmt: skip
        super().__init__()
        if isinstance(sigma, Tensor):
            self._first_sigma = sigma.detach().clone()
            self.register_buffer("sigma", self._first_sigma.clone())
        else:
            self.sigma = float(sigma)  # known to the host: the width of its taps costs no wait
        self.options = {
            "mode": mode, "padding": padding, "truncate": truncate, "radius": radius, "taps": taps,
            "max_sigma": max_sigma,
        }  # fmt: skip

    def reset_parameters(self) -> None:
        """Set a tensor sigma as it was given."""
        if isinstance(self.sigma, Tensor):
            self.sigma.copy_(self._first_sigma)

    @classmethod
    def of_kernel_size(cls, kernel_size: int, **options) -> "GaussianFilter":
        """Return a filter with an odd number of taps and the sigma usual for it, reflecting at the
        borders.
        """
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: got {kernel_size}, want an odd one")
        options = {"padding": "reflect", "radius": kernel_size // 2} | options
        return cls(kernel_sigma(kernel_size), **options)

    def forward(self, x: Tensor, sigma: float | Tensor | None = None):
        if not (x.is_floating_point() or x.is_complex()):
            x = x.float()
        return ops.gaussian_filter(x, self.sigma if sigma is None else sigma, **self.options)

    def extra_repr(self) -> str:
        sigma = self.sigma if isinstance(self.sigma, float) else tuple(self.sigma.shape)
        given = {name: value for name, value in self.options.items() if value is not None}
        return ", ".join([f"sigma={sigma}", *(f"{k}={v!r}" for k, v in given.items())])


class FrequencyGuide(nn.Module):
    """Make the guide channel of coarse-to-fine missing-modality synthesis (Xiao et al., 2025): of
    each sample one available modality, low-pass filtered in the coarse stage of the diffusion,
    high-pass filtered in the fine one.

    `order` lists the image channels from the most to the least low-frequency content; the low-pass
    source is the first available one from its start, the high-pass source from its end. The default
    is T1 > T2 > FLAIR > T1ce for channels t1, t1ce, t2, flair. The filter has `kernel_size` taps an
    axis and reflects at the borders; the high-pass image is multiplied by `gain` and clipped to
    [−1, 1]. Steps t ≥ timesteps/2 are coarse; `stage` "low" or "high" keeps to one.

    Without parameters. Raises ValueError for an order that is no permutation or an unknown stage.

    >>> given = torch.tensor([[True, False, True, False]])
    >>> guide = FrequencyGuide(timesteps=200)
    >>> guide(torch.rand(1, 4, 24, 24), given, t=torch.tensor([150])).shape
    torch.Size([1, 1, 24, 24])
    """

    def __init__(
        self, order=(0, 2, 3, 1), *, timesteps: int = 200, kernel_size: int = 21, gain: float = 2.0,
        stage: str = "both",
    ):  # fmt: skip
        super().__init__()
        order = tuple(order)
        if sorted(order) != list(range(len(order))):
            raise ValueError(f"order: got {order}, want each channel index once")
        if stage not in ("both", "low", "high"):
            raise ValueError(f"stage: got {stage!r}, want 'both', 'low' or 'high'")
        self.order, self.timesteps, self.gain, self.stage = order, timesteps, gain, stage
        self.filter = GaussianFilter.of_kernel_size(kernel_size, mode="both")
        rank = torch.empty(len(order), dtype=torch.int64)
        self.register_buffer("rank", rank, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Write the rank of each channel, which no state dictionary holds."""
        channels = range(len(self.order))
        self.rank.copy_(torch.tensor([self.order.index(c) for c in channels], device="cpu"))

    def sources(self, available: Tensor) -> tuple[Tensor, Tensor]:
        """Return the channel indices (B,) of the low-pass and of the high-pass source; available:
        (B, M) bool.
        """
        count = self.rank.numel()
        low = torch.where(available, self.rank, count).argmin(1)
        return low, torch.where(available, self.rank, -1).argmax(1)

    def coarse(self, t: Tensor) -> Tensor:
        """Return (B,) bool, whether the guide is the low-pass one; t: (B,) steps, 0-based."""
        if self.stage != "both":
            return torch.full_like(t, self.stage == "low", dtype=torch.bool)
        return 2 * t >= self.timesteps

    def _filtered(self, images: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        source = source.view(-1, 1, 1, 1).expand(-1, 1, *images.shape[2:])
        low, high = self.filter(images.gather(1, source))
        return low, (high * self.gain).clamp(-1, 1)

    def pair(self, images: Tensor, available: Tensor) -> tuple[Tensor, Tensor]:
        """Return both guides, (B, 1, H, W) each: all that a sampler needs, once an image."""
        low_source, high_source = self.sources(available)
        some = available.any(1).view(-1, 1, 1, 1)
        low, _ = self._filtered(images, low_source)
        _, high = self._filtered(images, high_source)
        return low * some, high * some

    def forward(self, images: Tensor, available: Tensor, t: Tensor) -> Tensor:
        """Return the guide of images (B, M, H, W) in −1 … 1, available (B, M) bool, t (B,) integer
        → (B, 1, H, W); zero for a sample of which nothing is available.
        """
        coarse = self.coarse(t)
        low, high = self._filtered(images, torch.where(coarse, *self.sources(available)))
        guide = torch.where(coarse.view(-1, 1, 1, 1), low, high)
        return guide * available.any(1).view(-1, 1, 1, 1)


class MonaiGaussianFilter(nn.Module):
    """Stand in for `monai.networks.layers.GaussianFilter`, with its arguments and parameters: equal
    results on our kernels, zeros around the image.

    x: (B, C, *S) real, `spatial_dims` axes → the same shape. sigma: one number for all axes, or one
    an axis. approx: "erf", "sampled" (a Gaussian's values, not normalised to sum 1) or "scalespace"
    taps, int(max(truncated·sigma, 0.5) + 0.5) on each side. requires_grad: learn the sigmas.

    Parameters: kernel_sigma_0, … one an axis, scalars. Raises ValueError for another number of
    sigmas than of axes, truncated not above 0 and approx unknown.

    >>> MonaiGaussianFilter(2, sigma=1.5, approx="scalespace")(torch.randn(1, 3, 20, 16)).shape
    torch.Size([1, 3, 20, 16])
    """

    def __init__(
        self, spatial_dims: int, sigma, truncated: float = 4.0, approx: str = "erf",
        requires_grad: bool = False,
    ):  # fmt: skip
        super().__init__()
        many = isinstance(sigma, list | tuple) or (isinstance(sigma, Tensor) and sigma.dim() > 0)
        sigmas = list(sigma) if many else [sigma] * spatial_dims
        if len(sigmas) != spatial_dims:
            raise ValueError(f"sigma: got {len(sigmas)} numbers, want {spatial_dims}, one an axis")
        if truncated <= 0:
            raise ValueError(f"truncated: got {truncated}, want more than 0")
        if approx not in ("erf", "sampled", "scalespace"):
            raise ValueError(f"approx: got {approx!r}, want 'erf', 'sampled' or 'scalespace'")
        self.truncated, self.approx = truncated, approx
        self._first_sigmas = [
            s.detach().float() if isinstance(s, Tensor) else torch.tensor(float(s), device="cpu")
            for s in sigmas
        ]
        for axis, value in enumerate(self._first_sigmas):
            where = value.device if isinstance(sigmas[axis], Tensor) else None
            value = nn.Parameter(torch.empty(value.shape, device=where), requires_grad)
            self.register_parameter(f"kernel_sigma_{axis}", value)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the sigmas as they were given."""
        for parameter, value in zip(self.sigma, self._first_sigmas, strict=True):
            parameter.copy_(value)

    @property
    def sigma(self) -> list[nn.Parameter]:
        """The standard deviations, in voxels, one an axis."""
        return list(self.parameters())

    def forward(self, x: Tensor) -> Tensor:
        sigmas = self.sigma
        if x.dim() != len(sigmas) + 2:
            raise ValueError(f"x: got shape {tuple(x.shape)}, want (B, C, *S), {len(sigmas)} axes")
        reaches = [int(max(float(s) * self.truncated, 0.5) + 0.5) for s in sigmas]
        alike = len(set(reaches)) == 1
        for axes in [range(len(sigmas))] if alike else [[axis] for axis in range(len(sigmas))]:
            x = self._filtered(x, axes, reaches[axes[0]])
        return x

    def _filtered(self, x: Tensor, axes, reach: int) -> Tensor:
        """Along some of the axes, by so many taps on each side."""
        sigmas = self.sigma
        if sigmas[0].requires_grad:
            zero = torch.zeros_like(sigmas[0])
            sigma = torch.stack([s if i in axes else zero for i, s in enumerate(sigmas)])
        elif len(axes) == len(sigmas) and len(set(map(float, sigmas))) == 1:
            sigma = float(sigmas[0])  # taps that are kept for the next call
        else:
            sigma = torch.tensor([float(s) if i in axes else 0.0 for i, s in enumerate(sigmas)])
        options = {"padding": "zeros", "radius": reach, "taps": self.approx}
        y = ops.gaussian_filter(x, sigma, max_sigma=max(map(float, sigmas)), **options)
        if self.approx != "sampled":
            return y
        return y * self._sum(axes, reach).to(y)

    def _sum(self, axes, reach: int) -> Tensor:
        """What a Gaussian's values at the taps sum to, times over the axes."""
        r = torch.arange(-reach, reach + 1, device=self.sigma[0].device)
        sums = [
            torch.exp(-0.5 * (r / s).square()).sum() / (s * math.sqrt(2 * math.pi))
            for s in (self.sigma[axis] for axis in axes)
        ]
        return torch.stack(sums).prod()


class GaussianSmooth(nn.Module):
    """Stand in for `monai.transforms.GaussianSmooth`: filter one image by `MonaiGaussianFilter`,
    without parameters.

    image: a tensor (C, *S) of any real dtype → the same shape, float32. sigma: one number, or one
    an axis; approx: as there. Raises ValueError like it.

    >>> GaussianSmooth(sigma=2.0)(torch.rand(1, 20, 16, 12)).shape
    torch.Size([1, 20, 16, 12])
    """

    def __init__(self, sigma=1.0, approx: str = "erf"):
        super().__init__()
        self.sigma, self.approx = sigma, approx

    reset_parameters = reset_children

    def forward(self, image: Tensor) -> Tensor:
        layer = MonaiGaussianFilter(image.dim() - 1, self.sigma, approx=self.approx)
        return layer.to(image.device)(image.float().unsqueeze(0)).squeeze(0)
