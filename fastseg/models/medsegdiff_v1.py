"""MedSegDiff (Wu et al., MIDL 2024): a diffusion U-Net and a condition net that know each other.
The U-Net's features, through FF-Parsers, modulate the condition encoder, whose deepest feature is
added to the U-Net's own.

Differs from its repository in its faults. The convolution that matches channels there is made anew,
with random weights, in each forward pass: here it is trained. Its FF-Parsers fit images of 256
pixels: here any size, the gain being interpolated. The layer-normed product of the paper is written
there and never called: here it is `enhance`; without it the plain product is, at its first weights,
a thousandth of the features, and batch norm brings them back. As there, the condition net depends
on the step: nothing of it is known before sampling.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg.fields import documented
from fastseg.models.parts import medsegdiff
from fastseg.models.parts.condition_net import ConditionNet
from fastseg.models.parts.medsegdiff import MedSegDiff
from fastseg.models.system import Channels
from fastseg.nn import FFParser


class Highway(nn.Module):
    """What a diffusion feature does to a condition feature at the same level.

    x (B, channels, h, w), feature (B, inputs, h, w) → x's shape: with f = conv1×1(feature),
    norm(x)·norm(ff(f))·x where `enhance`, else x·ff(f)·mean(f). size: (h, w) that the FF-Parser's
    weights are for.
    """

    def __init__(self, inputs: int, channels: int, size: Sequence[int], enhance: bool):
        super().__init__()
        self.match, self.parser = nn.Conv2d(inputs, channels, 1), FFParser(channels, size)
        self.enhance = enhance

    def forward(self, x: Tensor, feature: Tensor) -> Tensor:
        feature = self.match(feature)
        passed = self.parser(feature)
        if self.enhance:
            return F.group_norm(x, 1) * F.group_norm(passed, 1) * x
        return x * passed * feature.mean((2, 3), keepdim=True)


@dataclass(frozen=True)
class Options(medsegdiff.Options):
    """Options of MedSegDiff."""

    size: tuple[int, ...] = documented(
        "H and W of the images whose spectra the FF-Parsers' weights are for; others are"
        " interpolated",
        (256, 256),
    )
    enhance: bool = documented("modulate by the layer-normed product, else a plain one", False)

    def check(self) -> None:
        """Raise UsageError for a size that the levels cannot halve."""
        super().check()
        multiple = 2 ** (len(self.multipliers) - 1)
        halved = len(self.size) == 2 and all(n > 0 and not n % multiple for n in self.size)
        self.want(halved, "size", f"two multiples of {multiple}")


class System(MedSegDiff):
    """The network with its losses and predictions, for any H and W divisible by
    2^(len(multipliers) − 1).
    """

    Options = Options

    def __init__(self, channels: Channels, options: Options):
        super().__init__(channels, options)
        levels, self.blocks = len(options.multipliers), options.blocks
        self.condition = ConditionNet(
            channels.images, self.head.outputs, width=options.condition_width, levels=levels,
            anchor_levels=1,
        )  # fmt: skip
        # between the finest level and the deepest: the source's four
        self.highways = nn.ModuleList(
            Highway(
                self.unet.widths[level - 1], self.condition.widths[level - 1],
                [n // 2**level for n in options.size], options.enhance,
            )
            for level in range(1, levels - 1)
        )  # fmt: skip
        self.embed = nn.Conv2d(self.condition.widths[-1], self.unet.widths[-1], 1)

    def known(self, image: Tensor) -> None:
        """Return nothing: what the condition net says depends on the step."""

    def denoise(self, image: Tensor, x_t: Tensor, t: Tensor, known: None) -> tuple[Tensor, Tensor]:
        """Return the U-Net's output for [image, x_t] (B, C + K, H, W) and t (B,), and the condition
        net's logits.
        """
        temb = self.unet.time(t)
        features = self.unet.encode(torch.cat([image, x_t], 1), temb)

        def change(level: int, x: Tensor) -> Tensor:
            if level > len(self.highways):
                return x
            # the feature of each strided convolution
            return self.highways[level - 1](x, features[level * (self.blocks + 1)])

        found = self.condition(image, change)
        output = self.unet.decode(features[-1] + self.embed(found.deepest), features, temb)
        return output, found.cal
