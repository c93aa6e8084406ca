"""Gaussian diffusion: noise schedules, what a network may predict, and the posterior of one step.

x_t = √ᾱ_t·x_0 + √(1−ᾱ_t)·ε with indices t = 0 … T−1 (Ho et al., DDPM, 2020). Tables are float64;
arithmetic is float32, or float64 where x is; results have x's dtype and device. MONAI's schedulers
are an oracle of the tests and no more: their tables are float32, and rounded further to x's dtype.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastseg.errors import UsageError

PARAMETERISATIONS = ("epsilon", "x0", "v")


@dataclass(frozen=True, eq=False)
class Schedule:
    """Variances of the forward process: betas and ᾱ_t = Π_{s≤t} (1 − β_s), float64 (T,) on the CPU.

    UsageError unless every beta lies strictly between 0 and 1.
    """

    betas: Tensor
    alphas_cumprod: Tensor = field(init=False)
    _tables: dict = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self):
        betas = self.betas.detach().to("cpu", torch.float64)
        if betas.ndim != 1 or not len(betas) or not ((betas > 0) & (betas < 1)).all():
            raise UsageError(f"betas: want (T,) strictly between 0 and 1, got {self.betas}")
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "alphas_cumprod", (1 - betas).cumprod(0))

    @property
    def steps(self) -> int:
        """Return T, the number of time steps."""
        return len(self.betas)

    def at(self, table: str, t: Tensor, x: Tensor) -> Tensor:
        """Return entries t (B,) of a table as (B, 1, …), in x's arithmetic type, on its device."""
        if t.shape != x.shape[:1]:
            raise UsageError(f"t: is {tuple(t.shape)}, wanted (B,) of x {tuple(x.shape)}")
        key = (table, x.device, wide(x.dtype))
        if key not in self._tables:  # kept: copying it in every step would wait for the device
            values = _TABLES[table](self.betas, self.alphas_cumprod)
            self._tables[key] = values.to(device=x.device, dtype=key[2])
        return self._tables[key][t.to(x.device)].view(-1, *(1,) * (x.ndim - 1))


def linear_schedule(
    steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 2e-2, scaled: bool = False
) -> Schedule:
    """Make a schedule whose betas rise linearly (Ho et al., 2020).

    Args:
        steps: T, from 1.
        beta_start: the first beta.
        beta_end: the last one.
        scaled: multiply betas by 1000 / steps, so that x_T is noise for any number of steps above
            20 (Nichol and Dhariwal, 2021).

    >>> linear_schedule(1000).alphas_cumprod[-1].item() < 1e-4
    True
    """
    factor = 1000 / steps if scaled else 1.0
    return Schedule(torch.linspace(beta_start, beta_end, steps, dtype=torch.float64) * factor)


def cosine_schedule(steps: int, offset: float = 0.008) -> Schedule:
    """Make a schedule whose ᾱ follows a squared cosine, betas at most 0.999 (Nichol and Dhariwal,
    2021). steps: T; offset: keeps the first betas from being too small.

    >>> cosine_schedule(50).steps
    50
    """
    time = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    signal = torch.cos((time + offset) / (1 + offset) * math.pi / 2) ** 2
    return Schedule((1 - signal[1:] / signal[:-1]).clamp(max=0.999))


