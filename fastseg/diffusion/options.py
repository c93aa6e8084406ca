"""How a trained diffusion model is sampled, as options checked once for every system."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from fastseg.diffusion.samplers import Model, check_sampler, ensemble
from fastseg.diffusion.schedules import Schedule, linear_schedule
from fastseg.fields import Checked, documented


@dataclass(frozen=True)
class Sampling(Checked):
    """The noise schedule of a diffusion model and how label maps or images are drawn from it.

    `scaled_betas` is the system's own: betas grow with 1000 / timesteps, so that x_T is noise for
    any number of steps, which takes more than 20 of them. Raises UsageError naming a wrong value.

    >>> Sampling(sampling_steps=20, timesteps=10)
    Traceback (most recent call last):
    fastseg.errors.UsageError: sampling_steps: is 20, wanted at most timesteps, 10
    """

    scaled_betas: ClassVar[bool] = False

    timesteps: int = documented("steps of the noise schedule in training", 1000, least=1)
    sampler: Literal["ddpm", "ddim", "dpm++"] = documented(
        "ancestral steps, deterministic ones, or the second-order solver", "ddim", sampling=True
    )
    sampling_steps: int = documented(
        "network evaluations of one draw; 0: all timesteps", 10, sampling=True, least=0
    )
    eta: float = documented("noise of ddim, from 0 for none to 1", 0.0, sampling=True)
    ensemble: int = documented("draws for one prediction", 1, sampling=True, least=1)
    max_batch: int = documented(
        "draws made at a time; bounds memory, changes nothing", 64, sampling=True, least=1
    )

    def check(self) -> None:
        """Raise UsageError for values that do not go together."""
        super().check()
        check_sampler(self.sampler, self.eta)
        enough = self.timesteps > 20 or not self.scaled_betas
        self.want(enough, "timesteps", "more than 20, so that betas stay below 1")
        few = self.sampling_steps <= self.timesteps
        self.want(few, "sampling_steps", f"at most timesteps, {self.timesteps}")

    def schedule(self) -> Schedule:
        """Return the linear schedule of `timesteps`, on the CPU whatever torch's default is."""
        with torch.device("cpu"):
            return linear_schedule(self.timesteps, scaled=self.scaled_betas)

    def draw(
        self, model_for: Callable[[Tensor], Model], shape: Sequence[int], schedule: Schedule,
        generator: Generator, **options,
    ) -> Tensor:  # fmt: skip
        """Draw `ensemble` samples of each of B images.

        Args:
            model_for: maps rows (b,) int64 of the B images to the model (x_t, t) of them.
            shape: (B, C, *S), the shape of one sample of all images.
            generator: of the noise, on the device where the samples are to be.
            options: others of `diffusion.sample`, such as parameterisation.

        Returns:
            float32 (ensemble, B, C, *S).
        """
        return ensemble(
            model_for, shape, schedule, members=self.ensemble, generator=generator,
            max_batch=self.max_batch, steps=self.sampling_steps or None, sampler=self.sampler,
            eta=self.eta, **options,
        )  # fmt: skip
