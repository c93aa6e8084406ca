"""SegResNet (Myronenko, BrainLes 2018; MONAI's, without the autoencoder branch), with volumetric
fast Fourier convolutions between encoder and decoder and a domain classifier there as options.
"""

from collections.abc import Sequence

from monai.networks.nets import SegResNet
from torch import Tensor

from fastseg.models.parts.segmenter import Segmenter, check_sizes, fourier_bottleneck

GROUPS = 8


class System(Segmenter):
    """SegResNet of volumes (B, in_channels, D, H, W), sizes divisible by 2^(levels − 1).

    width: channels of the finest level, a multiple of 8, doubled at each of the others; blocks_down
    and blocks_up: residual blocks of each level; dropout: of whole channels after the first
    convolution. vffc_blocks, vffc_ratio, vffc_norm: those of `segmenter.fourier_bottleneck`;
    options: those of `Segmenter`. ValueError for values out of their range.

    Parameters: those of net (MONAI's names), bottleneck and domain.
    """

    def __init__(
        self, in_channels: int, classes: int, *, width: int = 32,
        blocks_down: Sequence[int] = (1, 2, 2, 4), blocks_up: Sequence[int] = (1, 1, 1),
        dropout: float = 0.2, vffc_blocks: int = 0, vffc_ratio: float = 0.5,
        vffc_norm: str = "group", **options,
    ):  # fmt: skip
        if width < 1 or width % GROUPS:
            raise ValueError(f"width: got {width}, want a multiple of {GROUPS}")
        if len(blocks_down) != len(blocks_up) + 1:
            raise ValueError(
                f"blocks_up: got {len(blocks_up)} levels, want one less than blocks_down's "
                f"{len(blocks_down)}"
            )
        multiple = 2 ** len(blocks_up)
        super().__init__(classes, width * multiple, **options)
        self.multiple = multiple
        self.net = SegResNet(
            spatial_dims=3, init_filters=width, in_channels=in_channels,
            out_channels=self.head.outputs, dropout_prob=dropout, blocks_down=tuple(blocks_down),
            blocks_up=tuple(blocks_up),
        )  # fmt: skip
        self.head.start_at(self.prior, self.net.conv_final[-1].conv)
        channels = width * self.multiple
        self.bottleneck = fourier_bottleneck(channels, vffc_blocks, vffc_ratio, vffc_norm)

    def encode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        check_sizes(image, self.multiple)
        x, skips = self.net.dropout(self.net.convInit(image)), []
        for down in self.net.down_layers:
            x = self._run(down, x)
            skips.append(x)
        return self._run(self.bottleneck, x), skips[:-1]

    def decode(self, bottom: Tensor, skips: list[Tensor]) -> Tensor:
        x = bottom
        pairs = zip(self.net.up_samples, self.net.up_layers, reversed(skips), strict=True)
        for up, blocks, skip in pairs:
            x = self._run(blocks, up(x) + skip)
        return self._run(self.net.conv_final, x)
