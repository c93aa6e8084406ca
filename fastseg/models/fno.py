"""The FNO segmentation baseline: lift, one stack of FNO blocks per class (or one shared trunk),
shared projection.

Architecture of github.com/muhualiushui/FNO_torch, with its two errors corrected by default: both
signs of every axis but the last are kept, and spectral weights start with zero mean.
`two_sided=False` keeps only non-negative rows, as that code does. 2-D or 3-D by len(modes).
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Generator, Tensor, nn

from fastseg.fields import documented
from fastseg.losses import dice_ce
from fastseg.models import system
from fastseg.models.parts.layers import pointwise
from fastseg.models.system import Channels
from fastseg.nn import FNOBlock


@dataclass(frozen=True)
class Options(system.Options):
    """Options of the FNO baseline."""

    modes: tuple[int, ...] = documented(
        "frequencies kept on each axis; of both signs, but for the last axis", (20, 10)
    )
    width: int = documented("channels of a stack", 16, least=1)
    blocks: int = documented("FNO blocks of a stack", 3, least=1)
    branches: Literal["per_class", "shared"] = documented(
        "a stack for each class, or one trunk and a projection to all", "per_class"
    )
    two_sided: bool = documented("keep negative frequencies too", True)

    def check(self) -> None:
        """Raise UsageError for other than 1 to 3 positive counts of modes."""
        super().check()
        counts = 1 <= len(self.modes) <= 3 and min(self.modes) >= 1
        self.want(counts, "modes", "1 to 3 counts, one an axis")


class System(system.System):
    """The network, x (B, C, *S) → logits (B, classes, *S), with Dice + 0.5·cross-entropy over all
    classes, background included, as its loss. The stacks run as one grouped stack.
    """

    Options = Options

    def __init__(self, channels: Channels, options: Options):
        super().__init__(options)
        self.axes = len(options.modes)
        self.branches = channels.classes if options.branches == "per_class" else 1
        self.lift = pointwise(self.axes, channels.images, options.width)
        width = options.width * self.branches
        stack = {"groups": self.branches, "two_sided": options.two_sided}
        self.blocks = nn.Sequential(
            *(FNOBlock(width, width, options.modes, **stack) for _ in range(options.blocks))
        )
        self.project = pointwise(self.axes, options.width, channels.classes // self.branches)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes, *S) of images (B, C, *S)."""
        x = self.lift(x)
        x = self.blocks(x.repeat(1, self.branches, *[1] * (x.dim() - 2)))
        # the projection is shared by the branches: they ride in the batch
        return self.project(x.unflatten(1, (self.branches, -1)).flatten(0, 1)).view(
            -1, self.branches * self.project.out_channels, *x.shape[2:]
        )

    def training_loss(
        self, batch: dict[str, Any], generator: Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return Dice + 0.5·cross-entropy, and the two."""
        return dice_ce(self(batch["image"]), batch["label"], ce_weight=0.5)

    def predict(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        """Return the softmax of the logits, (B, classes, *S) float32; `generator` is not used."""
        return self(image).float().softmax(1)
