"""The 3-D U-Net (Çiçek et al., MICCAI 2016), optionally with volumetric fast Fourier convolutions
in place of its coarsest convolutions, and a domain classifier there.

The baseline of github.com/DillanImans/brats_grl_vffc, which shares one batch norm between the two
convolutions of a decoder block, mixing their statistics; here each has its own. The count of
parameters is the same, since the transposed convolutions have no bias.
"""

import torch
from torch import Tensor, nn

from fastseg.models.parts.segmenter import Segmenter, check_sizes, fourier_bottleneck


def _convolutions(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two 3-wide convolutions, each with batch norm and ReLU."""
    layers = []
    for before, after in ((inputs, hidden), (hidden, outputs)):
        layers += [nn.Conv3d(before, after, 3, padding=1), nn.BatchNorm3d(after), nn.ReLU(True)]
    return nn.Sequential(*layers)


class System(Segmenter):
    """3-D U-Net of volumes (B, in_channels, D, H, W), sizes divisible by 2^(levels − 1).

    width: channels of the finest level, doubled at each of the others. vffc_blocks, vffc_ratio,
    vffc_norm: those of `segmenter.fourier_bottleneck`, which then follows a 1×1×1 convolution on
    the coarsest level; options: those of `Segmenter`. ValueError for values out of their range.

    Parameters: those of downs, bottom, ups, blocks, out and domain.
    """

    def __init__(
        self, in_channels: int, classes: int, *, width: int = 64, levels: int = 4,
        vffc_blocks: int = 0, vffc_ratio: float = 0.5, vffc_norm: str = "group", **options,
    ):  # fmt: skip
        if width < 2 or width % 2 or levels < 2:
            raise ValueError(
                f"width, levels: got {width}, {levels}, want an even width and at least 2 levels"
            )
        widths = [width * 2**level for level in range(levels)]
        super().__init__(classes, widths[-1], **options)
        self.multiple = 2 ** (levels - 1)
        inputs = [in_channels, *widths]
        self.downs = nn.ModuleList(
            _convolutions(before, after // 2, after)
            for before, after in zip(inputs[:-2], widths[:-1], strict=True)
        )
        finer, widest = widths[-2:]
        self.bottom = _convolutions(finer, widest // 2, widest)
        if vffc_blocks:
            fourier = fourier_bottleneck(widest, vffc_blocks, vffc_ratio, vffc_norm)
            self.bottom = nn.Sequential(nn.Conv3d(finer, widest, 1), fourier)
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        for finer in reversed(widths[:-1]):
            self.ups.append(nn.ConvTranspose3d(2 * finer, 2 * finer, 2, stride=2, bias=False))
            self.blocks.append(_convolutions(3 * finer, finer, finer))
        self.out = nn.Conv3d(width, self.head.outputs, 1)
        self.head.start_at(self.prior, self.out)

    def encode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        check_sizes(image, self.multiple)
        x, skips = image, []
        for down in self.downs:
            skips.append(self._run(down, x))
            x = nn.functional.max_pool3d(skips[-1], 2)
        return self._run(self.bottom, x), skips

    def decode(self, bottom: Tensor, skips: list[Tensor]) -> Tensor:
        x = bottom
        for up, block, skip in zip(self.ups, self.blocks, reversed(skips), strict=True):
            x = self._run(block, torch.cat([up(x), skip], 1))
        return self.out(x)
