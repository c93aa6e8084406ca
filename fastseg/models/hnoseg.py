"""HNOSeg-XS (Wong et al., TMI 2025): blocks of mixes in the truncated Hartley spectrum, which see
the whole volume, at half its resolution. Parameters have the names of
github.com/IBM/multimodal-3d-image-segmentation, whose checkpoints load.
"""

from dataclasses import dataclass
from typing import Any

from torch import Generator, Tensor, nn
from torch.nn import functional as F

from fastseg.fields import documented
from fastseg.losses import pearson
from fastseg.models import system
from fastseg.models.system import Channels
from fastseg.nn.fourier_unit import convolution
from fastseg.nn.hartley import HNOBlock, PointwiseSELU, self_normalising

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class Options(system.Options):
    """Options of HNOSeg-XS."""

    modes: tuple[int, ...] = documented(
        "frequencies kept on each axis, of both signs, at half the resolution", (20, 28, 28)
    )
    width: int = documented("channels of every layer", 24, least=1)
    blocks: int = documented("pairs of transforms", 8, least=1)
    mixes: int = documented("mixes of channels between a pair", 3, least=1)
    shared: bool = documented("one matrix for all frequencies of a mix", True)
    deep_supervision: bool = documented("the output is made of every block's map", False)

    def check(self) -> None:
        """Raise UsageError for other than 1 to 3 positive counts of modes."""
        super().check()
        counts = 1 <= len(self.modes) <= 3 and min(self.modes) >= 1
        self.want(counts, "modes", "1 to 3 counts, one an axis")


class _Entry(nn.Module):
    """A convolution over 2 voxels an axis with stride 2, and SELU."""

    def __init__(self, dims: int, inputs: int, outputs: int):
        super().__init__()
        self.op = convolution(dims, inputs, outputs, 2, stride=2, padding=1)
        self_normalising(self.op)

    def forward(self, x: Tensor) -> Tensor:
        return F.selu(self.op(x), inplace=True)


class System(system.System):
    """The network, x (B, C, *S) → logits (B, classes, *S), S of any size. Its loss is 1 − the mean
    of (ρ + 1)/2 over classes, ρ being Pearson's correlation of probabilities and truth.

    The maps of the first half of the blocks join the second half's, as in a U-Net.

    Parameters: conv_in.op, conv1.op, layers.i (`fastseg.nn.HNOBlock`) and conv_out.weight.
    """

    Options = Options

    def __init__(self, channels: Channels, options: Options):
        super().__init__(options)
        self.axes, width, count = len(options.modes), options.width, options.blocks
        self.conv_in = _Entry(self.axes, channels.images, width)
        self.conv1 = PointwiseSELU(width, width, dims=self.axes)
        how = {"mixes": options.mixes, "shared": options.shared}
        # the block in the middle has no partner, or itself made what it would be given
        self.layers = nn.ModuleList(
            HNOBlock((1 + (i > count // 2)) * width, width, options.modes, **how)
            for i in range(count)
        )
        inputs = (count + 1 if options.deep_supervision else 1) * width
        self.conv_out = convolution(self.axes, inputs, channels.classes, 1, bias=False)
        self_normalising(self.conv_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes, *S) of images (B, C, *S)."""
        sizes, count = x.shape[2:], len(self.layers)
        x = self.conv1(self.conv_in(x))
        skips, maps = [], [x]
        for i, block in enumerate(self.layers):
            x = block(x, skips.pop()) if i > count // 2 else block(x)
            if i < (count - 1) // 2:
                skips.append(x)
            if self.options.deep_supervision:
                maps.append(x)
            else:
                maps = [x]
        # linear in each channel and over channels: few of them are interpolated
        weights = self.conv_out.weight.split(self.options.width, 1)
        convolve = (F.conv1d, F.conv2d, F.conv3d)[self.axes - 1]
        logits = sum(convolve(y, weight) for y, weight in zip(maps, weights, strict=True))
        return F.interpolate(logits, size=sizes, mode=_LINEAR[self.axes])

    def training_loss(
        self, batch: dict[str, Any], generator: Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return `fastseg.losses.pearson` of the logits, and the mean correlation."""
        return pearson(self(batch["image"]), batch["label"])

    def predict(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        """Return the softmax of the logits, (B, classes, *S) float32; `generator` is not used."""
        return self(image).float().softmax(1)
