"""SegResNet (Myronenko, BrainLes 2018; MONAI's, without the autoencoder branch), with volumetric
fast Fourier convolutions between encoder and decoder and a domain classifier there as options.
"""

from dataclasses import dataclass

from torch import Tensor

from fastseg.fields import documented, inherited
from fastseg.models.parts import segmenter
from fastseg.models.parts.segmenter import Segmenter, check_sizes, fourier_bottleneck
from fastseg.models.system import Channels

GROUPS = 8


@dataclass(frozen=True)
class Options(segmenter.Options):
    """Options of SegResNet."""

    width: int = documented("channels of the finest level, doubled at each of the others", 32)
    blocks_down: tuple[int, ...] = documented("residual blocks of each level, down", (1, 2, 2, 4))
    blocks_up: tuple[int, ...] = documented("residual blocks of each level, up", (1, 1, 1))
    dropout: float = documented("dropout of channels after the first convolution", 0.2, least=0)

    def check(self) -> None:
        """Raise UsageError for widths and levels that do not go together."""
        super().check()
        self.want(self.width > 0 and not self.width % GROUPS, "width", f"a multiple of {GROUPS}")
        self.want(min(self.blocks_down, default=0) > 0, "blocks_down", "a positive count a level")
        up = len(self.blocks_down) - 1
        matching = len(self.blocks_up) == up and min(self.blocks_up, default=1) > 0
        self.want(matching, "blocks_up", f"{up} positive counts, one fewer than blocks_down")
        self.want(self.dropout <= 1, "dropout", "0 to 1")


class System(Segmenter):
    """SegResNet of volumes (B, in_channels, D, H, W), sizes divisible by 2^(levels − 1).

    Parameters: those of net (MONAI's names), bottleneck and domain.
    """

    Options = Options

    def __init__(self, channels: Channels, options: Options):
        from monai.networks.nets import SegResNet  # takes seconds

        multiple = 2 ** len(options.blocks_up)
        super().__init__(channels, options, options.width * multiple)
        self.multiple = multiple
        self.net = SegResNet(
            spatial_dims=3, init_filters=options.width, in_channels=channels.images,
            out_channels=self.head.outputs, dropout_prob=options.dropout,
            blocks_down=tuple(options.blocks_down), blocks_up=tuple(options.blocks_up),
        )  # fmt: skip
        self.head.start_at(options.prior, self.net.conv_final[-1].conv)
        self.bottleneck = fourier_bottleneck(options.width * multiple, options)

    def encode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the coarsest map and the skips, finest first."""
        check_sizes(image, self.multiple)
        x, skips = self.net.dropout(self.net.convInit(image)), []
        for down in self.net.down_layers:
            x = self._run(down, x)
            skips.append(x)
        return self._run(self.bottleneck, x), skips[:-1]

    def decode(self, bottom: Tensor, skips: list[Tensor]) -> Tensor:
        """Return logits (B, outputs, *S)."""
        x = bottom
        pairs = zip(self.net.up_samples, self.net.up_layers, reversed(skips), strict=True)
        for up, blocks, skip in pairs:
            x = self._run(blocks, up(x) + skip)
        return self._run(self.net.conv_final, x)


@dataclass(frozen=True)
class FourierOptions(Options):
    """Options of SegResNet with a Fourier bottleneck."""

    vffc_blocks: int = inherited(Options, "vffc_blocks", 3)

    def check(self) -> None:
        """Raise UsageError for no blocks."""
        super().check()
        self.want(self.vffc_blocks > 0, "vffc_blocks", "at least 1; system segresnet has none")


class FourierSystem(System):
    """SegResNet with the bottleneck of DillanImans/brats_grl_vffc: three VFFC blocks by default,
    half of their channels global.
    """

    Options = FourierOptions
