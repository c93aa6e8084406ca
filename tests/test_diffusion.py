"""Diffusion: schedules against published figures, samplers against what is known of them.

Two networks have closed forms: the oracle, which knows x_0, and the posterior mean of Gaussian
data, for which the probability flow keeps (x_t − mean)/(standard deviation) of x_t constant.
"""

import itertools
import math

import pytest
import torch
from tolerances import FORWARD, assert_near, relative_error

from fastseg import diffusion
from fastseg.diffusion import (
    cosine_schedule,
    ensemble,
    learned_range_log_variance,
    linear_schedule,
    logsnr_timesteps,
    posterior,
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
    schedulers = pytest.importorskip("monai.networks.schedulers")
    assert respaced_timesteps(1000, 10) == list(range(0, 1000, 111))
    assert respaced_timesteps(1000, 1000) == list(range(1000))
    assert respaced_timesteps(200, 1) == [199]
    for steps, found in ((20, 20), (50, 50), (7, 7), (1000, 1000)):
        indices = respaced_timesteps(1000, steps)
        assert len(set(indices)) == found
        assert (indices[0], indices[-1]) == (0, 999)
        assert indices == sorted(indices)
        theirs = schedulers.DDIMScheduler()
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
    theirs = pytest.importorskip("monai.networks.schedulers").DDPMScheduler()
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


def test_an_oracle_outside_the_range_is_held_to_it():
    x0 = 3 * normal(2, 3, 8, seed=1)
    for sampler in ("ddim", "dpm++", "ddpm"):
        found = sample(
            oracle(SOURCE, x0, "epsilon"), normal(2, 3, 8), SOURCE, steps=5, sampler=sampler
        )
        assert (found - x0.clamp(-1, 1)).abs().max() < 1e-9
        free = sample(
            oracle(SOURCE, x0, "v"), normal(2, 3, 8), SOURCE, steps=5, sampler=sampler,
            parameterisation="v", x0_range=None,
        )  # fmt: skip
        assert (free - x0).abs().max() < 1e-12


def orders(sampler, schedule, grids):
    """log₂ of how much the largest error against the exact flow falls from grid to grid."""
    x_T, errors = normal(1, 200), []
    for indices in grids:
        found = sample(
            gaussian(schedule), x_T, schedule, steps=indices, sampler=sampler,
            parameterisation="x0", x0_range=None,
        )  # fmt: skip
        errors.append((found - exact_flow(schedule, x_T, indices)).abs().max().item())
    return [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)], errors


def test_orders_of_convergence():
    schedule = linear_schedule(100_000, scaled=True)  # fine enough for rounded indices not to show
    grids = [logsnr_timesteps(schedule, n + 1) for n in (40, 80, 160)]
    first, euler = orders("ddim", schedule, grids)
    second, solver = orders("dpm++", schedule, grids)
    assert first == pytest.approx([1, 1], abs=0.1)
    assert second == pytest.approx([2, 2], abs=0.1)
    assert solver[0] < euler[0] / 10


def test_few_steps_of_the_solver_beat_ddim():
    for steps in (10, 20, 50):
        for indices in (respaced_timesteps(1000, steps), logsnr_timesteps(SOURCE, steps)):
            (_, ddim), (_, solver) = (orders(name, SOURCE, [indices]) for name in ("ddim", "dpm++"))
            assert solver[0] < 0.8 * ddim[0], (steps, indices)


@pytest.mark.parametrize(("sampler", "eta"), [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 0.5)])
def test_samples_have_the_moments_of_the_data(sampler, eta):
    x_T, found = normal(1, 20_000), []
    for steps in (20, 100, 500):
        x0 = sample(
            gaussian(SOURCE), x_T, SOURCE, steps=steps, sampler=sampler, eta=eta,
            parameterisation="x0", x0_range=None, generator=seeded(3),
        )  # fmt: skip
        found.append(abs(x0.std().item() - SPREAD))
        assert x0.mean().item() == pytest.approx(MEAN, abs=0.015)  # four standard errors
    assert found[0] > found[1] > found[2]
    assert found[2] < 0.025 * SPREAD


@pytest.mark.parametrize("schedule", [linear_schedule(200, scaled=True), cosine_schedule(200)])
def test_short_schedules_reach_the_data_too(schedule):
    x0 = sample(
        gaussian(schedule), normal(1, 20_000), schedule, sampler="ddpm", parameterisation="x0",
        x0_range=None, generator=seeded(3),
    )  # fmt: skip
    assert x0.mean().item() == pytest.approx(MEAN, abs=0.015)
    assert 0.95 < x0.std().item() / SPREAD < 1


