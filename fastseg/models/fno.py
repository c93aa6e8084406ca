"""The FNO segmentation baseline: lift, one stack of FNO blocks per class (or one shared trunk),
shared projection.

Architecture of github.com/muhualiushui/FNO_torch, with its two errors corrected by default: both
signs of every axis but the last are kept, and spectral weights start with zero mean.
`two_sided=False` keeps only non-negative rows, as that code does. 2-D or 3-D by len(modes).
"""

import torch
from torch import Tensor, nn

from fastseg.losses import dice_ce
from fastseg.nn import FNOBlock


def _pointwise(in_channels: int, out_channels: int, axes: int) -> nn.Module:
    return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1](in_channels, out_channels, 1)


class FNO(nn.Module):
    """x: (B, in_channels, *S) → logits (B, classes, *S).

    branches="per_class": one stack of blocks a class, run as one grouped stack; "shared": one trunk
    and a projection to all classes.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        modes=(20, 10),
        width: int = 16,
        blocks: int = 3,
        branches: str = "per_class",
        two_sided: bool = True,
    ):
        super().__init__()
        if branches not in ("per_class", "shared"):
            raise ValueError(f"branches: got {branches!r}, want 'per_class' or 'shared'")
        if not 1 <= len(modes) <= 3:
            raise ValueError(f"modes: got {modes}, want 1 to 3 counts")
        self.axes = len(modes)
        self.branches = classes if branches == "per_class" else 1
        self.lift = _pointwise(in_channels, width, len(modes))
        channels = width * self.branches
        self.blocks = nn.Sequential(
            *(
                FNOBlock(channels, channels, modes, groups=self.branches, two_sided=two_sided)
                for _ in range(blocks)
            )
        )
        self.project = _pointwise(width, classes // self.branches, len(modes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        x = self.blocks(x.repeat(1, self.branches, *[1] * (x.dim() - 2)))
        # the projection is shared by the branches: they ride in the batch
        return self.project(x.unflatten(1, (self.branches, -1)).flatten(0, 1)).view(
            -1, self.branches * self.project.out_channels, *x.shape[2:]
        )


class System(FNO):
    """The network with its loss, Dice + 0.5·cross-entropy over all classes, background included,
    and its prediction, a softmax.
    """

    def training_loss(
        self, batch: dict, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return dice_ce(self(batch["image"]), batch["label"], ce_weight=0.5)

    def predict(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self(image).float().softmax(1)
