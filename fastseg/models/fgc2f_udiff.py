"""Synthesis of missing modalities by a diffusion that is guided from coarse to fine: a U-Net
denoises the missing images beside the available ones and one frequency-filtered image of these,
low-pass in the first half of the sampling, high-pass in the second (FgC2F-UDiff: Xiao, Hu & Wang,
IEEE Trans. Computational Imaging, 2025, arXiv 2501.03526).

There is no public implementation. The source fixes the five channels, T = 200 split at T/2, the
21-tap guides, their sources and the curriculum's order; the rest is a choice, named in the recipe.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from fastseg import diffusion
from fastseg.diffusion import Sampling
from fastseg.fields import documented, inherited
from fastseg.models import system
from fastseg.models.parts.unet import UNet, UNetOptions
from fastseg.models.system import Channels, own_generator
from fastseg.nn.gaussian import FrequencyGuide

# chance of 1, 2 and 3 missing modalities in each third of a run
CURRICULUM = ((1.0, 0.0, 0.0), (0.3, 0.7, 0.0), (0.2, 0.3, 0.5))


@dataclass(frozen=True)
class Options(UNetOptions, Sampling, system.Options):
    """Options of training and sampling."""

    scaled_betas = True

    guide: Literal["both", "none", "low", "high", "swapped", "unfiltered"] = documented(
        "the frequencies of the guide; unfiltered has a single stage, none a channel of zeros",
        "both",
    )
    selection: Literal["dynamic", "fixed"] = documented(
        "the guide's source in each stage; fixed: the low-pass one in both", "dynamic"
    )
    order: tuple[str, ...] = documented(
        "modalities from the most to the least low-frequency content; others are passed over",
        ("t1", "t2", "flair", "pd", "t1ce"),
    )
    kernel_size: int = documented("taps of the guides' filters, an odd number", 21, least=1)
    availability_code: bool = documented(
        "tell the network beside the images which are available", True
    )
    missing: str = documented("any, or the modalities of one task, all that is trained", "any")
    curriculum: bool = documented(
        "first one modality missing, then more; off: the mix of the last third all along", True
    )
    timesteps: int = inherited(Sampling, "timesteps", 200)
    parameterisation: Literal["epsilon", "x0", "v"] = documented(
        "what the network predicts: the noise, the image, or a mix of the two", "epsilon"
    )
    sampler: Literal["ddpm", "ddim", "dpm++"] = inherited(Sampling, "sampler", "ddpm")
    sampling_steps: int = inherited(Sampling, "sampling_steps", 0)
    attention_levels: tuple[int, ...] = inherited(UNetOptions, "attention_levels", (3,))
    dropout: float = documented("dropout inside residual blocks", 0.0, least=0)

    def check(self) -> None:
        """Raise UsageError for values beyond their range."""
        super().check()
        self.want(self.kernel_size % 2 == 1, "kernel_size", "an odd count")
        self.want(self.dropout <= 1, "dropout", "0 to 1")


def all_masks(modalities: int) -> Tensor:
    """Return every choice of available modalities but none and all, bool (2^M − 2, M), the fewest
    missing first.

    >>> all_masks(4).shape
    torch.Size([14, 4])
    """
    numbers = torch.arange(1, 2**modalities - 1)
    masks = (numbers[:, None] >> torch.arange(modalities) & 1).bool()
    return masks[masks.sum(1).argsort(descending=True, stable=True)]


class System(system.SynthesisSystem):
    """The denoiser with its loss and its sampler. UsageError for fewer than 2 or more than 4
    modalities, or one that the option `order` lacks.
    """

    Options = Options
    axes = 2

    def __init__(self, channels: Channels, options: Options):
        super().__init__(options)
        self.modalities, count = channels.modalities, channels.images
        ranks = _ranks(self.modalities, options.order)
        self._task = _task(options.missing, self.modalities)
        if not 2 <= count == len(self.modalities) <= len(CURRICULUM) + 1:
            raise ValueError(f"modalities: got {self.modalities}, want 2 to {len(CURRICULUM) + 1}")
        self.schedule = options.schedule()
        self.guide = FrequencyGuide(
            ranks, timesteps=options.timesteps, kernel_size=options.kernel_size,
            stage=options.guide if options.guide in ("low", "high") else "both",
        )  # fmt: skip
        self.unet = UNet(count + 1, count, options, dropout=options.dropout)
        self.code = None
        if options.availability_code:
            self.code = nn.Linear(count, self.unet.embedding)
        # where the lowest and the highest value of each modality lie in stored intensities, on
        # the average of the training volumes: the scale of an image that never was
        self.register_buffer("intensities", torch.tensor([[0.0, 1.0]]).repeat(count, 1))

    @property
    def multiple(self) -> int:
        """Return what the sizes of slices must be divisible by."""
        return self.unet.multiple

    def masks(self) -> Tensor:
        """Return the availability masks that this network serves, bool (N, M)."""
        if not self._task:
            return all_masks(len(self.modalities))
        return torch.tensor([[name not in self._task for name in self.modalities]])

    def draw_masks(self, count: int, progress: float, generator: Generator) -> Tensor:
        """Draw which modalities are available in training, bool (count, M), on the generator's
        device: the number missing by the curriculum at `progress`, which ones at random.
        """
        device, modalities = generator.device, len(self.modalities)
        if self._task:
            return self.masks().to(device).expand(count, -1)
        third = min(int(progress * 3), 2) if self.options.curriculum else 2
        chances = torch.tensor(CURRICULUM[third][: modalities - 1], device=device)
        missing = 1 + torch.multinomial(chances, count, replacement=True, generator=generator)
        places = torch.rand(count, modalities, generator=generator, device=device).argsort(1)
        return places >= missing[:, None]

    def guide_at(self, images: Tensor, available: Tensor, t: Tensor) -> Tensor:
        """Return the guide channel (B, 1, H, W) in training, of steps t (B,)."""
        kind = self.options.guide
        if kind == "none":
            return torch.zeros_like(images[:, :1])
        if kind == "unfiltered":
            return self._unfiltered(images, available)
        t = self.options.timesteps - 1 - t if kind == "swapped" else t
        return self.guide(images, self._selectable(available), t)

    def guides(self, images: Tensor, available: Tensor) -> tuple[Tensor, Tensor]:
        """Return the guide channels (B, 1, H, W) of the first and the second half of sampling:
        what `guide_at` gives, once an image.
        """
        kind = self.options.guide
        if kind in ("none", "unfiltered"):
            found = self.guide_at(images, available, available.long()[:, 0])
            return found, found
        low, high = self.guide.pair(images, self._selectable(available))
        return {"low": (low, low), "high": (high, high), "swapped": (high, low)}.get(
            kind, (low, high)
        )

    def denoise(
        self, images: Tensor, available: Tensor, noisy: Tensor, guide: Tensor, t: Tensor
    ) -> Tensor:
        """Predict (B, M, H, W) from available images, noisy ones else, and the guide at steps t."""
        x = torch.where(available[:, :, None, None], images, noisy)
        code = None if self.code is None else self.code(available.to(self.code.weight.dtype))
        return self.unet(torch.cat([x, guide], 1), t, code)

    def training_loss(
        self, batch: dict[str, Any], generator: Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean squared error of the prediction over the voxels of the missing
        modalities, and its means over the samples of each stage.
        """
        images = batch["image"]
        available = self.draw_masks(len(images), batch["progress"], generator)
        draws = {"generator": generator, "device": images.device}
        t = torch.randint(self.options.timesteps, (len(images),), **draws)
        noise = torch.randn(images.shape, **draws)
        noisy = diffusion.add_noise(self.schedule, images, noise, t)
        guide = self.guide_at(images, available, t)
        found = self.denoise(images, available, noisy, guide, t)
        kind = self.options.parameterisation
        wanted = diffusion.target(self.schedule, images, noise, t, kind)
        error = (found.float() - wanted).square().mean((2, 3)) * ~available
        each = error.sum(1).detach() / (~available).sum(1)
        coarse = self._coarse(t)
        parts = {"coarse": _mean_of(each, coarse), "fine": _mean_of(each, ~coarse)}
        return error.sum() / (~available).sum(), parts

    @torch.no_grad()
    def synthesise(
        self, images: Tensor, available: Tensor, generator: Generator | None = None
    ) -> Tensor:
        """Return images (B, M, H, W) in −1 … 1 with those not in `available` (B, M) bool filled in,
        the mean of `ensemble` samples; what they held is not looked at. float32.
        """
        generator = own_generator(generator, images.device)
        given = available[:, :, None, None]
        images = torch.where(given, images, 0).float()
        coarse, fine = self.guides(images, available)

        def model_for(rows: Tensor) -> diffusion.Model:
            mine = images[rows], available[rows]
            halves = coarse[rows], fine[rows]

            def model(x_t: Tensor, t: Tensor) -> Tensor:
                guide = torch.where(self._coarse(t).view(-1, 1, 1, 1), *halves)
                return self.denoise(*mine, x_t, guide, t).float()

            return model

        found = self.options.draw(
            model_for, images.shape, self.schedule, generator, device=images.device,
            parameterisation=self.options.parameterisation, on_step=self.on_step,
        ).mean(0)  # fmt: skip
        return torch.where(given, images, found)

    def _coarse(self, t: Tensor) -> Tensor:
        return 2 * t >= self.options.timesteps

    def _selectable(self, available: Tensor) -> Tensor:
        """Return the modalities that the guide may choose from."""
        if self.options.selection == "dynamic":
            return available
        source, _ = self.guide.sources(available)
        only = torch.zeros_like(available).scatter_(1, source[:, None], True)
        return only & available

    def _unfiltered(self, images: Tensor, available: Tensor) -> Tensor:
        source, _ = self.guide.sources(available)
        index = source.view(-1, 1, 1, 1).expand(-1, 1, *images.shape[2:])
        return images.gather(1, index) * available.any(1).view(-1, 1, 1, 1)


def _mean_of(values: Tensor, where: Tensor) -> Tensor:
    return (values * where).sum() / where.sum().clamp(min=1)


def _task(missing: str, modalities: Sequence[str]) -> frozenset[str]:
    """Read which modalities one task lacks; none where any may be missing."""
    if missing == "any":
        return frozenset()
    names = frozenset(name.strip() for name in missing.split(","))
    if not names < frozenset(modalities):
        raise ValueError(
            f"missing: got {missing!r}, want any, or some but not all of {', '.join(modalities)}"
        )
    return names


def _ranks(modalities: Sequence[str], order: Sequence[str]) -> list[int]:
    """Order channel indices from the most to the least low-frequency content."""
    if unknown := [name for name in modalities if name not in order]:
        raise ValueError(
            f"order: has {', '.join(order)}, wanted a place for {', '.join(unknown)} too, or "
            f"modalities={','.join(name for name in modalities if name in order)}"
        )
    return [list(modalities).index(name) for name in order if name in modalities]
