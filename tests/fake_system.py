"""A system with everything that a diffusion system asks of the driver, in four small layers.

Noise and masks from the step's generator, dropout from torch's own, a state in buffers, a ramp, a
module that moves after the step, a batch of unlabelled images, and a prediction that draws noise.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from fastseg import models
from fastseg.fields import documented


@dataclass(frozen=True)
class Options(models.Options):
    width: int = documented("channels of the hidden layer", 4)
    steps: int = documented("forward passes of one prediction", 2, sampling=True)
    noise: float = documented("deviation of the noise in each", 0.1, sampling=True)
    sampler: str = documented("a word that nothing depends on", "ddim", sampling=True)


class System(models.System):
    Options = Options
    seen: ClassVar[list[dict]] = []  # what the last trainings were given, step by step

    def __init__(self, channels, options):
        super().__init__(options)
        classes, width = channels.classes, options.width
        self.body = nn.Sequential(
            nn.Conv2d(channels.images, width, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(width),
            nn.Dropout2d(0.1),
        )  # fmt: skip
        self.head = nn.Conv2d(width, classes, 1)
        self.theta = nn.Conv2d(width, classes, 1)
        self.register_buffer("weights", torch.ones(classes))

    def training_loss(self, batch, generator):
        image, label, progress = batch["image"], batch["label"].long(), batch["progress"]
        self.seen.append({key: batch.get(key) for key in ("progress", "seed", "unlabelled")})
        self.seen[-1]["dtype"] = self.head(self.body[:1](image)).dtype
        noise = torch.randn(image.shape, generator=generator, device=image.device)
        logits = self.head(self.body(image + self.options.noise * noise)).float()
        supervised = F.cross_entropy(logits, label, self.weights.clone())
        hits = F.one_hot(logits.argmax(1), len(self.weights)).float().mean((0, 1, 2))
        self.weights.mul_(0.9).add_(0.1 * (2 - hits.detach()))
        unlabelled = batch.get("unlabelled", image)
        target = logits.detach().argmax(1)
        followed = F.cross_entropy(self.theta(self.body(unlabelled)).float(), target)
        ramp = torch.as_tensor(-5 * (1 - progress) ** 2).exp()
        return supervised + ramp * followed, {"supervised": supervised.detach(), "ramp": ramp}

    @torch.no_grad()
    def after_step(self):
        for theta, head in zip(self.theta.parameters(), self.head.parameters(), strict=True):
            theta.lerp_(head, 0.01)

    def predict(self, image, generator=None):
        if generator is None:
            generator = torch.Generator(image.device).manual_seed(0)
        for _ in range(self.options.steps):
            noise = torch.randn(image.shape, generator=generator, device=image.device)
            logits = self.theta(self.body(image + self.options.noise * noise))
        return logits.float().softmax(1)
