"""A spectral convolution whose modes grow in training (incremental Fourier neural operators)."""

import torch
from torch import Tensor

from fastseg import ops, reference
from fastseg.nn.spectral import SpectralConv, _clip_modes


class IncrementalSpectralConv(SpectralConv):
    """Convolve in the spectrum by few modes at first and more when these no longer explain what the
    layer does (iFNO, George et al., 2024, alg. 1).

    x, modes and the other arguments: as `SpectralConv`'s, modes being the most. start: those used
    at first, of each axis. `grow` adds a frequency an axis; `active` says what is used.

    Parameters: those of `SpectralConv`; buffer active_modes, float. Raises ValueError for a start
    that is no count an axis from 1 to modes.

    >>> layer = IncrementalSpectralConv(2, 2, modes=(8, 5), start=(2, 1))
    >>> layer(torch.randn(1, 2, 12, 10)).shape, layer.active
    (torch.Size([1, 2, 12, 10]), (2, 1))
    >>> layer.grow(threshold=1.1), layer.active
    (True, (4, 2))
    """

    def __init__(self, in_channels: int, out_channels: int, modes, *, start, **options):
        super().__init__(in_channels, out_channels, modes, **options)
        start = (start,) if isinstance(start, int) else tuple(start)
        fits = len(start) == len(self.modes) and all(
            1 <= few <= most for few, most in zip(start, self.modes, strict=True)
        )
        if not fits:
            raise ValueError(f"start: got {start}, want a count an axis, 1 to {self.modes}")
        self.register_buffer("active_modes", torch.zeros(len(start)))
        self.start = self.active = start

    def reset_parameters(self) -> None:
        """Draw the weight anew and use as many modes as at first."""
        super().reset_parameters()
        if hasattr(self, "start"):  # made after the weight
            self.active = self.start

    @property
    def active(self) -> tuple:
        """The modes that are used, of each axis; may be set."""
        return self._active

    @active.setter
    def active(self, modes) -> None:
        self._active = tuple(map(int, modes))
        self.active_modes.copy_(torch.tensor(self._active, device="cpu"))

    def _load_from_state_dict(self, *arguments):
        super()._load_from_state_dict(*arguments)
        self._active = tuple(map(int, self.active_modes.tolist()))

    def _used(self, weight: Tensor) -> Tensor:
        for axis, (few, most) in enumerate(zip(self.active, self.modes, strict=True)):
            if few < most:
                two_sided = self.two_sided and axis < len(self.modes) - 1
                rows = reference.kept_rows(few, most, two_sided)
                weight = weight.index_select(axis + 2, torch.tensor(rows, device=weight.device))
        return weight

    @torch.no_grad()
    def explained(self, buffer: int = 1) -> tuple[float, ...]:
        """Return, of each axis, the share of the used weights' squares at all frequencies but the
        `buffer` highest.
        """
        power, shares = self._used(self.weight).square().sum((0, 1, -1)), []
        for axis, count in enumerate(power.shape):
            signed = self.two_sided and axis < power.dim() - 1
            negative = count // 2 if signed else 0
            k = torch.cat([torch.arange(count - negative), torch.arange(-negative, 0)]).abs()
            others = tuple(a for a in range(power.dim()) if a != axis)
            along = power.sum(others) if others else power
            inside = (k <= int(k.max()) - buffer).to(along)
            shares.append(float((along * inside).sum() / along.sum().clamp(min=1e-30)))
        return tuple(shares)

    def grow(self, threshold: float = 0.999, buffer: int = 1) -> bool:
        """Use one more frequency, of both signs, on each axis whose lower ones explain less than
        `threshold`; tell whether any did. Call it now and then in training.
        """
        before, grown = self.active, []
        explained = self.explained(buffer)
        for axis, (few, most) in enumerate(zip(before, self.modes, strict=True)):
            more = 2 if self.two_sided and axis < len(before) - 1 else 1
            grown.append(min(few + more, most) if explained[axis] < threshold else few)
        self.active = grown
        return self.active != before

    def forward(self, x: Tensor, sizes=None) -> Tensor:
        sizes = tuple(x.shape[2:]) if sizes is None else tuple(sizes)
        grid = tuple(map(min, x.shape[2:], sizes))
        weight = _clip_modes(self._used(self.weight), grid, self.two_sided)
        return ops.spectral_conv(
            x, weight, self.bias, sizes, self.groups, self.norm, self.two_sided
        )
