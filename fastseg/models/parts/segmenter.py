"""What networks of volumes share: regions, losses, prediction, and the Fourier bottleneck.

Source of the combination: github.com/DillanImans/brats_grl_vffc and its write-up. Parts of it:
SegResNet (Myronenko, 2018), volumetric fast Fourier convolutions (Quattrini et al., 2023), gradient
reversal (Ganin et al., 2016).
"""

from collections.abc import Callable, Sequence
from itertools import chain, combinations
from typing import Any

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastseg.models.parts.domain import DomainHead
from fastseg.models.parts.heads import Head
from fastseg.nn import VFFCBottleneck

NORMS = ("group", "sync", "batch")


class Segmenter(nn.Module):
    """An encoder and a decoder with their losses and predictions.

    A subclass has `encode(image) -> (bottom, skips)` and `decode(bottom, skips) -> logits`, bottom
    (B, features, *S) being the coarsest map. head "regions" has a sigmoid for each nested region,
    "softmax" one for each class. domains, domain_weight, domain_schedule: those of `DomainHead`, 0
    domains for none. prior: what each region, or class but the background, is given for a
    probability at first; 0 for the last layer's own start, about one half, from where Dice of a
    small tumour grows slowly, since Adam moves a bias by no more than its rate a step. flips:
    predictions are means over all mirror images, mirrored back.
    checkpointing: blocks are computed again in the backward pass instead of being kept; batch norms
    then move their averages twice a step.
    """

    SAMPLING, axes = frozenset({"flips"}), 3

    def __init__(
        self, classes: int, features: int, *, regions: Sequence = (), head: str = "regions",
        domains: int = 0, domain_weight: float = 0.1, domain_schedule: str = "dann",
        prior: float = 0.0, flips: bool = False, checkpointing: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.head = Head(head, classes, regions)
        self.dice = DiceLoss(sigmoid=head == "regions", softmax=head == "softmax")
        self.prior, self.flips, self.checkpointing, self.domain = prior, flips, checkpointing, None
        if domains:
            options = {"weight": domain_weight, "schedule": domain_schedule}
            self.domain = DomainHead(features, domains, **options)

    def encode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The coarsest map and those that the decoder joins."""
        raise NotImplementedError

    def decode(self, bottom: Tensor, skips: list[Tensor]) -> Tensor:
        """Logits (B, outputs, *S)."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, D, H, W) → logits (B, outputs, D, H, W)."""
        return self.decode(*self.encode(image))

    def training_loss(
        self, batch: dict[str, Any], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """1 − Dice, mean over samples and regions, + λ·cross-entropy of batch["domain"] (B,).

        Dice has 1e-5 in numerator and denominator, unsquared, as MONAI's. ValueError where a domain
        head finds no domains in the batch.
        """
        bottom, skips = self.encode(batch["image"])
        logits = self.decode(bottom, skips).float()
        dice = self.dice(logits, self.head.target(batch["label"]))
        if self.domain is None:
            return dice, {"dice": dice.detach()}
        if "domain" not in batch:
            raise ValueError("model.domains wants domains: set data.bezier_domains, as 0,1,2")
        domain, parts = self.domain(bottom, batch["domain"], batch["progress"])
        return dice + domain, {"dice": dice.detach()} | parts

    def predict(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Class probabilities (B, classes, *S) float32 of images (B, C, *S)."""

        def outputs(x: Tensor) -> Tensor:
            return self.head.probabilities(self(x))

        return self.head.classes_of(flipped_mean(outputs, image) if self.flips else outputs(image))

    def decide(self, probabilities: Tensor) -> Tensor:
        """Class indices (B, *S) of class probabilities (B, classes, *S)."""
        return self.head.decide(probabilities)

    def _run(self, module: nn.Module, *inputs: Tensor) -> Tensor:
        """module(*inputs), kept or computed again as `checkpointing` says."""
        if self.checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(module, *inputs, use_reentrant=False)
        return module(*inputs)


def flipped_mean(predict: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Mean of predict(x) over all mirror images x of (B, C, *S), each mirrored back."""
    axes = range(2, image.ndim)
    every = chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1))
    total = 0
    for chosen in every:
        total = total + predict(image.flip(chosen)).flip(chosen)
    return total / 2 ** len(axes)


def fourier_bottleneck(channels: int, blocks: int, ratio: float, norm: str) -> nn.Module:
    """`blocks` residual VFFC blocks, (B, channels, *S) → the same shape; 0 for none.

    ratio: the share of global channels. norm "group" (as many processes and samples as may be),
    "batch" (each process by itself) or "sync" (batch statistics of all processes; GPUs only).
    """
    if norm not in NORMS:
        raise ValueError(f"vffc_norm: got {norm!r}, want one of {', '.join(NORMS)}")
    if blocks < 0:
        raise ValueError(f"vffc_blocks: got {blocks}, want 0 for none, or more")
    if not blocks:
        return nn.Identity()
    kind = "batch" if norm == "sync" else norm
    bottleneck = VFFCBottleneck(channels, blocks, ratio=ratio, norm=kind)
    return nn.SyncBatchNorm.convert_sync_batchnorm(bottleneck) if norm == "sync" else bottleneck


def check_sizes(image: Tensor, multiple: int) -> None:
    """ValueError unless the image is (B, C, D, H, W) with sizes divisible by `multiple`."""
    sizes = tuple(image.shape[2:])
    if len(sizes) != 3 or any(n % multiple or not n for n in sizes):
        raise ValueError(f"image: has sizes {sizes}, wanted three multiples of {multiple}")
