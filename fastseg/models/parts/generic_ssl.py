"""Segmentation trained beside a denoising diffusion of the label map: one encoder, three decoders
(GenericSSL: Wang & Li, NeurIPS 2023). What the systems built on it share.

xi denoises a noised label map given the image, psi learns from the labels with class weights that
follow xi's progress, theta learns from pseudo-labels that xi and psi agree on.
"""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from fastseg import diffusion, losses, ops
from fastseg.diffusion import Sampling
from fastseg.fields import documented
from fastseg.losses import ramp
from fastseg.models import system
from fastseg.models.parts.heads import Head
from fastseg.models.parts.joint import Joint
from fastseg.models.system import Channels, own_generator
from fastseg.nn.time import TimeEmbedding, freeze_time

TIME = 512  # channels of the time embedding


@dataclass(frozen=True)
class Options(Sampling, system.Options):
    """Options of training and prediction that all systems of the scheme have."""

    axes: Literal[2, 3] = documented("2 for slices, 3 for volumes", 2)
    head: Literal["softmax", "regions"] = documented(
        "one class a voxel, or a sigmoid for each nested region", "softmax"
    )
    mode: Literal["supervised", "ssl"] = documented(
        "labels alone, or pseudo-labels on unlabelled images too", "supervised"
    )
    decoder: Literal["psi", "theta", "diffusion"] | None = documented(
        "what predicts; null: psi when supervised, else theta", None, sampling=True
    )
    unsupervised_weight: float = documented(
        "weight of the loss on pseudo-labels, at the end of its ramp", 10.0
    )
    theta_decay: float = documented("decay of theta's average of xi and psi", 0.99)
    weight_memory: int = documented("steps over which class weights average", 50, least=1)

    def check(self) -> None:
        """Raise UsageError for a decoder that the mode does not train."""
        super().check()
        self.want(
            self.mode == "ssl" or self.decoder != "theta", "decoder",
            "one of psi, diffusion in mode supervised, which trains no theta",
        )  # fmt: skip


class Embedding(nn.Module):
    """The first block, at full resolution, and the time embedding for all that follow.

    x: (B, in_channels, *S), t: (B,) or None → features (B, width, *S), temb (B, 512) or None.
    """

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block, self.time = block, TimeEmbedding(TIME)

    def forward(self, x: Tensor | Joint, t: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        temb = None if t is None else self.time(t)
        return self.block(x, temb), temb


class ClassWeights(nn.Module):
    """Class weights from how a class's Dice moved of late: classes that fall, or lag, weigh more.

    dice: (K,) hard Dice of a batch → weights (K,), in 0.1 … 10. State: the Dice before, averages of
    rises and falls over `memory` calls, and the average of 1 − Dice.
    """

    def __init__(self, classes: int, memory: int = 50):
        super().__init__()
        self.keep = (memory - 1) / memory
        self.register_buffer("before", torch.full((classes,), 1e-8))
        self.register_buffer("learnt", torch.zeros(classes))
        self.register_buffer("unlearnt", torch.zeros(classes))
        self.register_buffer("lack", torch.ones(classes))

    @torch.no_grad()
    def forward(self, dice: Tensor) -> Tensor:
        # the first steps would otherwise give ratios of 1e8
        dice, before = dice.to(self.before).clamp(1e-6, 1), self.before.clamp(1e-6, 1)
        change = (dice - before) * (dice / before).log()
        rose = dice > before
        self.learnt.lerp_(change * rose, 1 - self.keep)
        self.unlearnt.lerp_(change * ~rose, 1 - self.keep)
        self.lack.lerp_(1 - dice, 1 - self.keep)
        self.before.copy_(dice)
        difficulty = ((self.unlearnt + 1e-8) / (self.learnt + 1e-8)) ** 0.2
        return (len(dice) * difficulty * self.lack).clamp(0.1, 10).float()


@contextmanager
def evaluating(module: nn.Module):
    """Put the module in evaluation mode and stop gradients, for a while."""
    was = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was)


