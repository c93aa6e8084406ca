"""Diffusion: schedules against published figures, samplers against what is known of them.

Two networks have closed forms: the oracle, which knows x_0, and the posterior mean of Gaussian
data, for which the probability flow keeps (x_t − mean)/(standard deviation) of x_t constant.
"""

import math

import pytest
import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from tolerances import relative_error

from fastseg import diffusion
from fastseg.diffusion import (
    cosine_schedule,
    linear_schedule,
    respaced_timesteps,
    sample,
)
from fastseg.errors import UsageError

F64 = torch.float64
PARAMETERISATIONS = ("epsilon", "x0", "v")
SOURCE = linear_schedule()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=F64):
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


def oracle(schedule, x0, parameterisation):
    """A network that knows x0 and says so in its own parameterisation."""

    def model(x_t, t):
        noise = diffusion.to_noise(schedule, x0, x_t, t, "x0")
        return diffusion.target(schedule, x0, noise, t, parameterisation)

    return model


MEAN, SPREAD = 0.3, 0.5


def gaussian(schedule):
    """The exact x̂_0 = E[x_0 | x_t] of independent voxels of N(MEAN, SPREAD²)."""

    def model(x_t, t):
        bar = schedule.alphas_cumprod[t].view(-1, *(1,) * (x_t.ndim - 1)).to(x_t)
        gain = bar.sqrt() * SPREAD**2 / (bar * SPREAD**2 + 1 - bar)
        return MEAN + gain * (x_t - bar.sqrt() * MEAN)

    return model


def exact_flow(schedule, x_T, indices):
    """x̂_0 at the last index of the exact probability flow of `gaussian` from x_T."""
    first, last = (schedule.alphas_cumprod[indices[i]] for i in (-1, 0))
    spread = [torch.sqrt(bar * SPREAD**2 + 1 - bar) for bar in (first, last)]
    x = last.sqrt() * MEAN + (x_T - first.sqrt() * MEAN) * spread[1] / spread[0]
    return gaussian(schedule)(x, torch.full(x.shape[:1], indices[0]))


# schedules


def test_published_values_of_the_linear_schedule():
    assert SOURCE.steps == 1000
    assert SOURCE.alphas_cumprod[-1].item() == pytest.approx(4.0358e-5, rel=1e-4)
    assert SOURCE.alphas_cumprod[499].item() == pytest.approx(0.0786, abs=5e-5)
    scaled = linear_schedule(200, scaled=True)
    assert scaled.betas[[0, -1]].tolist() == pytest.approx([5e-4, 0.1])
    assert scaled.alphas_cumprod[-1].item() == pytest.approx(3.0e-5, rel=0.02)
    assert linear_schedule(200).alphas_cumprod[-1].item() == pytest.approx(0.132, abs=5e-4)


def test_the_cosine_schedule_follows_its_formula():
    schedule = cosine_schedule(1000)

    def signal(t):
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (0, 1, 500, 900):
        assert schedule.alphas_cumprod[t].item() == pytest.approx(signal(t + 1) / signal(0))
    assert schedule.betas.max() == 0.999
    assert schedule.alphas_cumprod.dtype == F64


def test_bad_schedules_are_refused():
    for betas in ([], [0.0, 0.1], [0.1, 1.0], [0.1, float("nan")]):
        with pytest.raises(UsageError, match="betas"):
            diffusion.Schedule(torch.tensor(betas))


def test_respaced_timesteps():
    assert respaced_timesteps(1000, 10) == list(range(0, 1000, 111))
    assert respaced_timesteps(1000, 1000) == list(range(1000))
    assert respaced_timesteps(200, 1) == [199]
    for steps, found in ((20, 20), (50, 50), (7, 7), (1000, 1000)):
        indices = respaced_timesteps(1000, steps)
        assert len(set(indices)) == found
        assert (indices[0], indices[-1]) == (0, 999)
        assert indices == sorted(indices)
        theirs = DDIMScheduler()
        theirs.set_timesteps(steps)
        assert indices == theirs.timesteps.flip(0).tolist()
    for steps in (0, 1001):
        with pytest.raises(UsageError, match="steps"):
            respaced_timesteps(1000, steps)


# parameterisations


@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
@pytest.mark.parametrize("shape", [(6, 4), (6, 2, 5, 3), (6, 1, 3, 4, 2)])
def test_conversions_are_exact(parameterisation, shape):
    x0, noise = normal(*shape, seed=1), normal(*shape, seed=2)
    t = torch.tensor([0, 1, 10, 400, 998, 999])
    x_t = diffusion.add_noise(SOURCE, x0, noise, t)
    prediction = diffusion.target(SOURCE, x0, noise, t, parameterisation)
    for i, bar in enumerate(SOURCE.alphas_cumprod[t].tolist()):
        assert torch.allclose(x_t[i], bar**0.5 * x0[i] + (1 - bar) ** 0.5 * noise[i], rtol=1e-12)
    assert torch.allclose(
        diffusion.to_x0(SOURCE, prediction, x_t, t, parameterisation), x0, rtol=1e-9, atol=1e-11
    )
    assert torch.allclose(
        diffusion.to_noise(SOURCE, prediction, x_t, t, parameterisation),
        noise,
        rtol=1e-9,
        atol=1e-11,
    )


def test_velocity_is_monais():
    x0, noise, t = normal(3, 2, 4), normal(3, 2, 4, seed=1), torch.tensor([0, 500, 999])
    theirs = DDPMScheduler()
    assert (
        relative_error(
            diffusion.target(SOURCE, x0, noise, t, "v"), theirs.get_velocity(x0, noise, t)
        )
        < 1e-5
    )
    assert (
        relative_error(diffusion.add_noise(SOURCE, x0, noise, t), theirs.add_noise(x0, noise, t))
        < 1e-5
    )


# samplers


@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
@pytest.mark.parametrize("sampler", ["ddim", "dpm++", "ddpm"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 50])
def test_an_oracle_comes_back(sampler, parameterisation, steps):
    x0 = normal(2, 3, 4, 5, seed=1).clamp(-1, 1)
    found = sample(
        oracle(SOURCE, x0, parameterisation),
        normal(2, 3, 4, 5),
        SOURCE,
        steps=steps,
        sampler=sampler,
        parameterisation=parameterisation,
    )
    assert (found - x0).abs().max() < 1e-12
