"""The diffusion scheme on stacks of FNO blocks at full resolution, without down-sampling and skips:
github.com/muhualiushui/FNO_torch, June 2025. Its author reports a lower Dice than for the U-shape
and for the plain FNO.

2-D or 3-D by `axes`. `two_sided=False, legacy_init=True` is the source: no negative frequencies,
and spectral weights whose real parts start around −1/width², not 0.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg.fields import documented
from fastseg.models.diffusion_unet import channel_dropout, conv_blocks, convolution
from fastseg.models.parts import generic_ssl
from fastseg.models.parts.generic_ssl import TIME, GenericSSL
from fastseg.models.parts.heads import Head
from fastseg.models.system import Channels
from fastseg.nn import SpectralConv, TimeShift


def kept_modes(axes: int, modes: int, two_sided: bool = True) -> tuple[int, ...]:
    """Return the rows kept on each axis for `modes` frequencies: as many negative ones too, but for
    the last axis, where `two_sided`.

    >>> kept_modes(2, 16)
    (32, 16)
    """
    return (2 * modes if two_sided else modes,) * (axes - 1) + (modes,)


class Block(nn.Module):
    """silu(spectral_conv(x + shift_in(temb)) + shift_out(temb) + W·x + b), x (B, width, *S)."""

    def __init__(self, options: "Options"):
        super().__init__()
        width, both = options.width, options.two_sided
        kept = kept_modes(options.axes, options.modes, both)
        self.shift_in, self.shift_out = TimeShift(TIME, width), TimeShift(TIME, width)
        self.spectral = SpectralConv(width, width, kept, bias=False, two_sided=both)
        self.skip = convolution(options.axes, width, width, 1)
        if options.legacy_init:
            scale = 1 / width**2
            nn.init.normal_(self.spectral.weight, std=2 * scale / 2**0.5)
            with torch.no_grad():
                self.spectral.weight[..., 0] -= scale

    def forward(self, x: Tensor, temb: Tensor | None) -> Tensor:
        spectral = self.shift_out(self.spectral(self.shift_in(x, temb)), temb)
        return F.silu(spectral + self.skip(x))


class Stack(nn.Module):
    """Features of one level (B, width, *S) → logits (B, classes, *S)."""

    def __init__(self, options: "Options", classes: int):
        super().__init__()
        axes, width = options.axes, options.width
        blocks = [Block(options) for _ in range(options.blocks)]
        self.lift = convolution(axes, width, width, 1)
        self.blocks = nn.ModuleList(blocks)
        self.dropout = channel_dropout(axes, options.dropout)
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

    multiple = 1

    def forward(self, x: Tensor, temb: Tensor | None) -> list[Tensor]:
        return [x]


@dataclass(frozen=True)
class Options(generic_ssl.Options):
    """Options of the FNO and diffusion hybrid."""

    width: int = documented("channels of all blocks", 32, least=1)
    modes: int = documented("non-negative frequencies kept on each axis", 16, least=1)
    blocks: int = documented("spectral blocks of a stack", 3, least=1)
    two_sided: bool = documented("keep negative frequencies too", True)
    legacy_init: bool = documented("spectral weights whose mean is not zero", False)
    dropout: float = documented("dropout of channels before the projection", 0.5, least=0)

    def check(self) -> None:
        """Raise UsageError for a dropout above 1."""
        super().check()
        self.want(self.dropout <= 1, "dropout", "0 to 1")


class System(GenericSSL):
    """The FNO and diffusion hybrid with its losses and predictions. Takes any sizes; modes beyond
    a size's bins are clipped.
    """

    Options = Options

    def __init__(self, channels: Channels, options: Options):
        head = Head(options.head, channels.classes, channels.regions)
        block = conv_blocks(options.axes)
        super().__init__(
            channels, options, head,
            make_block=lambda inputs: block(0, inputs, options.width, timed=True),
            encoder=NoEncoder(), make_decoder=lambda timed: Stack(options, head.outputs),
        )  # fmt: skip
