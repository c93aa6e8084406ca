"""The condition net of MedSegDiff: a U-shaped network of the clean image, in the manner of nnU-Net,
whose features tell a diffusion model where to look.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST_CHANNELS = 480
Change = Callable[[int, Tensor], Tensor]  # (level, features (B, C, h, w)) → the same shape


@dataclass(frozen=True)
class Condition:
    """What the condition net knows about images (B, C, H, W).

    cal: logits of its own segmentation (B, outputs, H, W); anchor: finest decoder features, all at
    full size (B, anchor_channels, H, W); deepest: the encoder's last feature (B, channels, h, w);
    factor: the anchor's gate (B, 1, H, W) where it is known already.
    """

    cal: Tensor
    anchor: Tensor
    deepest: Tensor
    factor: Tensor | None = None

    def rows(self, rows: Tensor) -> "Condition":
        """Keep the images rows (b,) alone, which may repeat."""
        found = {name: value[rows] for name, value in vars(self).items() if value is not None}
        return replace(self, **found)


class ConditionNet(nn.Module):
    """Images (B, in_channels, H, W) → `Condition`. Level i has width·2^i channels, at most 480, two
    convolutions with batch norm and leaky ReLU, max pooling before it and bilinear growth after it.

    anchor_levels: how many of the finest decoder levels the anchor holds. H and W must be divisible
    by 2^(levels − 1), else ValueError.
    """

    def __init__(
        self, in_channels: int, outputs: int, *, width: int = 32, levels: int = 6,
        anchor_levels: int = 2,
    ):  # fmt: skip
        super().__init__()
        self.widths = [min(width * 2**i, MOST_CHANNELS) for i in range(levels)]
        self.anchor_levels, self.anchor_channels = anchor_levels, sum(self.widths[:anchor_levels])
        before = [in_channels, *self.widths]
        self.encoder = nn.ModuleList(map(_stage, before, self.widths))
        coarser = zip(self.widths[1:], self.widths[:-1], strict=True)
        self.decoder = nn.ModuleList(_stage(below + w, w) for below, w in coarser)
        self.cal = nn.Conv2d(self.widths[0], outputs, 1)

    def forward(self, image: Tensor, change: Change | None = None) -> Condition:
        """Look at images; `change(level, x)` replaces what enters the convolutions from level 1."""
        multiple = 2 ** (len(self.widths) - 1)
        if any(n % multiple or not n for n in image.shape[2:]):
            sizes = tuple(image.shape[2:])
            raise ValueError(f"image: has sizes {sizes}, wanted two multiples of {multiple}")
        features = [self.encoder[0](image)]
        for level, stage in enumerate(self.encoder[1:], 1):
            x = F.max_pool2d(features[-1], 2)
            features.append(stage(x if change is None else change(level, x)))
        x, grown = features[-1], []
        for stage, skip in zip(reversed(self.decoder), reversed(features[:-1]), strict=True):
            x = stage(torch.cat([_resized(x, skip.shape[2:]), skip], 1))
            grown.insert(0, x)
        anchor = [_resized(x, image.shape[2:]) for x in grown[: self.anchor_levels]]
        return Condition(self.cal(grown[0]), torch.cat(anchor, 1), features[-1])


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    layers = []
    for channels in (inputs, outputs):
        conv = nn.Conv2d(channels, outputs, 3, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.01, inplace=True)]
    return nn.Sequential(*layers)


def _resized(x: Tensor, sizes: Sequence[int]) -> Tensor:
    if x.shape[2:] == sizes:
        return x
    return F.interpolate(x, tuple(sizes), mode="bilinear", align_corners=False)
