"""Segmentation by denoising: label maps drawn by a diffusion model that a condition net guides
(MedSegDiff and MedSegDiff-V2, Wu et al., 2024). What the systems built on it share.

Label maps are −1 … 1: one channel for two classes, one a region for `head` "regions", else one a
class. The source has {0, 1} and one channel; symmetric values are those its noise is made for. A
multiclass map is a real one-hot map, with as many outputs of the condition net, and nothing is
merged on the way: what classes there are is the data set's label scheme.

Differs from the source in what stopped its users: the variance is learnt whenever the checkpoint
says so, sampling has no flag for it; members of an ensemble run as one batch; averaged weights are
those that sample; a patient's slices are stacked and scored as a volume, after a mean over members
and one threshold; intensities are normalised, and nothing is resized, so that no label is ever
interpolated. A loss that is cross-entropy alone drowns small regions: Dice comes with it.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from fastseg import diffusion
from fastseg.diffusion import Sampling
from fastseg.fields import documented, inherited
from fastseg.models import system
from fastseg.models.parts.heads import Head
from fastseg.models.parts.staple import staple
from fastseg.models.parts.unet import UNet, UNetOptions
from fastseg.models.system import Channels, own_generator


@dataclass(frozen=True)
class Options(UNetOptions, Sampling, system.Options):
    """Options of training and prediction that both systems have."""

    scaled_betas = True

    width: int = inherited(UNetOptions, "width", 128)
    multipliers: tuple[int, ...] = inherited(UNetOptions, "multipliers", (1, 1, 2, 2, 4, 4))
    attention_levels: tuple[int, ...] = inherited(UNetOptions, "attention_levels", (4,))
    film: bool = documented("time scales a block's second norm too, else it is added", False)
    condition_width: int = documented(
        "channels of the condition net's finest level, doubled at each of the others", 32, least=1
    )
    head: Literal["softmax", "regions"] = documented(
        "one class a voxel, or a sigmoid for each nested region; two classes are one region",
        "softmax",
    )
    parameterisation: Literal["epsilon", "x0", "v"] = documented(
        "what the network predicts; x0: logits of the label map, without a learnt variance",
        "epsilon",
    )
    anchor_loss: Literal["dice_ce", "mse"] = documented("loss of the condition net", "dice_ce")
    anchor_every: int = documented("it counts for steps t divisible by this", 5, least=1)
    anchor_weight: float = documented("its weight", 1.0)
    ce_weight: float = documented("weight of the cross-entropy in it", 10.0)
    sampler: Literal["ddpm", "ddim", "dpm++"] = inherited(Sampling, "sampler", "dpm++")
    sampling_steps: int = inherited(Sampling, "sampling_steps", 20)
    dynamic_quantile: float = documented(
        "share of a sample's values kept in proportion when x̂_0 is held to its range; 0: clamped",
        0.0, sampling=True, least=0,
    )  # fmt: skip
    ensemble: int = inherited(Sampling, "ensemble", 5)
    fuse: Literal["mean", "staple"] = documented(
        "what makes one label map of the draws", "mean", sampling=True
    )

    def check(self) -> None:
        """Raise UsageError for values beyond their range."""
        super().check()
        self.want(self.dynamic_quantile <= 1, "dynamic_quantile", "0 to 1")
        self.want(len(self.multipliers) > 1, "multipliers", "at least two levels")

    @property
    def learned_variance(self) -> bool:
        """Tell whether the network predicts a variance too: not where it predicts x_0, which is off
        by more than any variance at small t.
        """
        return self.parameterisation != "x0"


class MedSegDiff(system.System):
    """The training scheme and the ensemble around a denoiser.

    A subclass has `denoise(image, x_t, t, known)` → (output (B, outputs_of_net, H, W), logits of
    the condition net (B, K, H, W) or None), and `known(image)`: what of it depends on the image
    alone, with `rows`, or None.
    """

    axes, predicts_variance = 2, True

    def __init__(self, channels: Channels, options: Options):
        super().__init__(options)
        # two classes are one region: one channel, one sigmoid
        kind, regions = options.head, channels.regions
        if channels.classes == 2:
            kind, regions = "regions", ((1,),)
        self.head = Head(kind, channels.classes, regions)
        self.outputs_of_net = self.head.outputs * (2 if options.learned_variance else 1)
        self.schedule = options.schedule()
        inputs = channels.images + self.head.outputs
        self.unet = UNet(inputs, self.outputs_of_net, options, film=options.film)

    @property
    def multiple(self) -> int:
        """Return what the sizes of slices must be divisible by."""
        return self.unet.multiple

    def training_loss(
        self, batch: dict[str, Any], generator: Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return L_noise + anchor_weight·L_anchor, the latter of the samples with t ≡ 0 mod
        anchor_every, times their share of the batch.
        """
        image, target = batch["image"], self.head.target(batch["label"])
        options = {"generator": generator, "device": image.device}
        t = torch.randint(self.options.timesteps, (len(image),), **options)
        noise, clean = torch.randn(target.shape, **options), 2 * target - 1
        x_t = diffusion.add_noise(self.schedule, clean, noise, t)
        output, cal = self.denoise(image, x_t, t, None)
        loss, parts = self._noise_loss(output.float(), clean, noise, x_t, t)
        if cal is not None:
            due = t % self.options.anchor_every == 0
            anchor = 0 * cal.float().sum()  # a gradient of 0: processes wait for one another's
            if due.any():
                anchor = due.float().mean() * self._anchor_loss(cal[due].float(), target[due])
            loss, parts = loss + self.options.anchor_weight * anchor, parts | {"anchor": anchor}
        return loss, {name: part.detach() for name, part in parts.items()}

    def _noise_loss(
        self, output: Tensor, clean: Tensor, noise: Tensor, x_t: Tensor, t: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        how = self.options.parameterisation
        if how == "x0":
            mask = dice_ce(self.head, output, (clean + 1) / 2, 1.0)
            error = F.mse_loss(self._clean(output), clean)
            return mask + error, {"mask": mask, "mse": error}
        found, v = output.chunk(2, 1)
        error = F.mse_loss(found, diffusion.target(self.schedule, clean, noise, t, how))
        x0 = diffusion.to_x0(self.schedule, found.detach(), x_t, t, how)
        bound = variational_bound(self.schedule, x0, v, clean, x_t, t).mean()
        return error + bound, {"mse": error, "bound": bound}

    def _anchor_loss(self, cal: Tensor, target: Tensor) -> Tensor:
        if self.options.anchor_loss == "mse":
            return F.mse_loss(self.head.probabilities(cal), target)
        return dice_ce(self.head, cal, target, self.options.ce_weight)

    def _clean(self, logits: Tensor) -> Tensor:
        return 2 * self.head.probabilities(logits) - 1

    @torch.no_grad()
    def sample(self, image: Tensor, generator: Generator) -> Tensor:
        """Draw probabilities of the head's outputs, (members, B, K, H, W) float32."""
        known, options = self.known(image), self.options

        def model_for(rows: Tensor) -> diffusion.Model:
            images, mine = image[rows], None if known is None else known.rows(rows)

            def model(x_t: Tensor, t: Tensor) -> Tensor:
                output = self.denoise(images, x_t, t, mine)[0].float()
                return output if options.learned_variance else self._clean(output)

            return model

        shape = len(image), self.head.outputs, *image.shape[2:]
        found = options.draw(
            model_for, shape, self.schedule, generator, device=image.device,
            parameterisation=options.parameterisation, on_step=self.on_step,
            dynamic_quantile=options.dynamic_quantile or None,
            learned_variance=options.learned_variance,
        )  # fmt: skip
        return (found + 1) / 2

    def predict(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        """Return class probabilities (B, classes, H, W) float32, fused from the ensemble."""
        return self.predict_with_variance(image, generator)[0]

    def predict_with_variance(
        self, image: Tensor, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return `predict`'s result, and the members' variance (B, 1, H, W), mean over outputs."""
        members = self.sample(image, own_generator(generator, image.device))
        variance = members.var(0, unbiased=False).mean(1, keepdim=True)
        return self.head.classes_of(self._fused(members)), variance

    def _fused(self, members: Tensor) -> Tensor:
        softmax = self.head.kind == "softmax"
        if self.options.fuse == "mean":
            p = members.mean(0)
        elif softmax:
            chosen = F.one_hot(members.argmax(2), self.head.classes).movedim(-1, 2)
            p = staple(chosen)
        else:
            p = staple(members > 0.5)
        # one-hot channels are drawn, or fused, each by itself: their sum is not 1, and may be 0
        return (p + 1e-6) / (p + 1e-6).sum(1, keepdim=True) if softmax else p

    def decide(self, probabilities: Tensor) -> Tensor:
        """Return class indices (B, *S) for class probabilities (B, classes, *S)."""
        return self.head.decide(probabilities)


def dice_ce(
    head: Head, logits: Tensor, target: Tensor, ce_weight: float, smooth: float = 1.0
) -> Tensor:
    """Compute 1 − soft Dice, mean over the outputs, plus weighted cross-entropy.

    Dice's sums run over the batch too: most slices show few of many organs, and a slice by itself
    says of all others only that they are not there.

    Args:
        head: what the outputs mean.
        logits: (B, outputs, *S) float32.
        target: (B, outputs, *S) float32, 0 or 1.
        ce_weight: weight of the cross-entropy.
        smooth: added to numerator and denominator of Dice.

    >>> head, label = Head("softmax", 2), torch.tensor([[0, 1]])
    >>> logits = torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]])
    >>> f"{dice_ce(head, logits, head.target(label), 1.0):.3f}"
    '0.000'
    """
    p, over = head.probabilities(logits), (0, *range(2, logits.ndim))
    overlap, total = (p * target).sum(over), (p + target).sum(over)
    dice = 1 - ((2 * overlap + smooth) / (total + smooth)).mean()
    if head.kind == "softmax":
        ce = -(logits.log_softmax(1) * target).sum(1).mean()
    else:
        ce = F.binary_cross_entropy_with_logits(logits, target)
    return dice + ce_weight * ce


def variational_bound(
    schedule: diffusion.Schedule, x0: Tensor, v: Tensor, clean: Tensor, x_t: Tensor, t: Tensor
) -> Tensor:
    """Compute the KL of the reverse step from the posterior's, in bits a value, (B,).

    It trains v alone, x̂_0 being detached (Nichol & Dhariwal, 2021, equation 16). At t = 0 too:
    label maps have no likelihood of grey levels.

    Args:
        schedule: the noise.
        x0, v: what the network predicts of the clean map, and its variance, (B, K, H, W).
        clean, x_t: the map and its noised form, (B, K, H, W).
        t: (B,) int64.

    >>> x, t = torch.ones(2, 1, 4, 4), torch.tensor([1, 9])
    >>> variational_bound(diffusion.linear_schedule(10), x, -x, x, x, t).abs().max() < 1e-6
    tensor(True)
    """
    true, log_true = diffusion.posterior(schedule, clean, x_t, t)
    mean, _ = diffusion.posterior(schedule, x0, x_t, t)
    log_own = diffusion.learned_range_log_variance(schedule, v, t)
    distance = (true - mean).square() * (-log_own).exp()
    kl = 0.5 * (log_own - log_true - 1 + (log_true - log_own).exp() + distance)
    return kl.flatten(1).mean(1) / math.log(2)
