"""Synthesis of missing modalities by a diffusion that is guided from coarse to fine: a U-Net
denoises the missing images beside the available ones and one frequency-filtered image of these,
low-pass in the first half of the sampling, high-pass in the second (FgC2F-UDiff: Xiao, Hu & Wang,
IEEE Trans. Computational Imaging, 2025, arXiv 2501.03526).

There is no public implementation. The source fixes the five channels, T = 200 split at T/2, the
21-tap guides, their sources and the curriculum's order; the rest is a choice, named in the recipe.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastseg import diffusion
from fastseg.models.parts.unet import UNet
from fastseg.nn.gaussian import FrequencyGuide

GUIDES = ("both", "none", "low", "high", "swapped", "unfiltered")
SELECTIONS = ("dynamic", "fixed")
# chance of 1, 2 and 3 missing modalities in each third of a run
CURRICULUM = ((1.0, 0.0, 0.0), (0.3, 0.7, 0.0), (0.2, 0.3, 0.5))


@dataclass(frozen=True)
class Options:
    """Options of training and sampling. ValueError naming a wrong one."""

    guide: str = "both"  # one of GUIDES; "unfiltered" has a single stage, "none" a channel of zeros
    selection: str = "dynamic"  # "fixed": the low-pass source in both stages
    kernel_size: int = 21  # taps of the guides
    availability_code: bool = True  # tell the network beside the images which are available
    missing: str = "any"  # or the modalities of one task, all that is trained: "t1ce,t2"
    curriculum: bool = True  # off: the mix of the last third all along
    timesteps: int = 200
    parameterisation: str = "epsilon"
    sampler: str = "ddpm"
    sampling_steps: int = 0  # 0: all
    eta: float = 0.0
    ensemble: int = 1  # samples whose mean is the answer
    max_batch: int = 64  # of them at a time

    def __post_init__(self):
        for name, known in (
            ("guide", GUIDES),
            ("selection", SELECTIONS),
            ("parameterisation", ("epsilon", "x0", "v")),
        ):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name}: got {value!r}, want one of {', '.join(known)}")
        diffusion.check_sampler(self.sampler, self.eta)
        for name, least in (("sampling_steps", 0), ("ensemble", 1), ("max_batch", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: got {getattr(self, name)}, want at least {least}")
        if self.timesteps <= 20:
            raise ValueError(f"timesteps: got {self.timesteps}, want more than 20: betas below 1")
        if self.sampling_steps > self.timesteps:
            raise ValueError(
                f"sampling_steps: got {self.sampling_steps}, want at most timesteps, "
                f"{self.timesteps}"
            )


def all_masks(modalities: int) -> Tensor:
    """Every choice of available modalities but none and all, bool (2^M − 2, M), the fewest missing
    first: 14 for four modalities.
    """
    numbers = torch.arange(1, 2**modalities - 1)
    masks = (numbers[:, None] >> torch.arange(modalities) & 1).bool()
    return masks[masks.sum(1).argsort(descending=True, stable=True)]


class System(nn.Module):
    """The denoiser with its loss and its sampler.

    `modalities` are the names of the images' channels, `order` names (others are passed over) from
    the most to the least low-frequency content; the guide's sources follow it. width, multipliers,
    blocks, attention_levels, heads and dropout are those of `unet.UNet`, the rest `Options`.
    ValueError for fewer than 2 or more than 4 modalities, or one that `order` lacks.
    """

    TASK = "synthesis"
    on_step: diffusion.OnStep = None
    axes = 2
    SAMPLING = frozenset({"sampler", "sampling_steps", "eta", "ensemble", "max_batch"})

    def __init__(
        self, in_channels: int, classes: int = 0, *, modalities: Sequence[str],
        order: Sequence[str] = ("t1", "t2", "flair", "pd", "t1ce"), width: int = 64,
        multipliers: Sequence[int] = (1, 2, 3, 4), blocks: int = 2,
        attention_levels: Sequence[int] = (3,), heads: int = 1, dropout: float = 0.0, **options,
    ):  # fmt: skip
        super().__init__()
        self.options, self.modalities = Options(**options), tuple(modalities)
        ranks = _ranks(self.modalities, order)
        self._task = _task(self.options.missing, self.modalities)
        if not 2 <= in_channels == len(self.modalities) <= len(CURRICULUM) + 1:
            raise ValueError(f"modalities: got {self.modalities}, want 2 to {len(CURRICULUM) + 1}")
        with torch.device("cpu"):
            self.schedule = diffusion.linear_schedule(self.options.timesteps, scaled=True)
        stage = self.options.guide if self.options.guide in ("low", "high") else "both"
        self.guide = FrequencyGuide(
            ranks, timesteps=self.options.timesteps, kernel_size=self.options.kernel_size,
            stage=stage,
        )  # fmt: skip
        self.unet = UNet(
            in_channels + 1, in_channels, width, multipliers, blocks, attention_levels, heads,
            dropout=dropout,
        )  # fmt: skip
        self.code = None
        if self.options.availability_code:
            self.code = nn.Linear(in_channels, self.unet.embedding)
        # where the lowest and the highest value of each modality lie in stored intensities, on
        # the average of the training volumes: the scale of an image that never was
        self.register_buffer("intensities", torch.tensor([[0.0, 1.0]]).repeat(in_channels, 1))

    @property
    def multiple(self) -> int:
        """What the sizes of slices must be divisible by."""
        return self.unet.multiple

    def masks(self) -> Tensor:
        """The availability masks that this network serves, bool (N, M)."""
        if not self._task:
            return all_masks(len(self.modalities))
        return torch.tensor([[name not in self._task for name in self.modalities]])

    def draw_masks(self, count: int, progress: float, generator: torch.Generator) -> Tensor:
        """Which modalities are available in training, bool (count, M), on the generator's device:
        the number missing by the curriculum at `progress`, which ones at random.
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
        """The guide channel (B, 1, H, W) in training, of steps t (B,)."""
        kind = self.options.guide
        if kind == "none":
            return torch.zeros_like(images[:, :1])
        if kind == "unfiltered":
            return self._unfiltered(images, available)
        t = self.options.timesteps - 1 - t if kind == "swapped" else t
        return self.guide(images, self._selectable(available), t)

    def guides(self, images: Tensor, available: Tensor) -> tuple[Tensor, Tensor]:
        """The guide channels (B, 1, H, W) of the first and the second half of sampling: what
        `guide_at` gives, once an image.
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
        """The prediction (B, M, H, W) from available images, noisy ones else, and the guide."""
        x = torch.where(available[:, :, None, None], images, noisy)
        code = None if self.code is None else self.code(available.to(self.code.weight.dtype))
        return self.unet(torch.cat([x, guide], 1), t, code)

    def training_loss(
        self, batch: dict, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the prediction over the voxels of the missing modalities."""
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
        self, images: Tensor, available: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Images (B, M, H, W) in −1 … 1 with those not in `available` (B, M) bool filled in, the
        mean of `ensemble` samples; what they held is not looked at. float32.
        """
        options = self.options
        if generator is None:
            generator = torch.Generator(images.device).manual_seed(0)
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

        found = diffusion.ensemble(
            model_for, images.shape, self.schedule, members=options.ensemble,
            generator=generator, max_batch=options.max_batch, device=images.device,
            steps=options.sampling_steps or None, sampler=options.sampler, eta=options.eta,
            parameterisation=options.parameterisation, on_step=self.on_step,
        ).mean(0)  # fmt: skip
        return torch.where(given, images, found)

    def _coarse(self, t: Tensor) -> Tensor:
        return 2 * t >= self.options.timesteps

    def _selectable(self, available: Tensor) -> Tensor:
        """The modalities that the guide may choose from."""
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
    """The modalities that one task lacks; none where any may be missing."""
    if missing == "any":
        return frozenset()
    names = frozenset(name.strip() for name in missing.split(","))
    if not names < frozenset(modalities):
        raise ValueError(
            f"missing: got {missing!r}, want any, or some but not all of {', '.join(modalities)}"
        )
    return names


def _ranks(modalities: Sequence[str], order: Sequence[str]) -> list[int]:
    """Channel indices from the most to the least low-frequency content."""
    if unknown := [name for name in modalities if name not in order]:
        raise ValueError(
            f"order: has {', '.join(order)}, wanted a place for {', '.join(unknown)} too, or "
            f"modalities={','.join(name for name in modalities if name in order)}"
        )
    return [list(modalities).index(name) for name in order if name in modalities]
