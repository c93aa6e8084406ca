"""What every system is: a network with typed options, a training loss and predictions.

The driver trains and asks systems through these names alone; each has a default here, so that
nobody needs to look whether a system has it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from fastseg.diffusion import OnStep
from fastseg.errors import UsageError, did_you_mean
from fastseg.fields import Checked


@dataclass(frozen=True)
class Channels:
    """What the data set, not the recipe, decides about a network.

    images: channels of its input; classes: of the label maps, background included; regions: class
    indices of each nested region; modalities: names of the images' channels.
    """

    images: int
    classes: int = 0
    regions: tuple[tuple[int, ...], ...] = ()
    modalities: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Options(Checked):
    """Base of a system's options: one typed field each, with its help, default and limits.

    Raises UsageError naming a wrong field when it is made.
    """

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Options":
        """Make the options from names and values, as recipes and checkpoints have them.

        Fields that are not given have their defaults. Raises UsageError, one line that begins with
        `model.NAME`, for an unknown name, a wrong type and a wrong value.

        >>> Options.from_dict({"width": 8})
        Traceback (most recent call last):
        fastseg.errors.UsageError: model.width: the system has no such option; it has none
        """
        known = {item.name for item in fields(cls)}
        for name in values:
            if name not in known:
                hint = did_you_mean(name, known) if known else "; it has none"
                raise UsageError(f"model.{name}: the system has no such option{hint}")
        try:
            return cls(**values)
        except UsageError as error:
            raise UsageError(f"model.{error}") from None


class System(nn.Module):
    """A network of images (B, C, *S) with its loss and its class probabilities.

    A subclass names its `Options` class and takes (channels: Channels, options: Options). What it
    keeps between steps lives in registered float buffers.
    """

    Options: ClassVar[type[Options]] = Options
    task: ClassVar[str] = "segmentation"  # the name of what it does, in `fastseg.tasks`
    predicts_variance: ClassVar[bool] = False  # then it has `predict_with_variance` too
    axes: int | None = None  # spatial axes of the patches that it takes; None: any
    multiple: int = 1  # what their sizes must be divisible by
    on_step: OnStep = None  # what a user wants called in each step of sampling (t, x_t, x̂_0)

    def __init__(self, options: Options):
        super().__init__()
        self.options = options

    def training_loss(
        self, batch: dict[str, Any], generator: Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of one part of a step's batch, and scalars to log.

        Args:
            batch: "image" (B, C, *S) float, "label" (B, *S) integer, "case", "seed", "progress",
                the share of the run that is done, in [0, 1); with `labelled_fraction` also
                "unlabelled", images of other patients, with `data.bezier_domains` "domain" (B,).
            generator: of all noise that the loss draws, on the batch's device.

        Returns:
            the scalar to minimise, float32, and detached scalars by name.
        """
        raise NotImplementedError

    def after_step(self) -> None:
        """Do what follows a step of the optimiser; nothing, unless a system says so."""

    def predict(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        """Return class probabilities (B, K, *S) float32 of images (B, C, *S).

        generator: of the noise of systems that sample; from a fixed seed where it is not given.
        """
        raise NotImplementedError

    def decide(self, probabilities: Tensor) -> Tensor:
        """Return class indices (B, *S) int64 for class probabilities (B, K, *S)."""
        return probabilities.argmax(1)


class SynthesisSystem(System):
    """A network that fills in missing modalities of images (B, M, *S) instead of segmenting."""

    task = "synthesis"

    def masks(self) -> Tensor:
        """Return the choices of available modalities that it serves, bool (N, M)."""
        raise NotImplementedError

    def synthesise(
        self, images: Tensor, available: Tensor, generator: Generator | None = None
    ) -> Tensor:
        """Return images (B, M, *S) with those that are not in `available` (B, M) bool filled in."""
        raise NotImplementedError


def own_generator(generator: Generator | None, device: torch.device) -> Generator:
    """Return the generator, or one of seed 0 on the device where there is none."""
    return torch.Generator(device).manual_seed(0) if generator is None else generator
