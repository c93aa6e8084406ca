"""Learnt gains on the full spectrum, at any size, on `fastseg.ops.spectral_filter`."""

import torch
from torch import Tensor, nn

from fastseg import ops
from fastseg.nn.parameters import SpectralModule, draw_normal, reset_children


def frequencies(sizes, device=None) -> list[Tensor]:
    """Return |f| of the half spectrum's bins, 1 being the Nyquist frequency: one tensor an axis.

    >>> frequencies((4, 4))
    [tensor([0.0000, 0.5000, 1.0000, 0.5000]), tensor([0.0000, 0.5000, 1.0000])]
    """
    dtype = torch.get_default_dtype()
    *outer, last = (torch.arange(n, dtype=dtype, device=device) for n in sizes)
    *outer_sizes, size = sizes
    found = [torch.minimum(k, n - k) * (2 / n) for k, n in zip(outer, outer_sizes, strict=True)]
    return [*found, last[: size // 2 + 1] * (2 / size)]


class NBPFilter(nn.Module):
    """Pass bands of frequencies: the gain of each frequency and channel, 0 … 1, is learnt from the
    frequency's position and the diffusion step (MedSegDiff-V2, Wu et al., 2024).

    x: (B, channels, *S), S with `dims` axes of any size, and temb: (B, time_channels) or None → x's
    shape. |f| on each axis passes `layers` times through a 1×1 convolution, a layer norm, a scale
    and shift made from temb, and ReLU, then through a 1×1 convolution and a sigmoid. The gain is
    real: the filter shifts no phase.

    Parameters: layers.i.{conv,norm,time}.{weight,bias}, head.{weight,bias}; a 1×1 convolution is
    stored as a linear layer.

    >>> net = NBPFilter(4, time_channels=8)
    >>> net(torch.randn(1, 4, 10, 12), temb=torch.randn(1, 8)).shape
    torch.Size([1, 4, 10, 12])
    """

    def __init__(
        self, channels: int, *, time_channels: int = 512, dims: int = 2, hidden: int = 64,
        layers: int = 3,
    ):  # fmt: skip
        super().__init__()
        self.dims = dims
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "conv": nn.Linear(hidden if i else dims, hidden),
                    "norm": nn.LayerNorm(hidden),
                    "time": nn.Linear(time_channels, 2 * hidden),
                }
            )
            for i in range(layers)
        )
        self.head = nn.Linear(hidden, channels)

    reset_parameters = reset_children

    def gain(self, sizes, temb: Tensor | None = None) -> Tensor:
        """Return (B or 1, channels, *half spectrum of sizes), to multiply a spectrum with."""
        device = self.head.weight.device
        grid = torch.meshgrid(*frequencies(sizes, device), indexing="ij")
        h = torch.stack(grid, -1).to(self.head.weight.dtype)[None]
        for layer in self.layers:
            h = layer["norm"](layer["conv"](h))
            if temb is not None:
                film = layer["time"](temb).unflatten(1, (1,) * len(sizes) + (-1,))
                scale, shift = film.chunk(2, dim=-1)
                h = h * (1 + scale) + shift
            h = torch.relu(h)
        return torch.sigmoid(self.head(h)).movedim(-1, 1)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        if x.dim() != self.dims + 2:
            raise ValueError(
                f"x: got shape {tuple(x.shape)}, want (B, C, *S) with {self.dims} axes S"
            )
        return ops.spectral_filter(x, self.gain(x.shape[2:], temb))


def _resampled(gain: Tensor, dim: int, size: int, new_size: int, half: bool) -> Tensor:
    """The gain of one axis of `size` points, linearly interpolated at the frequencies, in cycles a
    voxel, of an axis of `new_size`; periodic, or kept within the stored bins of a half spectrum.
    """
    if size == new_size:
        return gain
    bins = gain.shape[dim]
    if half:
        k = torch.arange(new_size // 2 + 1, device=gain.device)
    else:
        k = torch.arange(new_size, device=gain.device)
        k = torch.where(2 * k < new_size, k, k - new_size)
    below = torch.div(k * size, new_size, rounding_mode="floor")
    share = ((k * size).remainder(new_size) / new_size).to(gain.dtype)
    low, high = (
        gain.index_select(dim, i.clamp(max=bins - 1) if half else i.remainder(size))
        for i in (below, below + 1)
    )
    return torch.lerp(low, high, share.view(-1, *[1] * (-dim - 1)))


class FFParser(SpectralModule):
    """Multiply the spectrum by a learnt complex gain for every frequency and channel (MedSegDiff,
    Wu et al., 2024, sec. 3.3; also the global filter of GFNet).

    x: (B, channels, *S) → the same shape. The weight is that of the grid `sizes`, (channels,
    *sizes[:-1], sizes[-1]//2+1, 2) real. On another grid the gain stays a function of frequency in
    cycles a voxel and is interpolated linearly between the stored ones.

    Parameters: complex_weight. `load_state_dict` also takes that of GFNet's `GlobalFilter` (Rao et
    al., 2021), (*sizes[:-1], sizes[-1]//2+1, channels, 2), wherever its shape tells it apart; that
    layer is this one on tokens (B, Π S, channels). Raises ValueError where x has another number of
    axes than sizes.

    >>> FFParser(3, sizes=(16, 16))(torch.randn(2, 3, 20, 12)).shape
    torch.Size([2, 3, 20, 12])
    """

    def __init__(self, channels: int, sizes):
        super().__init__()
        self.sizes = tuple(sizes)
        shape = (channels, *self.sizes[:-1], self.sizes[-1] // 2 + 1, 2)
        self.complex_weight = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight anew."""
        draw_normal(self.complex_weight, 0.02)

    def gain(self, sizes) -> Tensor:
        """Return (channels, *half spectrum of sizes), complex."""
        gain, axes = self.complex_weight, len(self.sizes)
        for axis, (size, new_size) in enumerate(zip(self.sizes, sizes, strict=True)):
            gain = _resampled(gain, axis - axes - 1, size, new_size, axis == axes - 1)
        # of complex numbers torch has those of float32 and float64
        gain = gain if gain.dtype == torch.float64 else gain.float()
        return torch.view_as_complex(gain.contiguous())

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        name, wanted = f"{prefix}complex_weight", self.complex_weight.shape
        given = state_dict.get(name)
        if given is not None and given.dim() == len(wanted) and given.shape != wanted:
            channels_first = given.movedim(-2, 0)
            if channels_first.shape == wanted:
                state_dict[name] = channels_first
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != len(self.sizes) + 2:
            raise ValueError(
                f"x: got shape {tuple(x.shape)}, want (B, C, *S) with {len(self.sizes)} axes S"
            )
        return ops.spectral_filter(x, self.gain(x.shape[2:]))
