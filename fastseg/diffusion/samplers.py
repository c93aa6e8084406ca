"""Samplers of diffusion models: ancestral DDPM, DDIM and DPM-Solver++(2M), alone and in ensembles.

Pure functions; schedules and parameterisations come along from `schedules`. Every sampler ends
with the network's word on x_0 at the last time step, as all of them do when ᾱ becomes 1.

Own code, because MONAI's schedulers do not serve: DDIM's steps of T // steps leave its own indices
(999 → 899, not 888); respaced DDPM keeps the betas of all steps, and its learned range mixes
variances, not their logarithms; there is no DPM-Solver++ and no dynamic threshold.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor

from fastseg.diffusion.schedules import Schedule, respaced_timesteps, to_x0, wide
from fastseg.errors import UsageError

Model = Callable[[Tensor, Tensor], Tensor | tuple[Tensor, Tensor]]
Generators = Generator | Sequence[Generator] | None
SAMPLERS = ("ddpm", "ddim", "dpm++")
OnStep = Callable[[int, Tensor, Tensor], None] | None


def sample(
    model: Model,
    x_T: Tensor,
    schedule: Schedule,
    *,
    steps: int | Sequence[int] | None = None,
    sampler: str = "ddim",
    eta: float = 0.0,
    parameterisation: str = "epsilon",
    x0_range: tuple[float, float] | None = (-1.0, 1.0),
    dynamic_quantile: float | None = None,
    generator: Generators = None,
    learned_variance: bool = False,
    on_step: OnStep = None,
) -> Tensor:
    """Draw x̂_0 from noise by a trained model; gradients are recorded as the caller's mode says.

    Args:
        model: called as model(x_t, t), x_t like x_T and t (B,) int64, indices of the whole
            schedule; it returns its prediction like x_t.
        x_T: standard normal noise (B, C, *S).
        schedule: the noise of training.
        steps: how many, spread evenly (None: all), or the indices themselves, ascending.
        sampler: "ddpm", ancestral with the posterior's variance (Ho et al., 2020); "ddim" (Song et
            al., 2021); "dpm++", the multistep solver of second order (Lu et al., DPM-Solver++,
            2022), most exact at `logsnr_timesteps`.
        eta: noise of ddim, 0 to 1.
        parameterisation: what the model predicts: "epsilon", "x0" or "v".
        x0_range: what x̂_0 is held to in every step, None for anything.
        dynamic_quantile: hold x̂_0 by `dynamic_threshold` at this quantile; None: by clamping.
        generator: of the noise that ddpm and ddim with eta > 0 add; or one for each row of x_T,
            which makes rows independent of their neighbours.
        learned_variance: the model returns (prediction, v), or both stacked to 2C channels; only
            "ddpm" uses v.
        on_step: called as on_step(t, x_t, x̂_0) in every step.

    Returns:
        x̂_0 (B, C, *S), in x_T's dtype and on its device.

    Raises:
        UsageError: a bad argument (also a ValueError).

    >>> from fastseg.diffusion import linear_schedule
    >>> x_T, schedule = torch.randn(1, 1, 4, 4), linear_schedule(10)
    >>> sample(lambda x_t, t: torch.zeros_like(x_t), x_T, schedule, steps=2).shape
    torch.Size([1, 1, 4, 4])
    """
    indices = _indices(schedule, steps)
    step = _solver(sampler, eta, schedule.alphas_cumprod[indices].tolist(), generator)
    limit = _limiter(x0_range, dynamic_quantile)
    x = x_T.to(wide(x_T.dtype))
    for i in reversed(range(len(indices))):
        t = torch.full(x.shape[:1], indices[i], device=x.device, dtype=torch.int64)
        prediction, v = _split(model(x.to(x_T.dtype), t), x_T, learned_variance)
        x0 = limit(to_x0(schedule, prediction, x, t, parameterisation))
        if on_step is not None:
            on_step(indices[i], x, x0)
        if i == 0:
            return x0.to(x_T.dtype)
        x = step(i, x, x0, v)


def ensemble(
    model_for: Callable[[Tensor], Model],
    shape: Sequence[int],
    schedule: Schedule,
    *,
    members: int,
    generator: Generator,
    max_batch: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    **options,
) -> Tensor:
    """Draw several samples of each of B images, all as one batch.

    Every row draws its noise from a generator of its own, seeded from `generator`: the result does
    not depend on `max_batch`.

    Args:
        model_for: called with rows (b,) int64, indices into the B images, returns the `model` of
            `sample` for such a batch: what depends on the image alone is computed once outside and
            indexed there.
        shape: (B, C, *S) of one sample of all images.
        schedule: the noise of training.
        members: samples of each image, from 1.
        generator: what the seeds of all rows are drawn from.
        max_batch: rows made at a time, None for all.
        dtype: of the noise and the result.
        device: of the samples; the generator's unless given.
        options: the others of `sample`.

    Returns:
        (members, B, C, *S).

    >>> from fastseg.diffusion import linear_schedule
    >>> def model_for(rows):
    ...     return lambda x_t, t: torch.zeros_like(x_t)
    >>> schedule, generator = linear_schedule(10), torch.Generator().manual_seed(0)
    >>> ensemble(model_for, (2, 1, 4), schedule, members=3, generator=generator, steps=2).shape
    torch.Size([3, 2, 1, 4])
    """
    if members < 1 or (max_batch is not None and max_batch < 1):
        raise UsageError(f"members, max_batch: are {members}, {max_batch}; wanted at least 1")
    total, device = members * shape[0], torch.device(device or generator.device)
    seeds = torch.randint(2**62, (total,), generator=generator, device=generator.device)
    own = [Generator(generator.device).manual_seed(seed) for seed in seeds.tolist()]
    rows = torch.arange(shape[0], device=device).repeat(members)
    limit = max_batch or max(total, 1)
    found = []
    for start in range(0, max(total, 1), limit):
        part = slice(start, start + limit)
        x_T = _draw((len(rows[part]), *shape[1:]), dtype, device, own[part])
        model = model_for(rows[part])
        found.append(sample(model, x_T, schedule, generator=own[part], **options))
    return torch.cat(found).unflatten(0, (members, shape[0]))


def dynamic_threshold(
    x0: Tensor, quantile: float, x0_range: tuple[float, float] = (-1.0, 1.0)
) -> Tensor:
    """Scale x0 (B, *) back into a range, sample by sample, so that all but the part 1 − quantile of
    its values keep their proportions; those are cut off (Saharia et al., Imagen, 2022).
    A sample whose quantile lies in the range is only clamped.

    >>> dynamic_threshold(torch.tensor([[0.5, -2.0], [0.5, 0.25]]), 1.0)
    tensor([[ 0.2500, -1.0000],
            [ 0.5000,  0.2500]])
    """
    centre, half = (x0_range[1] + x0_range[0]) / 2, (x0_range[1] - x0_range[0]) / 2
    away = (x0 - centre).flatten(1)
    rank = math.ceil(quantile * (away.shape[1] - 1)) + 1
    # not torch.quantile, which refuses more than 2^24 values: less than one BraTS volume's
    bound = away.abs().kthvalue(rank, dim=1, keepdim=True).values.clamp(min=half)
    return (away.clamp(-bound, bound) * (half / bound)).view_as(x0) + centre


def _indices(schedule: Schedule, steps: int | Sequence[int] | None) -> list[int]:
    if steps is None or isinstance(steps, int):
        return respaced_timesteps(schedule.steps, schedule.steps if steps is None else steps)
    indices = list(steps)
    if (
        not indices
        or indices != sorted(set(indices))
        or not 0 <= indices[0] <= indices[-1] < schedule.steps
    ):
        raise UsageError(f"steps: are {indices}, wanted ascending indices below {schedule.steps}")
    return indices


def _limiter(
    x0_range: tuple[float, float] | None, quantile: float | None
) -> Callable[[Tensor], Tensor]:
    if quantile is None:
        return (lambda x0: x0) if x0_range is None else (lambda x0: x0.clamp(*x0_range))
    if x0_range is None or not 0 < quantile <= 1:
        raise UsageError(f"dynamic_quantile: is {quantile} of {x0_range}, wanted (0, 1] of a range")
    return lambda x0: dynamic_threshold(x0, quantile, x0_range)


def _split(
    output: Tensor | tuple[Tensor, Tensor], x: Tensor, learned_variance: bool
) -> tuple[Tensor, Tensor | None]:
    """Part what a model returned into (prediction, v); v is None where no variance is learnt."""
    prediction, v = output, None
    if learned_variance:
        prediction, v = output.chunk(2, 1) if isinstance(output, Tensor) else output
    if not isinstance(prediction, Tensor) or prediction.shape != x.shape:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        want = "twice its channels, or two like it" if learned_variance else "one like it"
        raise UsageError(f"model: returned {got} for x_t {tuple(x.shape)}, wanted {want}")
    return prediction, v


Step = Callable[[int, Tensor, Tensor, Tensor | None], Tensor]


def check_sampler(sampler: str, eta: float) -> None:
    """Raise UsageError for an unknown sampler, and for noise that it does not take.

    >>> check_sampler("ddim", 0.5)
    """
    if sampler not in SAMPLERS:
        raise UsageError(f"sampler: is {sampler!r}, wanted {', '.join(SAMPLERS)}")
    if not 0 <= eta <= 1 or (eta and sampler != "ddim"):
        raise UsageError(f"eta: is {eta} for {sampler!r}, wanted 0 to 1, and 0 for all but ddim")


def _solver(sampler: str, eta: float, bars: list[float], generator: Generators) -> Step:
    """Return a sampler's step(i, x, x̂_0, v) from x of bars[i] to x of bars[i − 1]; bars are ᾱ."""
    check_sampler(sampler, eta)
    if sampler == "ddpm":
        return _ancestral(bars, generator)
    return _ddim(bars, generator, eta) if sampler == "ddim" else _dpm_solver(bars)


