"""MedSegDiff-V2 (Wu et al., AAAI 2024): a diffusion U-Net whose first feature is gated by the
condition net's blurred anchor (U-SA), and whose deepest one meets the condition net's in Fourier
space (SS-Former with the neural band-pass filter).

Built from the paper: its published repository has no Gaussian, gate, transformer or filter. Without
anchor and transformer there is no condition net, and the image reaches the U-Net by its input
alone. The anchor is detached: noise does not train what the anchor loss trains. The transformer's
semantic side is not.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastseg.models.parts.condition_net import Condition, ConditionNet
from fastseg.models.parts.medsegdiff import MedSegDiff
from fastseg.models.parts.ss_former import SSFormer
from fastseg.models.parts.unet import UNet
from fastseg.nn import AnchorGate

ANCHORS = ("none", "sa", "usa")


class PlainGate(nn.Module):
    """Spatial attention without uncertainty: feat·(1 + sigmoid(conv(cond))), the baseline SA.

    cond: (B, cond_channels, *S), feat: (B, C, *S) → (B, C, *S).
    """

    def __init__(self, cond_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(cond_channels, 1, 1)

    def forward(self, cond: Tensor, feat: Tensor) -> Tensor:
        return feat * (1 + torch.sigmoid(self.conv(cond)))


class System(MedSegDiff):
    """The network with its losses and predictions, for any H and W divisible by
    2^(len(multipliers) − 1).

    anchor: "usa", "sa" or "none"; radius and sigma: of U-SA's Gaussian, in pixels. ssformer: "nbp",
    "nofilter" or "off". The other options: those of `unet.UNet`, `ConditionNet`, `SSFormer` and
    `medsegdiff.Scheme`.
    """

    def __init__(
        self, in_channels: int, classes: int, *, regions: Sequence[Sequence[int]] = (),
        width: int = 128, multipliers: Sequence[int] = (1, 1, 2, 2, 4, 4), blocks: int = 2,
        attention_levels: Sequence[int] = (4,), heads: int = 1, film: bool = False,
        anchor: str = "usa", radius: int = 2, sigma: float = 1.0, condition_width: int = 32,
        anchor_levels: int = 2, ssformer: str = "nbp", ssformer_channels: int = 512,
        ssformer_blocks: int = 4, ssformer_heads: int = 8, **options,
    ):  # fmt: skip
        super().__init__(classes, regions, **options)
        if anchor not in ANCHORS:
            raise ValueError(f"anchor: got {anchor!r}, want one of {', '.join(ANCHORS)}")
        self.unet = UNet(
            in_channels + self.head.outputs, self.outputs_of_net, width, multipliers, blocks,
            attention_levels, heads, film,
        )  # fmt: skip
        self.condition = self.gate = self.ssformer = None
        if anchor != "none" or ssformer != "off":
            self.condition = ConditionNet(
                in_channels, self.head.outputs, width=condition_width, levels=len(multipliers),
                anchor_levels=anchor_levels,
            )  # fmt: skip
        if anchor != "none":
            channels = self.condition.anchor_channels
            usa = anchor == "usa"
            self.gate = AnchorGate(channels, radius=radius, sigma=sigma) if usa else None
            self.gate = self.gate or PlainGate(channels)
        if ssformer != "off":
            self.ssformer = SSFormer(
                self.unet.widths[-1], self.condition.widths[-1],
                time_channels=self.unet.embedding, kind=ssformer, channels=ssformer_channels,
                blocks=ssformer_blocks, heads=ssformer_heads,
            )  # fmt: skip

    def known(self, image: Tensor) -> Condition | None:
        """The condition net's word on images, once for all steps and members."""
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
        """The U-Net's output for [image, x_t] (B, C + K, H, W) and t (B,), and the condition net's
        logits; `known` is asked for where it is not given.
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
