"""MedSegDiff-V2 (Wu et al., AAAI 2024): a diffusion U-Net whose first feature is gated by the
condition net's blurred anchor (U-SA), and whose deepest one meets the condition net's in Fourier
space (SS-Former with the neural band-pass filter).

Built from the paper: its published repository has no Gaussian, gate, transformer or filter. Without
anchor and transformer there is no condition net, and the image reaches the U-Net by its input
alone. The anchor is detached: noise does not train what the anchor loss trains. The transformer's
semantic side is not.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fastseg.fields import documented
from fastseg.models.parts import medsegdiff
from fastseg.models.parts.condition_net import Condition, ConditionNet
from fastseg.models.parts.medsegdiff import MedSegDiff
from fastseg.models.parts.ss_former import SSFormer
from fastseg.models.system import Channels
from fastseg.nn import AnchorGate
from fastseg.nn.gate import SMALLEST_SIGMA


class PlainGate(nn.Module):
    """Spatial attention without uncertainty: feat·(1 + sigmoid(conv(cond))), the baseline SA.

    cond: (B, cond_channels, *S), feat: (B, C, *S) → (B, C, *S).
    """

    def __init__(self, cond_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(cond_channels, 1, 1)

    def forward(self, cond: Tensor, feat: Tensor) -> Tensor:
        return feat * (1 + torch.sigmoid(self.conv(cond)))


@dataclass(frozen=True)
class Options(medsegdiff.Options):
    """Options of MedSegDiff-V2."""

    anchor: Literal["none", "sa", "usa"] = documented(
        "gate of the first feature: none, spatial attention, or its uncertain form (U-SA)", "usa"
    )
    radius: int = documented("radius of U-SA's Gaussian, in pixels", 2, least=1)
    sigma: float = documented("its width at the start, in pixels", 1.0)
    anchor_levels: int = documented("decoder levels of the condition net in the anchor", 2)
    ssformer: Literal["off", "nofilter", "nbp"] = documented(
        "transformer in Fourier space: none, without its filter, or with it", "nbp"
    )
    ssformer_channels: int = documented("channels of its tokens", 512, least=1)
    ssformer_blocks: int = documented("its blocks, of two halves each", 4, least=1)
    ssformer_heads: int = documented("its heads", 8, least=1)

    @property
    def conditioned(self) -> bool:
        """Tell whether there is a condition net: without anchor and transformer none is asked."""
        return self.anchor != "none" or self.ssformer != "off"

    def check(self) -> None:
        """Raise UsageError for parts that do not go together."""
        super().check()
        self.want(self.sigma > SMALLEST_SIGMA, "sigma", f"more than {SMALLEST_SIGMA}")
        most = len(self.multipliers) - 1
        within = 1 <= self.anchor_levels <= most or not self.conditioned
        self.want(within, "anchor_levels", f"1 to {most}")
        split = self.ssformer == "off" or not self.ssformer_channels % self.ssformer_heads
        self.want(split, "ssformer_heads", f"a divisor of ssformer_channels, "
                  f"{self.ssformer_channels}")  # fmt: skip


class System(MedSegDiff):
    """The network with its losses and predictions, for any H and W divisible by
    2^(len(multipliers) − 1).
    """

    Options = Options

    def __init__(self, channels: Channels, options: Options):
        super().__init__(channels, options)
        self.condition = self.gate = self.ssformer = None
        if options.conditioned:
            self.condition = ConditionNet(
                channels.images, self.head.outputs, width=options.condition_width,
                levels=len(options.multipliers), anchor_levels=options.anchor_levels,
            )  # fmt: skip
        if options.anchor == "usa":
            anchor = self.condition.anchor_channels
            self.gate = AnchorGate(anchor, radius=options.radius, sigma=options.sigma)
        elif options.anchor == "sa":
            self.gate = PlainGate(self.condition.anchor_channels)
        if options.ssformer != "off":
            self.ssformer = SSFormer(
                self.unet.widths[-1], self.condition.widths[-1],
                time_channels=self.unet.embedding, kind=options.ssformer,
                channels=options.ssformer_channels, blocks=options.ssformer_blocks,
                heads=options.ssformer_heads,
            )  # fmt: skip

    def known(self, image: Tensor) -> Condition | None:
        """Return the condition net's word on images, once for all steps and members."""
        if self.condition is None:
            return None
        known = self.condition(image)
        if self.gate is None:
            return known
        ones = torch.ones_like(known.anchor[:, :1])
        return dataclasses.replace(known, factor=self.gate(known.anchor, ones))

    def denoise(
        self, image: Tensor, x_t: Tensor, t: Tensor, known: Condition | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the U-Net's output for [image, x_t] (B, C + K, H, W) and t (B,), and the condition
        net's logits; `known` is asked for where it is not given.
        """
        if known is None and self.condition is not None:
            known = self.condition(image)

        def gated(feature: Tensor, temb: Tensor) -> Tensor:
            if known.factor is not None:
                return feature * known.factor.to(feature.dtype)
            return self.gate(known.anchor.detach(), feature)

        def mixed(feature: Tensor, temb: Tensor) -> Tensor:
            return self.ssformer(feature, known.deepest, temb)

        output = self.unet(
            torch.cat([image, x_t], 1), t, at_first=gated if self.gate is not None else None,
            at_deepest=mixed if self.ssformer is not None else None,
        )  # fmt: skip
        return output, None if known is None else known.cal