def _ancestral(bars: list[float], generator: Generators) -> Step:
    def step(i, x, x0, v):
        here, there = bars[i], bars[i - 1]
        beta = 1 - here / there  # of the whole step, however many of the schedule's it spans
        smallest = beta * (1 - there) / (1 - here)
        mean = math.sqrt(there) * beta / (1 - here) * x0
        mean = mean + math.sqrt(here / there) * (1 - there) / (1 - here) * x
        noise = _draw(x.shape, x.dtype, x.device, generator)
        if v is None:
            return mean + math.sqrt(smallest) * noise
        share = (v.to(x.dtype) + 1) / 2
        return mean + (0.5 * (math.log(smallest) + share * math.log(beta / smallest))).exp() * noise

    return step


def _ddim(bars: list[float], generator: Generators, eta: float) -> Step:
    def step(i, x, x0, v):
        here, there = bars[i], bars[i - 1]
        towards = (x - math.sqrt(here) * x0) / math.sqrt(1 - here)  # ε̂ of the limited x̂_0
        variance = eta**2 * (1 - there) / (1 - here) * (1 - here / there)
        x = math.sqrt(there) * x0 + math.sqrt(1 - there - variance) * towards
        if not eta:
            return x
        return x + math.sqrt(variance) * _draw(x.shape, x.dtype, x.device, generator)

    return step


