"""The diffusion U-shape: a V-shaped network of strided convolutions with added skips, its encoder
shared by a denoiser of label maps and two segmentation decoders (DiffVNet of GenericSSL: Wang & Li,
NeurIPS 2023).

2-D or 3-D by `axes`. Differs from the source where that is wrong: label maps are sampled from
probabilities, 2·softmax − 1, not from clamped logits, and pseudo-labels are made in evaluation
mode. Time projections that no output depends on are allocated, as there, and frozen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastseg.fields import documented
from fastseg.models.parts import generic_ssl
from fastseg.models.parts.generic_ssl import TIME, GenericSSL
from fastseg.models.parts.heads import Head
from fastseg.models.parts.joint import Joint, convolved
from fastseg.models.system import Channels
from fastseg.nn.time import TimeShift

CONVOLUTIONS = (1, 2, 3, 3, 3)  # of the block of each level, finest first
UNIT_DROPOUT, DROPOUT = 0.1, 0.5

_BY_AXES = {
    2: (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.Dropout2d),
    3: (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.Dropout3d),
}


def convolution(axes: int, inputs: int, outputs: int, kernel: int, **options) -> nn.Module:
    """Make a convolution over 2 or 3 axes; `options` are torch's."""
    return _BY_AXES[axes][0](inputs, outputs, kernel, **options)


def channel_dropout(axes: int, p: float) -> nn.Module:
    """Make a dropout of whole channels, each with probability p."""
    return _BY_AXES[axes][3](p)


class Unit(nn.Module):
    """Convolution, ReLU, then batch norm, channel dropout and the time shift.

    Parameters: those of conv, norm and, where `timed`, shift.
    """

    def __init__(self, axes: int, conv: nn.Module, *, timed: bool, dropout: float = 0.0):
        super().__init__()
        self.conv = conv
        self.norm = _BY_AXES[axes][2](conv.out_channels)
        self.dropout = channel_dropout(axes, dropout)
        self.shift = TimeShift(TIME, conv.out_channels) if timed else None

    def forward(self, x: Tensor | Joint, temb: Tensor | None) -> Tensor:
        x = self.dropout(self.norm(torch.relu(convolved(self.conv, x))))
        return x if self.shift is None else self.shift(x, temb)


class ConvBlock(nn.Module):
    """`count` units of 3-wide convolutions; the last one knows no time."""

    def __init__(self, axes: int, inputs: int, outputs: int, count: int, *, timed: bool):
        super().__init__()
        convs = [
            convolution(axes, inputs if i == 0 else outputs, outputs, 3, padding=1)
            for i in range(count)
        ]
        units = [Unit(axes, conv, timed=timed, dropout=UNIT_DROPOUT) for conv in convs]
        self.units = nn.ModuleList(units)
        if timed:
            self.units[-1].shift.requires_grad_(False)

    def forward(self, x: Tensor | Joint, temb: Tensor | None) -> Tensor:
        for unit in self.units[:-1]:
            x = unit(x, temb)
        return self.units[-1](x, None)


Block = Callable[..., nn.Module]  # (level, inputs, outputs, *, timed) → module (x, temb) → y


def conv_blocks(axes: int) -> Block:
    """Return what makes the blocks of the diffusion U-shape."""

    def block(level: int, inputs: int, outputs: int, *, timed: bool) -> nn.Module:
        return ConvBlock(axes, inputs, outputs, CONVOLUTIONS[level], timed=timed)

    return block


class Encoder(nn.Module):
    """Features of level 0 (B, widths[0], *S) → those of all levels, halved in size at each.

    Raises ValueError where a size is not divisible by `multiple`, 2^(levels − 1).
    """

    def __init__(self, axes: int, widths: Sequence[int], block: Block):
        super().__init__()
        conv = _BY_AXES[axes][0]
        self.axes, self.multiple = axes, 2 ** (len(widths) - 1)
        self.downs, self.blocks = nn.ModuleList(), nn.ModuleList()
        for level in range(1, len(widths)):
            finer, width = widths[level - 1], widths[level]
            self.downs.append(Unit(axes, conv(finer, width, 2, stride=2), timed=True))
            self.blocks.append(block(level, width, width, timed=True))
        self.dropout = channel_dropout(axes, DROPOUT)

    def forward(self, x: Tensor, temb: Tensor | None) -> list[Tensor]:
        sizes = tuple(x.shape[2:])
        if len(sizes) != self.axes or any(n % self.multiple or not n for n in sizes):
            raise ValueError(
                f"image: has sizes {sizes}, wanted {self.axes} multiples of {self.multiple}"
            )
        features = [x]
        for down, block in zip(self.downs, self.blocks, strict=True):
            features.append(block(down(features[-1], temb), temb))
        features[-1] = self.dropout(features[-1])
        return features


class Decoder(nn.Module):
    """Features of all levels → logits (B, classes, *S); skips are added."""

    def __init__(self, axes: int, widths: Sequence[int], classes: int, block: Block, timed: bool):
        super().__init__()
        conv = _BY_AXES[axes][1]
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths) - 1)):
            coarser, width = widths[level + 1], widths[level]
            self.ups.append(Unit(axes, conv(coarser, width, 2, stride=2), timed=timed))
            self.blocks.append(block(level, width, width, timed=timed))
        self.dropout = channel_dropout(axes, DROPOUT)
        self.out = convolution(axes, widths[0], classes, 1)

    def forward(self, features: list[Tensor], temb: Tensor | None) -> Tensor:
        x = features[-1]
        skips = reversed(features[:-1])
        for up, block, skip in zip(self.ups, self.blocks, skips, strict=True):
            x = block(up(x, temb) + skip, temb)
        return self.out(self.dropout(x))


def level_widths(width: float) -> list[int]:
    """Return the channels of each level, finest first: doubled from one to the next.

    >>> level_widths(32)
    [32, 64, 128, 256, 512]
    """
    return [round(width * 2**level) for level in range(len(CONVOLUTIONS))]


@dataclass(frozen=True)
class Options(generic_ssl.Options):
    """Options of the diffusion U-shape."""

    width: int | float = documented(
        "channels of the finest level, doubled at each of the others", 32, least=1
    )


class System(GenericSSL):
    """The diffusion U-shape with its losses and predictions. Sizes must be divisible by 16."""

    Options = Options

    def __init__(self, channels: Channels, options: Options, block: Block | None = None):
        axes, widths = options.axes, level_widths(options.width)
        block = block or conv_blocks(axes)
        head = Head(options.head, channels.classes, channels.regions)
        super().__init__(
            channels, options, head,
            make_block=lambda inputs: block(0, inputs, widths[0], timed=True),
            encoder=Encoder(axes, widths, block),
            make_decoder=lambda timed: Decoder(axes, widths, head.outputs, block, timed),
        )  # fmt: skip
