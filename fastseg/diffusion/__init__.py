"""Gaussian diffusion: noise schedules, samplers, ensembles, and the options of sampling."""

from fastseg.diffusion.options import Sampling
from fastseg.diffusion.samplers import (
    Model,
    OnStep,
    check_sampler,
    dynamic_threshold,
    ensemble,
    sample,
)
from fastseg.diffusion.schedules import (
    PARAMETERISATIONS,
    Schedule,
    add_noise,
    cosine_schedule,
    learned_range_log_variance,
    linear_schedule,
    logsnr_timesteps,
    posterior,
    respaced_timesteps,
    target,
    to_noise,
    to_x0,
)

__all__ = [
    "PARAMETERISATIONS",
    "Model",
    "OnStep",
    "Sampling",
    "Schedule",
    "add_noise",
    "check_sampler",
    "cosine_schedule",
    "dynamic_threshold",
    "ensemble",
    "learned_range_log_variance",
    "linear_schedule",
    "logsnr_timesteps",
    "posterior",
    "respaced_timesteps",
    "sample",
    "target",
    "to_noise",
    "to_x0",
]