@pytest.mark.parametrize("steps", [None, 37])
def test_ddim_with_all_the_noise_is_ancestral(steps):
    x_T = normal(1, 500)
    arguments = {"steps": steps, "parameterisation": "x0", "x0_range": None}
    found = [
        sample(gaussian(SOURCE), x_T, SOURCE, generator=seeded(1), **arguments, **choice)
        for choice in ({"sampler": "ddpm"}, {"sampler": "ddim", "eta": 1.0})
    ]
    assert relative_error(*found) < 1e-10


@pytest.mark.parametrize(("sampler", "eta"), [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 0.7)])
def test_all_steps_are_monais(sampler, eta):
    schedulers = pytest.importorskip("monai.networks.schedulers")
    kind = schedulers.DDPMScheduler if sampler == "ddpm" else schedulers.DDIMScheduler
    theirs = kind(50, prediction_type="sample", clip_sample=False, beta_end=0.2)
    schedule, generator = linear_schedule(50, beta_end=0.2), seeded(5)
    x = x_T = normal(1, 300)
    for t in theirs.timesteps:
        arguments = {"generator": generator} | ({"eta": eta} if sampler == "ddim" else {})
        x, x0 = theirs.step(gaussian(schedule)(x, t[None]), int(t), x, **arguments)
    ours = sample(
        gaussian(schedule), x_T, schedule, sampler=sampler, eta=eta, parameterisation="x0",
        x0_range=None, generator=seeded(5),
    )  # fmt: skip
    assert relative_error(ours, x0) < 1e-5  # their tables are float32


def states(model, x_T, schedule, **arguments):
    """x_t at every index of a run."""
    found = {}
    sample(model, x_T, schedule, on_step=lambda t, x, x0: found.update({t: x}), **arguments)
    return found


def test_the_posterior_is_bayes_rule():
    x0, x_t, t = normal(4, 3, seed=1), normal(4, 3), torch.tensor([1, 2, 500, 999])
    mean, log_variance = posterior(SOURCE, x0, x_t, t)
    assert log_variance.shape == (4, 1)
    beta = SOURCE.betas[t, None]
    before = SOURCE.alphas_cumprod[t - 1, None]
    variance = 1 / ((1 - beta) / beta + 1 / (1 - before))
    exact = variance * ((1 - beta).sqrt() / beta * x_t + before.sqrt() / (1 - before) * x0)
    assert relative_error(mean, exact) < 1e-12
    assert relative_error(log_variance.exp(), variance) < 1e-9
    mean, log_variance = posterior(SOURCE, x0, x_t, torch.zeros(4, dtype=torch.int64))
    assert relative_error(mean, x0) < 1e-12
    assert (
        log_variance.unique().tolist()
        == posterior(SOURCE, x0, x_t, torch.ones_like(t))[1].unique().tolist()
    )


def test_ancestral_steps_draw_from_the_posterior():
    x0, x_T = normal(2, 3, 4, seed=1), normal(2, 3, 4)
    found = states(
        oracle(SOURCE, x0, "x0"), x_T, SOURCE, steps=[499, 500], sampler="ddpm",
        parameterisation="x0", x0_range=None, generator=seeded(7),
    )  # fmt: skip
    mean, log_variance = posterior(SOURCE, x0, x_T, torch.tensor([500, 500]))
    exact = mean + (0.5 * log_variance).exp() * normal(2, 3, 4, seed=7)
    assert relative_error(found[499], exact) < 1e-9


def test_learned_range():
    t = torch.tensor([0, 1, 500, 999])
    ends = [learned_range_log_variance(SOURCE, torch.full((4, 2, 3), v), t) for v in (-1.0, 1.0)]
    low = posterior(SOURCE, *[normal(4, 2, 3)] * 2, t)[1]
    assert relative_error(ends[0], low.expand(4, 2, 3)) < 1e-6
    assert relative_error(ends[1], SOURCE.betas[t].log().view(4, 1, 1).expand(4, 2, 3)) < 1e-6
    middle = learned_range_log_variance(SOURCE, torch.zeros(4, 2, 3), t)
    assert relative_error(middle, (ends[0] + ends[1]) / 2) < 1e-6


@pytest.mark.parametrize("steps", [[499, 500], [100, 500]])
def test_learned_variances_in_the_sampler(steps):
    x0, x_T, noise = normal(2, 3, 4, seed=1), normal(2, 3, 4), normal(2, 3, 4, seed=7)

    def after(v, stacked=True, **options):
        def model(x_t, t):
            out = oracle(SOURCE, x0, "epsilon")(x_t, t)
            if v is None:
                return out
            return (
                torch.cat([out, torch.full_like(out, v)], 1)
                if stacked
                else (out, torch.full_like(out, v))
            )

        return states(
            model, x_T, SOURCE, steps=steps, x0_range=None, generator=seeded(7),
            learned_variance=v is not None, **options,
        )[steps[0]]  # fmt: skip

    small, low, high = (after(v, sampler="ddpm") for v in (None, -1.0, 1.0))
    assert relative_error(low, small) < 1e-10
    there, here = SOURCE.alphas_cumprod[steps].tolist()
    beta = 1 - here / there
    smallest = beta * (1 - there) / (1 - here)
    exact = small + (beta**0.5 - smallest**0.5) * noise
    assert relative_error(high, exact) < 1e-10
    middle = small + ((beta * smallest) ** 0.25 - smallest**0.5) * noise
    assert relative_error(after(0.0, sampler="ddpm", stacked=False), middle) < 1e-10
    for sampler in ("ddim", "dpm++"):
        assert torch.equal(after(0.3, sampler=sampler), after(None, sampler=sampler))


