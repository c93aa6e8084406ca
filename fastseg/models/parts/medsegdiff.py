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
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg import diffusion
from fastseg.diffusion.schedules import PARAMETERISATIONS
from fastseg.models.parts.heads import KINDS, Head
from fastseg.models.parts.staple import staple

ANCHOR_LOSSES, FUSES = ("dice_ce", "mse"), ("mean", "staple")


@dataclass(frozen=True)
class Scheme:
    """Options of training and prediction. ValueError for values that cannot be."""

    head: str = "softmax"
    timesteps: int = 1000
    parameterisation: str = "epsilon"  # or v, or x0: logits of the clean map, no learnt variance
    anchor_loss: str = "dice_ce"  # of the condition net; or "mse"
    anchor_every: int = 5  # it counts for steps t divisible by this
    anchor_weight: float = 1.0
    ce_weight: float = 10.0  # of the cross-entropy in it
    sampler: str = "dpm++"
    sampling_steps: int = 20
    eta: float = 0.0
    dynamic_quantile: float = 0.0  # 0: x̂_0 is clamped
    ensemble: int = 5
    fuse: str = "mean"
    max_batch: int = 64

    def __post_init__(self):
        words = {"head": KINDS, "parameterisation": PARAMETERISATIONS, "fuse": FUSES}
        words |= {"anchor_loss": ANCHOR_LOSSES}
        for name, known in words.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name}: got {value!r}, want one of {', '.join(known)}")
        diffusion.check_sampler(self.sampler, self.eta)
        for name in ("timesteps", "anchor_every", "sampling_steps", "ensemble", "max_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, want at least 1")
        if self.sampling_steps > self.timesteps:
            raise ValueError(
                f"sampling_steps: got {self.sampling_steps}, want at most {self.timesteps}"
            )

    @property
    def learned_variance(self) -> bool:
        """x̂_0 of a network that predicts it is off by more than any variance at small t."""
        return self.parameterisation != "x0"