def add_noise(schedule: Schedule, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Draw from q(x_t | x_0): √ᾱ_t·x_0 + √(1−ᾱ_t)·noise.

    Args:
        schedule: gives ᾱ.
        x0: (B, *) of any float type.
        noise: standard normal, of x0's shape.
        t: (B,) int64, 0 … T − 1.

    Returns:
        x_t, of x0's shape and type.

    >>> x0, noise = torch.ones(2, 3), torch.zeros(2, 3)
    >>> add_noise(linear_schedule(10), x0, noise, torch.tensor([0, 9])).shape
    torch.Size([2, 3])
    """
    mixed = schedule.at("signal", t, x0) * x0 + schedule.at("noise", t, x0) * noise
    return mixed.to(x0.dtype)


def target(
    schedule: Schedule, x0: Tensor, noise: Tensor, t: Tensor, parameterisation: str
) -> Tensor:
    """Return what a network of this parameterisation is to predict.

    Args:
        schedule, x0, noise, t: those of `add_noise`.
        parameterisation: "epsilon" for the noise, "x0", or "v" = √ᾱ_t·ε − √(1−ᾱ_t)·x_0 (Salimans
            and Ho, 2022).

    >>> x0, noise, t = torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([3])
    >>> target(linear_schedule(10), x0, noise, t, "epsilon")
    tensor([[0., 0.]])
    """
    _check_parameterisation(parameterisation)
    if parameterisation == "epsilon":
        return noise.to(x0.dtype)
    if parameterisation == "x0":
        return x0
    return (schedule.at("signal", t, x0) * noise - schedule.at("noise", t, x0) * x0).to(x0.dtype)


def to_x0(
    schedule: Schedule, prediction: Tensor, x_t: Tensor, t: Tensor, parameterisation: str
) -> Tensor:
    """Return the x_0 that a prediction at x_t stands for.

    Args:
        schedule: that of `add_noise`.
        prediction: (B, *), what a network of the parameterisation said.
        x_t: (B, *).
        t: (B,) int64.
        parameterisation: that of `target`.

    >>> schedule, t = linear_schedule(10), torch.tensor([3])
    >>> x0, noise = torch.ones(1, 2), torch.rand(1, 2)
    >>> x_t = add_noise(schedule, x0, noise, t)
    >>> torch.allclose(to_x0(schedule, noise, x_t, t, "epsilon"), x0)
    True
    """
    _check_parameterisation(parameterisation)
    if parameterisation == "x0":
        return prediction.to(x_t.dtype)
    signal, noise = schedule.at("signal", t, x_t), schedule.at("noise", t, x_t)
    if parameterisation == "epsilon":
        return ((x_t - noise * prediction) / signal).to(x_t.dtype)
    return (signal * x_t - noise * prediction).to(x_t.dtype)


def to_noise(
    schedule: Schedule, prediction: Tensor, x_t: Tensor, t: Tensor, parameterisation: str
) -> Tensor:
    """Return the noise ε that a prediction at x_t stands for. Arguments as `to_x0`'s.

    >>> schedule, t = linear_schedule(10), torch.tensor([3])
    >>> x0, noise = torch.ones(1, 2), torch.rand(1, 2)
    >>> x_t = add_noise(schedule, x0, noise, t)
    >>> torch.allclose(to_noise(schedule, x0, x_t, t, "x0"), noise, atol=1e-5)
    True
    """
    _check_parameterisation(parameterisation)
    if parameterisation == "epsilon":
        return prediction.to(x_t.dtype)
    signal, noise = schedule.at("signal", t, x_t), schedule.at("noise", t, x_t)
    if parameterisation == "x0":
        return ((x_t - signal * prediction) / noise).to(x_t.dtype)
    return (signal * prediction + noise * x_t).to(x_t.dtype)


def posterior(schedule: Schedule, x0: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and log-variance of q(x_{t−1} | x_t, x_0) (Ho et al., 2020, equation 7).

    At t = 0 the variance is 0; its logarithm is replaced by that of t = 1, as is usual.

    Args:
        schedule: that of `add_noise`.
        x0: (B, *).
        x_t: (B, *).
        t: (B,) int64.

    Returns:
        the mean (B, *) and the log-variance (B, 1, …).

    >>> x = torch.ones(2, 3)
    >>> mean, log_variance = posterior(linear_schedule(10), x, x, torch.tensor([0, 9]))
    >>> mean.shape, log_variance.shape
    (torch.Size([2, 3]), torch.Size([2, 1]))
    """
    mean = schedule.at("mean_x0", t, x_t) * x0 + schedule.at("mean_xt", t, x_t) * x_t
    return mean.to(x_t.dtype), schedule.at("log_posterior", t, x_t)


def learned_range_log_variance(schedule: Schedule, v: Tensor, t: Tensor) -> Tensor:
    """Return the log-variance of the reverse step for a network's second output: from the
    posterior's at v = −1 to log β_t at v = 1 (Nichol and Dhariwal, 2021, equation 15).

    Args:
        schedule: that of `add_noise`.
        v: (B, *), the second output.
        t: (B,) int64.

    >>> v, t = torch.zeros(2, 3), torch.tensor([0, 9])
    >>> learned_range_log_variance(linear_schedule(10), v, t).shape
    torch.Size([2, 3])
    """
    low, high = schedule.at("log_posterior", t, v), schedule.at("log_beta", t, v)
    return torch.lerp(low, high, (v.to(low.dtype) + 1) / 2).to(v.dtype)


def respaced_timesteps(schedule_steps: int, steps: int) -> list[int]:
    """Return `steps` indices, ascending and evenly spread over 0 … T−1, both ends included; T−1
    alone for one step. UsageError unless 1 ≤ steps ≤ T, which is schedule_steps.

    >>> respaced_timesteps(1000, 4)
    [0, 333, 666, 999]
    """
    if not 1 <= steps <= schedule_steps:
        raise UsageError(f"steps: is {steps}, wanted 1 to the schedule's {schedule_steps}")
    if steps == 1:
        return [schedule_steps - 1]
    return [round(i * (schedule_steps - 1) / (steps - 1)) for i in range(steps)]


def logsnr_timesteps(schedule: Schedule, steps: int) -> list[int]:
    """Return indices 0 … T−1, ascending and evenly spread in λ = ½·ln(ᾱ/(1−ᾱ)), both ends included.

    Where the schedule is coarser than that, indices fall together: there are fewer than `steps`.
    UsageError unless 2 ≤ steps ≤ T.

    >>> indices = logsnr_timesteps(linear_schedule(1000), 5)
    >>> indices[0], indices[-1]
    (0, 999)
    """
    if not 2 <= steps <= schedule.steps:
        raise UsageError(f"steps: is {steps}, wanted 2 to the schedule's {schedule.steps}")
    level = schedule.alphas_cumprod.logit()
    wanted = torch.linspace(level[0], level[-1], steps, dtype=level.dtype)
    nearest = (level - wanted[:, None]).abs().argmin(1)
    return nearest.unique().tolist()


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type that arithmetic on `dtype` is done in.

    >>> wide(torch.bfloat16)
    torch.float32
    """
    return torch.promote_types(dtype, torch.float32)


def _check_parameterisation(name: str) -> None:
    if name not in PARAMETERISATIONS:
        raise UsageError(f"parameterisation: is {name!r}, wanted {', '.join(PARAMETERISATIONS)}")


def _before(bar: Tensor) -> Tensor:
    """Shift ᾱ to ᾱ_{t−1}, which is 1 for t = 0."""
    return torch.cat([torch.ones_like(bar[:1]), bar[:-1]])


def _log_posterior(beta: Tensor, bar: Tensor) -> Tensor:
    variance = beta * (1 - _before(bar)) / (1 - bar)
    variance[0] = variance[min(1, len(beta) - 1)]
    return variance.log()


_TABLES = {
    "signal": lambda beta, bar: bar.sqrt(),
    "noise": lambda beta, bar: (1 - bar).sqrt(),
    "mean_x0": lambda beta, bar: beta * _before(bar).sqrt() / (1 - bar),
    "mean_xt": lambda beta, bar: (1 - beta).sqrt() * (1 - _before(bar)) / (1 - bar),
    "log_beta": lambda beta, bar: beta.log(),
    "log_posterior": _log_posterior,
}