# thresholds


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.995, 1.0])
def test_dynamic_threshold(quantile):
    x0 = normal(3, 2, 7, 5) * torch.tensor([0.1, 1.0, 5.0]).view(3, 1, 1, 1)
    found = diffusion.dynamic_threshold(x0, quantile)
    for row, result in zip(x0, found, strict=True):
        bound = row.abs().flatten().quantile(quantile, interpolation="higher").clamp(min=1)
        assert torch.allclose(result, row.clamp(-bound, bound) / bound)
    assert torch.equal(found[0], x0[0])  # all within the range
    shifted = diffusion.dynamic_threshold((x0 + 1) / 2, quantile, (0.0, 1.0))
    assert torch.allclose(shifted, (found + 1) / 2)


def test_samples_within_dynamic_thresholds_keep_their_proportions():
    x0 = 3 * normal(2, 1, 50, seed=1)
    for sampler in ("ddim", "dpm++", "ddpm"):
        found = sample(
            oracle(SOURCE, x0, "x0"), normal(2, 1, 50), SOURCE, steps=5, sampler=sampler,
            parameterisation="x0", dynamic_quantile=0.9,
        )  # fmt: skip
        assert torch.equal(found, diffusion.dynamic_threshold(x0, 0.9))
        assert found.abs().max() == pytest.approx(1)


# batches, randomness, types


def test_time_steps_are_each_rows_own():
    x, y, t = normal(5, 2, 3), normal(5, 2, 3, seed=1), torch.tensor([999, 0, 3, 500, 500])
    calls = [
        lambda x, y, t: diffusion.add_noise(SOURCE, x, y, t),
        lambda x, y, t: posterior(SOURCE, x, y, t)[0],
        lambda x, y, t: posterior(SOURCE, x, y, t)[1],
        lambda x, y, t: learned_range_log_variance(SOURCE, x, t),
    ]
    for name in PARAMETERISATIONS:
        for function in (diffusion.target, diffusion.to_x0, diffusion.to_noise):
            calls.append(lambda x, y, t, f=function, name=name: f(SOURCE, x, y, t, name))
    for call in calls:
        rows = [call(x[i : i + 1], y[i : i + 1], t[i : i + 1]) for i in range(5)]
        assert torch.equal(call(x, y, t), torch.cat(rows))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_results_have_the_type_of_x(dtype):
    x, y = (normal(3, 2, 50, seed=seed, dtype=dtype) for seed in (0, 1))
    t = torch.tensor([0, 500, 990])
    for call in (
        lambda x, y: diffusion.add_noise(SOURCE, x, y, t),
        lambda x, y: diffusion.target(SOURCE, x, y, t, "v"),
        lambda x, y: diffusion.to_x0(SOURCE, x, y, t, "v"),
        lambda x, y: diffusion.to_noise(SOURCE, x, y, t, "v"),
        lambda x, y: posterior(SOURCE, x, y, t)[0],
    ):
        assert call(x, y).dtype == dtype
        assert_near(call(x, y), call(x.double(), y.double()), FORWARD, dtype)
    given = []

    def model(x_t, t):
        given.append((x_t.dtype, t.dtype, t.tolist()))
        return torch.zeros_like(x_t)

    assert sample(model, x, SOURCE, steps=2, parameterisation="x0").dtype == dtype
    assert given == [(dtype, torch.int64, [999] * 3), (dtype, torch.int64, [0] * 3)]


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_the_state_of_a_run_is_never_rounded_to_16_bits(given):
    found = states(lambda x_t, t: x_t.bfloat16(), normal(2, 9, dtype=given), SOURCE, steps=3)
    assert {x.dtype for x in found.values()} == {torch.float32}
    assert list(found) == [999, 500, 0]


def test_training_may_follow_inference():
    schedule, t = linear_schedule(10), torch.tensor([3, 7])
    x, prediction = normal(2, 4), normal(2, 4, seed=1).requires_grad_()
    with torch.inference_mode():
        inferred = diffusion.to_x0(schedule, prediction, x, t, "v")
    x0 = diffusion.to_x0(schedule, prediction, x, t, "v")
    x0.sum().backward()
    assert torch.equal(x0, inferred)
    assert relative_error(prediction.grad[:, 0], -(1 - schedule.alphas_cumprod[t]).sqrt()) < 1e-12