class GenericSSL(system.System):
    """The training scheme around a network.

    head: what the outputs mean, in label maps as in logits; make_block(inputs) makes the first
    block, of images or of [image, noisy mask]; encoder is a module (x, temb) → features, with
    `multiple`; make_decoder(timed) makes one (features, temb) → logits (B, head.outputs, *S).
    """

    def __init__(
        self, channels: Channels, options: Options, head: Head, *,
        make_block: Callable[[int], nn.Module], encoder: nn.Module,
        make_decoder: Callable[[bool], nn.Module],
    ):  # fmt: skip
        super().__init__(options)
        self.axes, self.multiple, self.head = options.axes, encoder.multiple, head
        self.schedule = options.schedule()
        self.embed_image = Embedding(make_block(channels.images))
        self.embed_joint = Embedding(make_block(channels.images + head.outputs))
        self.encoder = encoder
        self.xi, self.psi, self.theta = map(make_decoder, (True, False, False))
        self.class_weights = ClassWeights(head.outputs, options.weight_memory)
        self.freeze()

    def freeze(self) -> None:
        """Ask no gradients where none will ever come: data parallel training waits for others."""
        for blind in (self.embed_image, self.psi, self.theta):
            freeze_time(blind)
        if self.options.mode == "supervised":
            self.theta.requires_grad_(False)

    def denoise(self, x: Tensor | Joint, t: Tensor) -> Tensor:
        """Return logits of the clean label map from [image, noisy mask] (B, C + K, *S), t (B,)."""
        x, temb = self.embed_joint(x, t)
        return self.xi(self.encoder(x, temb), temb)

    def segment(self, image: Tensor, decoder: str = "psi") -> Tensor:
        """Return logits (B, K, *S) of decoder psi or theta from images (B, C, *S)."""
        x, _ = self.embed_image(image)
        chosen = {"psi": self.psi, "theta": self.theta}[decoder]
        return chosen(self.encoder(x, None), None)

    def training_loss(
        self, batch: dict, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return L_deno + L_diff, in mode "ssl" + μ·L_u on batch["unlabelled"] (B, C, *S)."""
        image, label = batch["image"], batch["label"].long()
        noisy, t = self._noised(label, generator)
        denoised = self.denoise(torch.cat([image, noisy], 1), t)
        deno = self._loss(denoised, label)
        weights = self.class_weights(self._dice(denoised.detach(), label))
        diff = self._loss(self.segment(image), label, weights)
        parts = {"deno": deno.detach(), "diff": diff.detach()}
        parts |= {f"weight_{index}": weight for index, weight in enumerate(weights)}
        if self.options.mode == "supervised":
            return deno + diff, parts
        if "unlabelled" not in batch:
            raise ValueError("mode ssl wants unlabelled images: set labelled_fraction below 1")
        chosen = self.pseudo_labels(batch["unlabelled"], generator)
        unsup = self._loss(self.segment(batch["unlabelled"], "theta"), chosen)
        mu = self.options.unsupervised_weight * ramp(batch["progress"])
        return deno + diff + mu * unsup, parts | {"unsup": unsup.detach(), "mu": torch.tensor(mu)}

    def _loss(self, logits: Tensor, label: Tensor, weights: Tensor | None = None) -> Tensor:
        if self.head.kind == "softmax":
            return losses.batch_dice_ce(logits, label, weights)[0]
        return losses.batch_dice_bce(logits, self.head.target(label), weights)[0]

    def _dice(self, logits: Tensor, label: Tensor) -> Tensor:
        if self.head.kind == "softmax":
            return losses.hard_batch_dice(logits, label)
        return losses.hard_region_dice(logits, self.head.target(label))

    def _noised(self, label: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        clean = 2 * self.head.target(label) - 1
        options = {"generator": generator, "device": label.device}
        t = torch.randint(self.options.timesteps, (len(label),), **options)
        return diffusion.add_noise(self.schedule, clean, torch.randn(clean.shape, **options), t), t

    def pseudo_labels(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Return classes (B, *S) that a sampled label map and psi agree on: the map is drawn from,
        smoothed and added to psi's probabilities.
        """
        with evaluating(self):
            clean = self.sample(image, generator, members=1)
            psi = self.head.probabilities(self.segment(image))
            drawn = self.head.probabilities(clean + self._gumbel(clean, generator))
            smooth = ops.gaussian_filter(drawn, 1.0, padding="zeros", radius=1)
            return self.decide(self.head.classes_of((smooth + psi) / 2))

    def _gumbel(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Draw what makes softmax of the sum a draw; sigmoid takes two, for yes and for no."""
        draw = -torch.empty_like(like).exponential_(generator=generator).log()
        if self.head.kind == "softmax":
            return draw
        return draw + torch.empty_like(like).exponential_(generator=generator).log()

    @torch.no_grad()
    def sample(self, image: Tensor, generator: torch.Generator, members: int) -> Tensor:
        """Return the mean of `members` label maps in −1 … 1, (B, K, *S) float32, for images."""
        joint = Joint(image)

        def model_for(rows: Tensor) -> diffusion.Model:
            def clean(x_t: Tensor, t: Tensor) -> Tensor:
                # what the network was trained on, logits, is no label map in −1 … 1; this is
                return 2 * self.head.probabilities(self.denoise(joint.beside(x_t, rows), t)) - 1

            return clean

        shape = len(image), self.head.outputs, *image.shape[2:]
        return replace(self.options, ensemble=members).draw(
            model_for, shape, self.schedule, generator, device=image.device,
            parameterisation="x0", on_step=self.on_step,
        ).mean(0)  # fmt: skip

    def predict(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return class probabilities (B, K, *S) float32, by the decoder of the options."""
        decoder = self.options.decoder or ("psi" if self.options.mode == "supervised" else "theta")
        if decoder != "diffusion":
            return self.head.classes_of(self.head.probabilities(self.segment(image, decoder)))
        generator = own_generator(generator, image.device)
        return self.head.classes_of((self.sample(image, generator, self.options.ensemble) + 1) / 2)

    def decide(self, probabilities: Tensor) -> Tensor:
        """Return class indices (B, *S) from probabilities of the classes (B, K, *S)."""
        return self.head.decide(probabilities)

    @torch.no_grad()
    def after_step(self) -> None:
        """Move theta towards the mean of xi and psi, parameters that all three have."""
        if self.options.mode == "supervised":
            return
        xi, psi = dict(self.xi.named_parameters()), dict(self.psi.named_parameters())
        for name, mean in self.theta.named_parameters():
            both = xi.get(name), psi.get(name)
            # time conditioning is frozen in theta
            if mean.requires_grad and all(p is not None and p.shape == mean.shape for p in both):
                mean.lerp_((both[0] + both[1]) / 2, 1 - self.options.theta_decay)
