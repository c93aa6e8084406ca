"""The diffusion scheme on stacks of FNO blocks at full resolution, without down-sampling and skips:
github.com/muhualiushui/FNO_torch, June 2025. Its author reports a lower Dice than for the U-shape
and for the plain FNO.

2-D or 3-D by `axes`. `two_sided=False, legacy_init=True` is the source: no negative frequencies,
and spectral weights whose real parts start around −1/width², not 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg.models.diffusion_unet import channel_dropout, check_axes, conv_blocks, convolution
from fastseg.models.parts.generic_ssl import TIME, GenericSSL
from fastseg.models.parts.heads import Head
from fastseg.nn import SpectralConv, TimeShift


def kept_modes(axes: int, modes: int, two_sided: bool = True) -> tuple[int, ...]:
    """Rows kept on each axis for `modes` non-negative frequencies, and as many negative ones."""
    return (2 * modes if two_sided else modes,) * (axes - 1) + (modes,)


class Block(nn.Module):
    """silu(spectral_conv(x + shift_in(temb)) + shift_out(temb) + W·x + b), x (B, width, *S)."""

    def __init__(self, axes: int, width: int, modes: int, two_sided: bool, legacy_init: bool):
        super().__init__()
        kept = kept_modes(axes, modes, two_sided)
        self.shift_in, self.shift_out = TimeShift(TIME, width), TimeShift(TIME, width)
        self.spectral = SpectralConv(width, width, kept, bias=False, two_sided=two_sided)
        self.skip = convolution(axes, width, width, 1)
        if legacy_init:
            scale = 1 / width**2
            nn.init.normal_(self.spectral.weight, std=2 * scale / 2**0.5)
            with torch.no_grad():
                self.spectral.weight[..., 0] -= scale

    def forward(self, x: Tensor, temb: Tensor | None) -> Tensor:
        spectral = self.shift_out(self.spectral(self.shift_in(x, temb)), temb)
        return F.silu(spectral + self.skip(x))


class Stack(nn.Module):
    """Features of one level (B, width, *S) → logits (B, classes, *S)."""

    def __init__(self, axes: int, width: int, classes: int, blocks: list[Block], dropout: float):
        super().__init__()
        self.lift = convolution(axes, width, width, 1)
        self.blocks = nn.ModuleList(blocks)
        self.dropout = channel_dropout(axes, dropout)
        self.project = convolution(axes, width, classes, 1)
        # the source allocates a time embedding of its own in every stack and never calls it
        self.time = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width))
        self.time.requires_grad_(False)

    def forward(self, features: list[Tensor], temb: Tensor | None) -> Tensor:
        x = self.lift(features[-1])
        for block in self.blocks:
            x = block(x, temb)
        return self.project(self.dropout(x))


class NoEncoder(nn.Module):
    """Level 0 is the only one."""

    def forward(self, x: Tensor, temb: Tensor | None) -> list[Tensor]:
        return [x]


class System(GenericSSL):
    """The FNO and diffusion hybrid with its losses and predictions.

    modes: non-negative frequencies kept on each axis; dropout: of channels, before the projection;
    head: "softmax" over classes or nested "regions"; options: those of `generic_ssl.Scheme`. Of any
    sizes; modes beyond a size's bins are clipped.
    """

    def __init__(
        self, in_channels: int, classes: int, *, axes: int = 2, width: int = 32, modes: int = 16,
        blocks: int = 3, two_sided: bool = True, legacy_init: bool = False, dropout: float = 0.5,
        head: str = "softmax", regions: Sequence[Sequence[int]] = (), **options,
    ):  # fmt: skip
        check_axes(axes)
        spectral, block = (axes, width, modes, two_sided, legacy_init), conv_blocks(axes)
        self.axes, kind = axes, Head(head, classes, regions)

        def stack(timed: bool) -> Stack:
            own = [Block(*spectral) for _ in range(blocks)]
            return Stack(axes, width, kind.outputs, own, dropout)

        super().__init__(
            in_channels, kind,
            make_block=lambda inputs: block(0, inputs, width, timed=True),
            encoder=NoEncoder(), make_decoder=stack, **options,
        )  # fmt: skip