def _dpm_solver(bars: list[float]) -> Step:
    """Extrapolate x̂_0 linearly in λ = ½·ln(ᾱ/(1−ᾱ)) from this evaluation and the one before.

    The last step takes x̂_0 as it is: λ grows fastest there, and extrapolating so far would cost
    more than the second order gains until there are about a hundred steps.
    """
    widths = [math.nan, *(_half_log_snr(a) - _half_log_snr(b) for a, b in pairwise(bars))]
    before: Tensor | None = None

    def step(i, x, x0, v):
        nonlocal before
        direction = x0
        if before is not None and i > 1:
            direction = x0 + (x0 - before) * (widths[i] / (2 * widths[i + 1]))
        before = x0
        x = math.sqrt((1 - bars[i - 1]) / (1 - bars[i])) * x
        return x - math.sqrt(bars[i - 1]) * math.expm1(-widths[i]) * direction

    return step


def _half_log_snr(bar: float) -> float:
    return 0.5 * math.log(bar / (1 - bar))


def _draw(
    shape: Sequence[int], dtype: torch.dtype, device: torch.device, generator: Generators
) -> Tensor:
    """Draw standard normal noise where the generator lives, row by row where each has its own."""
    if generator is None or isinstance(generator, Generator):
        source = device if generator is None else generator.device
        noise = torch.randn(shape, generator=generator, device=source, dtype=dtype)
        return noise.to(device)
    if len(generator) != shape[0]:
        raise UsageError(f"generator: are {len(generator)}, wanted one or {shape[0]}, one a row")
    rows = [_draw(shape[1:], dtype, device, own) for own in generator]
    return torch.stack(rows) if rows else torch.empty(shape, dtype=dtype, device=device)