def stochastic(x_T, generator, **options):
    return sample(
        gaussian(SOURCE), x_T, SOURCE, steps=7, parameterisation="x0", x0_range=None,
        generator=generator, **options,
    )  # fmt: skip


@pytest.mark.parametrize("options", [{"sampler": "ddpm"}, {"sampler": "ddim", "eta": 0.5}])
def test_generators(options):
    x_T = normal(4, 2, 9)
    before = torch.get_rng_state()
    first, second = (stochastic(x_T, seeded(1), **options) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, stochastic(x_T, seeded(2), **options))
    rows = stochastic(x_T, [seeded(seed) for seed in range(4)], **options)
    for i in range(4):
        assert torch.equal(rows[i : i + 1], stochastic(x_T[i : i + 1], [seeded(i)], **options))
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(UsageError, match="are 3, wanted one or 4"):
        stochastic(x_T, [seeded(seed) for seed in range(3)], **options)


@pytest.mark.parametrize("options", [{}, {"sampler": "ddpm"}, {"sampler": "dpm++"}])
@pytest.mark.parametrize("max_batch", [1, 2, 4, 100])
def test_ensembles_do_not_depend_on_their_batches(options, max_batch):
    images = torch.tensor([0.0, 10.0, 20.0])  # what x_0 of each image is
    largest = []

    def model_for(rows):
        largest.append(len(rows))
        shift = images[rows].view(-1, 1, 1)

        return lambda x_t, t: shift + 0.01 * x_t

    def run(limit):
        return ensemble(
            model_for, (3, 2, 8), SOURCE, members=4, max_batch=limit, generator=seeded(1),
            steps=5, parameterisation="x0", x0_range=None, dtype=F64, **options,
        )  # fmt: skip

    whole, parts = run(None), run(max_batch)
    assert largest == [12] + [min(max_batch, 12)] * math.ceil(12 / max_batch)
    assert torch.equal(whole, parts)
    assert whole.shape == (4, 3, 2, 8)
    assert whole.flatten().unique().numel() == whole.numel()
    assert whole.mean((0, 2, 3)).round(decimals=-1).tolist() == images.tolist()


def test_empty_batches():
    for sampler in ("ddim", "ddpm", "dpm++"):
        x = torch.zeros(0, 2, 4)
        found = sample(
            gaussian(SOURCE), x, SOURCE, steps=3, sampler=sampler, parameterisation="x0",
            dynamic_quantile=0.9,
        )  # fmt: skip
        assert found.shape == x.shape
    found = ensemble(
        lambda rows: gaussian(SOURCE), (0, 2, 4), SOURCE, members=3, generator=seeded(), steps=2
    )
    assert found.shape == (3, 0, 2, 4)


# errors


def test_a_prediction_of_another_shape_is_refused_with_both():
    x = normal(2, 3, 4)
    with pytest.raises(UsageError, match=r"returned \(2, 6, 4\) for x_t \(2, 3, 4\), wanted one"):
        sample(lambda x_t, t: torch.cat([x_t, x_t], 1), x, SOURCE, steps=2)
    with pytest.raises(UsageError, match=r"returned \(2, 3, 4\) for x_t \(2, 3, 4\), wanted twice"):
        sample(lambda x_t, t: x_t, x, SOURCE, steps=2, learned_variance=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampler": "euler"}, "sampler: is 'euler', wanted ddpm, ddim, dpm"),
        ({"sampler": "ddpm", "eta": 0.5}, "eta: is 0.5 for 'ddpm'"),
        ({"eta": 1.5}, "eta: is 1.5"),
        ({"parameterisation": "score"}, "parameterisation: is 'score', wanted epsilon, x0, v"),
        ({"steps": 0}, "steps: is 0"),
        ({"steps": [5, 3]}, "ascending"),
        ({"steps": [3, 1000]}, "ascending"),
        ({"steps": []}, "ascending"),
        ({"dynamic_quantile": 1.5}, "dynamic_quantile"),
        ({"dynamic_quantile": 0.9, "x0_range": None}, "dynamic_quantile"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(UsageError, match=message):
        sample(gaussian(SOURCE), normal(1, 2, 3), SOURCE, **({"steps": 2} | arguments))


def test_one_time_step_a_row():
    with pytest.raises(UsageError, match=r"t: is \(3,\), wanted \(B,\) of x \(2, 4\)"):
        diffusion.add_noise(SOURCE, normal(2, 4), normal(2, 4), torch.zeros(3, dtype=torch.int64))