class MedSegDiff(nn.Module):
    """The training scheme and the ensemble around a denoiser.

    A subclass has `denoise(image, x_t, t, known)` → (output (B, outputs_of_net, H, W), logits of
    the condition net (B, K, H, W) or None), and `known(image)`: what of it depends on the image
    alone, with `rows`, or None.
    """

    on_step: diffusion.OnStep = None
    axes = 2
    SAMPLING = frozenset(
        {"sampler", "sampling_steps", "eta", "dynamic_quantile", "ensemble", "fuse", "max_batch"}
    )

    def __init__(self, classes: int, regions=(), **options):
        super().__init__()
        self.scheme = Scheme(**options)
        # two classes are one region: one channel, one sigmoid
        one = {"kind": "regions", "regions": ((1,),)}
        kind = one if classes == 2 else {"kind": self.scheme.head, "regions": regions}
        self.head = Head(kind["kind"], classes, kind["regions"])
        self.outputs_of_net = self.head.outputs * (2 if self.scheme.learned_variance else 1)
        with torch.device("cpu"):
            self.schedule = diffusion.linear_schedule(self.scheme.timesteps, scaled=True)

    @property
    def multiple(self) -> int:
        """What the sizes of slices must be divisible by."""
        return self.unet.multiple

    def training_loss(
        self, batch: dict, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """L_noise + anchor_weight·L_anchor, the latter of the samples with t ≡ 0 mod anchor_every,
        times their share of the batch.
        """
        image, target = batch["image"], self.head.target(batch["label"])
        options = {"generator": generator, "device": image.device}
        t = torch.randint(self.scheme.timesteps, (len(image),), **options)
        noise, clean = torch.randn(target.shape, **options), 2 * target - 1
        x_t = diffusion.add_noise(self.schedule, clean, noise, t)
        output, cal = self.denoise(image, x_t, t, None)
        loss, parts = self._noise_loss(output.float(), clean, noise, x_t, t)
        if cal is not None:
            due = t % self.scheme.anchor_every == 0
            anchor = 0 * cal.float().sum()  # a gradient of 0: processes wait for one another's
            if due.any():
                anchor = due.float().mean() * self._anchor_loss(cal[due].float(), target[due])
            loss, parts = loss + self.scheme.anchor_weight * anchor, parts | {"anchor": anchor}
        return loss, {name: part.detach() for name, part in parts.items()}

    def _noise_loss(
        self, output: Tensor, clean: Tensor, noise: Tensor, x_t: Tensor, t: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        how = self.scheme.parameterisation
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
        if self.scheme.anchor_loss == "mse":
            return F.mse_loss(self.head.probabilities(cal), target)
        return dice_ce(self.head, cal, target, self.scheme.ce_weight)

    def _clean(self, logits: Tensor) -> Tensor:
        return 2 * self.head.probabilities(logits) - 1

    @torch.no_grad()
    def sample(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Probabilities of the head's outputs by each member, (members, B, K, H, W) float32."""
        known, scheme = self.known(image), self.scheme

        def model_for(rows: Tensor) -> diffusion.Model:
            images, mine = image[rows], None if known is None else known.rows(rows)

            def model(x_t: Tensor, t: Tensor) -> Tensor:
                output = self.denoise(images, x_t, t, mine)[0].float()
                return output if scheme.learned_variance else self._clean(output)

            return model

        found = diffusion.ensemble(
            model_for, (len(image), self.head.outputs, *image.shape[2:]), self.schedule,
            members=scheme.ensemble, generator=generator, max_batch=scheme.max_batch,
            device=image.device, steps=scheme.sampling_steps,
            sampler=scheme.sampler, eta=scheme.eta, parameterisation=scheme.parameterisation,
            dynamic_quantile=scheme.dynamic_quantile or None,
            learned_variance=scheme.learned_variance, on_step=self.on_step,
        )  # fmt: skip
        return (found + 1) / 2

    def predict(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Class probabilities (B, classes, H, W) float32, fused from the ensemble."""
        return self.predict_with_variance(image, generator)[0]

    def predict_with_variance(
        self, image: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """`predict`'s result, and the members' variance (B, 1, H, W), a mean over the outputs."""
        if generator is None:
            generator = torch.Generator(image.device).manual_seed(0)
        members = self.sample(image, generator)
        variance = members.var(0, unbiased=False).mean(1, keepdim=True)
        return self.head.classes_of(self._fused(members)), variance

    def _fused(self, members: Tensor) -> Tensor:
        softmax = self.head.kind == "softmax"
        if self.scheme.fuse == "mean":
            p = members.mean(0)
        elif softmax:
            chosen = F.one_hot(members.argmax(2), self.head.classes).movedim(-1, 2)
            p = staple(chosen)
        else:
            p = staple(members > 0.5)
        # one-hot channels are drawn, or fused, each by itself: their sum is not 1, and may be 0
        return (p + 1e-6) / (p + 1e-6).sum(1, keepdim=True) if softmax else p

    def decide(self, probabilities: Tensor) -> Tensor:
        """Class indices (B, *S) of class probabilities (B, classes, *S)."""
        return self.head.decide(probabilities)


def dice_ce(
    head: Head, logits: Tensor, target: Tensor, ce_weight: float, smooth: float = 1.0
) -> Tensor:
    """1 − soft Dice, mean over the outputs, plus weighted cross-entropy.

    logits and target (B, outputs, *S), float32. Dice's sums run over the batch too: most slices
    show few of many organs, and a slice by itself says of all others only that they are not there.
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
    """KL of the reverse step from the posterior's, in bits a value, (B,): it trains v alone, x̂_0
    being detached (Nichol & Dhariwal, 2021). At t = 0 too: label maps have no likelihood of grey
    levels.
    """
    true, log_true = diffusion.posterior(schedule, clean, x_t, t)
    mean, _ = diffusion.posterior(schedule, x0, x_t, t)
    log_own = diffusion.learned_range_log_variance(schedule, v, t)
    distance = (true - mean).square() * (-log_own).exp()
    kl = 0.5 * (log_own - log_true - 1 + (log_true - log_own).exp() + distance)
    return kl.flatten(1).mean(1) / math.log(2)


def split_options(options: dict) -> tuple[dict, dict]:
    """Those of `Scheme`, and the others."""
    mine = {field.name for field in fields(Scheme)}
    scheme = {name: value for name, value in options.items() if name in mine}
    return scheme, {name: value for name, value in options.items() if name not in mine}
