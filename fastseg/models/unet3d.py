"""The 3-D U-Net (Çiçek et al., MICCAI 2016), optionally with volumetric fast Fourier convolutions
in place of its coarsest convolutions, and a domain classifier there.

The baseline of github.com/DillanImans/brats_grl_vffc, which shares one batch norm between the two
convolutions of a decoder block, mixing their statistics; here each has its own. The count of
parameters is the same, since the transposed convolutions have no bias.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastseg.fields import documented
from fastseg.models.parts import segmenter
from fastseg.models.parts.segmenter import Segmenter, check_sizes, fourier_bottleneck
from fastseg.models.system import Channels


def _convolutions(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Make two 3-wide convolutions, each with batch norm and ReLU."""
    layers = []
    for before, after in ((inputs, hidden), (hidden, outputs)):
        layers += [nn.Conv3d(before, after, 3, padding=1), nn.BatchNorm3d(after), nn.ReLU(True)]
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Options(segmenter.Options):
    """Options of the 3-D U-Net. With vffc_blocks they follow a 1×1×1 convolution on the coarsest
    level, in place of its two.
    """

    width: int = documented("channels of the finest level, doubled at each of the others", 64)
    levels: int = documented("levels, the coarsest included", 4, least=2)

    def check(self) -> None:
        """Raise UsageError for an odd width."""
        super().check()
        self.want(self.width > 0 and not self.width % 2, "width", "an even count")


class System(Segmenter):
    """3-D U-Net of volumes (B, in_channels, D, H, W), sizes divisible by 2^(levels − 1).

    Parameters: those of downs, bottom, ups, blocks, out and domain.
    """

    Options = Options

    def __init__(self, channels: Channels, options: Options):
        widths = [options.width * 2**level for level in range(options.levels)]
        super().__init__(channels, options, widths[-1])
        self.multiple = 2 ** (options.levels - 1)
        inputs = [channels.images, *widths]
        self.downs = nn.ModuleList(
            _convolutions(before, after // 2, after)
            for before, after in zip(inputs[:-2], widths[:-1], strict=True)
        )
        finer, widest = widths[-2:]
        self.bottom = _convolutions(finer, widest // 2, widest)
        if options.vffc_blocks:
            fourier = fourier_bottleneck(widest, options)
            self.bottom = nn.Sequential(nn.Conv3d(finer, widest, 1), fourier)
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        for finer in reversed(widths[:-1]):
            self.ups.append(nn.ConvTranspose3d(2 * finer, 2 * finer, 2, stride=2, bias=False))
            self.blocks.append(_convolutions(3 * finer, finer, finer))
        self.out = nn.Conv3d(options.width, self.head.outputs, 1)
        self.head.start_at(options.prior, self.out)

    def encode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the coarsest map and the skips, finest first."""
        check_sizes(image, self.multiple)
        x, skips = image, []
        for down in self.downs:
            skips.append(self._run(down, x))
            x = nn.functional.max_pool3d(skips[-1], 2)
        return self._run(self.bottom, x), skips

    def decode(self, bottom: Tensor, skips: list[Tensor]) -> Tensor:
        """Return logits (B, outputs, *S)."""
        x = bottom
        for up, block, skip in zip(self.ups, self.blocks, reversed(skips), strict=True):
            x = self._run(block, torch.cat([up(x), skip], 1))
        return self.out(x)
