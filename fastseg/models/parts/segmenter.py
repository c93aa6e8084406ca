"""What networks of volumes share: regions, losses, prediction, and the Fourier bottleneck.

Source of the combination: github.com/DillanImans/brats_grl_vffc and its write-up. Parts of it:
SegResNet (Myronenko, 2018), volumetric fast Fourier convolutions (Quattrini et al., 2023), gradient
reversal (Ganin et al., 2016).
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastseg.fields import documented
from fastseg.models import system
from fastseg.models.parts.domain import DomainHead
from fastseg.models.parts.heads import Head
from fastseg.models.system import Channels
from fastseg.nn import VFFCBottleneck


@dataclass(frozen=True)
class Options(system.Options):
    """Options of every network of volumes."""

    head: Literal["regions", "softmax"] = documented(
        "a sigmoid for each nested region, or one class a voxel", "regions"
    )
    vffc_blocks: int = documented(
        "volumetric fast Fourier blocks at the coarsest level, 0 for none", 0, least=0
    )
    vffc_ratio: float = documented("share of their channels that is global", 0.5, least=0)
    vffc_norm: Literal["group", "sync", "batch"] = documented(
        "their norm; sync: batch statistics of all processes, on GPUs only", "group"
    )
    domains: int = documented("classes of a domain classifier, 0 for none", 0, least=0)
    domain_weight: float = documented("weight of its loss, when all of its schedule is there", 0.1)
    domain_schedule: Literal["dann", "constant"] = documented(
        "the weight grows with the reversal, or not", "dann"
    )
    prior: float = documented(
        "probability of each region, or class but the background, at first; 0: about one half, from"
        " where Dice of a small tumour grows slowly",
        0.0, least=0,
    )  # fmt: skip
    flips: bool = documented(
        "predictions are means over all mirror images, mirrored back", False, sampling=True
    )
    checkpointing: bool = documented(
        "compute blocks again in the backward pass in place of keeping them; batch norms then move"
        " their averages twice a step",
        False,
    )

    def check(self) -> None:
        """Raise UsageError for a single domain, one without weight, and shares beyond 1."""
        super().check()
        self.want(self.domains != 1, "domains", "0 for none, or at least 2")
        weighed = self.domain_weight > 0 or not self.domains
        self.want(weighed, "domain_weight", "more than 0; domains=0 for no classifier")
        self.want(self.vffc_ratio <= 1, "vffc_ratio", "0 to 1")
        self.want(self.prior < 1, "prior", "a share of the voxels, or 0 for none")


class Segmenter(system.System):
    """An encoder and a decoder with their losses and predictions.

    A subclass has `encode(image) -> (bottom, skips)` and `decode(bottom, skips) -> logits`, bottom
    (B, features, *S) being the coarsest map.
    """

    axes = 3

    def __init__(self, channels: Channels, options: Options, features: int):
        super().__init__(options)
        from monai.losses import DiceLoss  # takes seconds

        kind = options.head
        self.head = Head(kind, channels.classes, channels.regions)
        self.dice = DiceLoss(sigmoid=kind == "regions", softmax=kind == "softmax")
        self.domain = None
        if options.domains:
            how = {"weight": options.domain_weight, "schedule": options.domain_schedule}
            self.domain = DomainHead(features, options.domains, **how)

    def encode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the coarsest map and those that the decoder joins."""
        raise NotImplementedError

    def decode(self, bottom: Tensor, skips: list[Tensor]) -> Tensor:
        """Return logits (B, outputs, *S)."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, outputs, D, H, W) of images (B, C, D, H, W)."""
        return self.decode(*self.encode(image))

    def training_loss(
        self, batch: dict[str, Any], generator: Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return 1 − Dice, mean over samples and regions, + λ·cross-entropy of batch["domain"].

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

    def predict(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        """Return class probabilities (B, classes, *S) float32 of images (B, C, *S)."""

        def outputs(x: Tensor) -> Tensor:
            return self.head.probabilities(self(x))

        found = flipped_mean(outputs, image) if self.options.flips else outputs(image)
        return self.head.classes_of(found)

    def decide(self, probabilities: Tensor) -> Tensor:
        """Return class indices (B, *S) for class probabilities (B, classes, *S)."""
        return self.head.decide(probabilities)

    def _run(self, module: nn.Module, *inputs: Tensor) -> Tensor:
        """Call module(*inputs), kept or computed again as `checkpointing` says."""
        if self.options.checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(module, *inputs, use_reentrant=False)
        return module(*inputs)


def flipped_mean(predict: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Return the mean of predict(x) over all mirror images x of (B, C, *S), each mirrored back.

    >>> flipped_mean(lambda x: x, torch.arange(4.0).view(1, 1, 2, 2))
    tensor([[[[0., 1.],
              [2., 3.]]]])
    """
    axes = range(2, image.ndim)
    every = chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1))
    total = 0
    for chosen in every:
        total = total + predict(image.flip(chosen)).flip(chosen)
    return total / 2 ** len(axes)


def fourier_bottleneck(channels: int, options: Options) -> nn.Module:
    """Make the residual VFFC blocks, (B, channels, *S) → the same shape, that the options want."""
    if not options.vffc_blocks:
        return nn.Identity()
    norm = "batch" if options.vffc_norm == "sync" else options.vffc_norm
    ratio = options.vffc_ratio
    made = VFFCBottleneck(channels, options.vffc_blocks, ratio=ratio, norm=norm)
    together = options.vffc_norm == "sync"
    return nn.SyncBatchNorm.convert_sync_batchnorm(made) if together else made


def check_sizes(image: Tensor, multiple: int) -> None:
    """Raise ValueError unless an image is (B, C, D, H, W) with sizes divisible by `multiple`.

    >>> check_sizes(torch.zeros(1, 1, 8, 16, 16), 8)
    """
    sizes = tuple(image.shape[2:])
    if len(sizes) != 3 or any(n % multiple or not n for n in sizes):
        raise ValueError(f"image: has sizes {sizes}, wanted three multiples of {multiple}")
