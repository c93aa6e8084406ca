"""Augment strongly: three of six changes of shape and intensity, each with probability 0.7.

Source: Wang & Li, "Towards Generic Semi-Supervised Framework for Volumetric Medical Image
Segmentation" (NeurIPS 2023, arXiv 2310.11320). As there, intensity factors are drawn per channel,
and scaling enlarges: the sample shows a share of its extent. Unlike there, the background stays
exactly 0: intensity changes read and write only voxels that are not 0.

Runs in torch on the batch's device, after the loader's DALI or torch stage, with numbers drawn from
each sample's seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

OPERATIONS = ("rotate", "scale", "blur", "brightness", "contrast", "gamma")
PICKED = 3
PROBABILITY = 0.7
DEGREES = (-15.0, 15.0)
BLUR_SIGMA_VOXELS = (0.7, 1.3)
# of slices and of volumes; what the source leaves to its library is that library's default
SCALE = {2: (0.5, 1.0), 3: (0.7, 1.0)}
BRIGHTNESS = {2: (0.5, 2.0), 3: (0.7, 1.3)}
CONTRAST = {2: (0.5, 1.5), 3: (0.7, 1.3)}
GAMMA = {2: (0.5, 2.0), 3: (0.7, 1.3)}
_STREAM = 2**32 - 3  # fourth word of the seed, apart from the sample's other draws
_BLUR_REACH_SIGMAS = 4


@dataclass(frozen=True)
class Change:
    """Hold what one sample undergoes; None is not done.

    degrees: in-plane angle, positive as np.rot90. scale: the share of every axis that is shown.
    sigma: of the Gaussian, in voxels. brightness, contrast, gamma: a factor or power per channel.
    """

    degrees: float | None = None
    scale: float | None = None
    sigma: float | None = None
    brightness: tuple[float, ...] | None = None
    contrast: tuple[float, ...] | None = None
    gamma: tuple[float, ...] | None = None


def draw(seed: tuple[int, int, int], axes: int, channels: int) -> Change:
    """Draw the change of a sample.

    Args:
        seed: (seed, epoch, sample).
        axes: 2 of a slice, 3 of a volume.
        channels: of its image.

    >>> draw((0, 0, 3), axes=2, channels=1) == draw((0, 0, 3), axes=2, channels=1)
    True
    """
    rng = np.random.default_rng((*seed, _STREAM))
    picked = rng.permutation(len(OPERATIONS))[:PICKED]
    done = {OPERATIONS[i] for i in picked[rng.random(PICKED) < PROBABILITY]}
    # everything is drawn, so that one operation's number does not hang on another's
    values = {
        "degrees": ("rotate", float(rng.uniform(*DEGREES))),
        "scale": ("scale", float(rng.uniform(*SCALE[axes]))),
        "sigma": ("blur", float(rng.uniform(*BLUR_SIGMA_VOXELS))),
        "brightness": ("brightness", _factors(rng, BRIGHTNESS[axes], channels)),
        "contrast": ("contrast", _factors(rng, CONTRAST[axes], channels)),
        "gamma": ("gamma", _factors(rng, GAMMA[axes], channels)),
    }
    return Change(**{name: value for name, (op, value) in values.items() if op in done})


def _factors(rng: np.random.Generator, limits: tuple[float, float], n: int) -> tuple[float, ...]:
    """Draw below and above 1 with equal probability, uniform on either side."""
    low, high = limits
    below = rng.random(n) < 0.5
    return tuple(np.where(below, rng.uniform(low, 1, n), rng.uniform(1, high, n)).tolist())


def augment(
    image: torch.Tensor, label: torch.Tensor, seeds: Sequence[tuple[int, int, int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Change a batch as `draw` says for each seed; the inputs stay as they are.

    Image and label move together, linearly interpolated and nearest; what comes from outside is 0.
    Samples are treated one by one: none depends on its batch.

    Args:
        image: float32 (B, C, *S), S of two or three axes, D first.
        label: uint8 (B, *S).
        seeds: (seed, epoch, sample) of each.

    >>> image, label = torch.rand(1, 2, 8, 8), torch.zeros(1, 8, 8, dtype=torch.uint8)
    >>> changed, _ = augment(image, label, [(0, 0, 3)])
    >>> changed.shape, bool((changed != image).any())
    (torch.Size([1, 2, 8, 8]), True)
    """
    axes, channels = label.ndim - 1, image.shape[1]
    pairs = [
        change_sample(x, y, draw(seed, axes, channels))
        for x, y, seed in zip(image, label, seeds, strict=True)
    ]
    images, labels = zip(*pairs, strict=True)
    return torch.stack(images), torch.stack(labels)


def change_sample(
    image: torch.Tensor, label: torch.Tensor, change: Change
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply a change to one sample: shape first, then intensities.

    Args:
        image: float32 (C, *S).
        label: uint8 (*S).
        change: what to do.

    >>> image, label = torch.ones(1, 4, 4), torch.zeros(4, 4, dtype=torch.uint8)
    >>> float(change_sample(image, label, Change(brightness=(1.5,)))[0].mean())
    1.5
    """
    if change.degrees is not None or change.scale is not None:
        image, label = _resample(image, label, change.degrees or 0.0, change.scale or 1.0)
    if change.sigma is not None:
        image = _blur(image, change.sigma)
    brain = image != 0
    for operation, factors in (
        (_brightness, change.brightness),
        (_contrast, change.contrast),
        (_gamma, change.gamma),
    ):
        if factors is not None:
            factor = torch.tensor(factors, device=image.device).view(-1, *[1] * label.ndim)
            image = torch.where(brain, operation(image, brain, factor), image)
    return image, label


def _resample(image: torch.Tensor, label: torch.Tensor, degrees: float, scale: float):
    flat = label.ndim == 2
    volume = image[None, :, None] if flat else image[None]
    classes = label[None, None, None] if flat else label[None, None]
    depth, height, width = volume.shape[2:]
    cos, sin = scale * np.cos(np.deg2rad(degrees)), scale * np.sin(np.deg2rad(degrees))
    # grid_sample's coordinates run from -1 to 1 along every axis: turning mixes voxels, not those
    matrix = [
        [cos, -sin * height / width, 0, 0],
        [sin * width / height, cos, 0, 0],
        [0, 0, 1 if flat else scale, 0],
    ]
    theta = torch.tensor(matrix, dtype=torch.float32, device=image.device)[None]
    grid = F.affine_grid(theta, [1, 1, depth, height, width], align_corners=False)
    moved = F.grid_sample(volume, grid, align_corners=False)
    chosen = F.grid_sample(classes.float(), grid, mode="nearest", align_corners=False)
    return moved.view(image.shape), chosen.to(label.dtype).view(label.shape)


def _blur(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur along every axis of (C, *S) by a Gaussian; the background stays 0."""
    reach = int(_BLUR_REACH_SIGMAS * sigma + 0.5)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / sigma) ** 2)
    taps = (taps / taps.sum()).float().tolist()
    low = image
    for axis in range(1, image.ndim):
        padding = [0, 0] * (image.ndim - 1 - axis) + [reach, reach]
        wide = F.pad(low, padding)
        length = image.shape[axis]
        # shifted sums, so that the order of additions is the same on every machine
        low = sum(tap * wide.narrow(axis, i, length) for i, tap in enumerate(taps))
    return torch.where(image == 0, image, low)


def _brightness(x: torch.Tensor, brain: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return x * factor


def _contrast(x: torch.Tensor, brain: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Move values away from their mean or towards it, within the range from before."""
    low, high, mean = *_range(x, brain), _mean(x, brain)
    return torch.minimum(torch.maximum((x - mean) * factor + mean, low), high)


def _gamma(x: torch.Tensor, brain: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """Take a power of x mapped to [0, 1], with the mean and spread from before."""
    low, high = _range(x, brain)
    curve = ((x - low) / (high - low).clamp_min(1e-7)).clamp(0, 1) ** power
    before, after = _mean(x, brain), _mean(curve, brain)
    variance = _mean((x - before) ** 2, brain)
    gain = (variance / _mean((curve - after) ** 2, brain).clamp_min(1e-12)).sqrt()
    return (curve - after) * gain + before


def _range(x: torch.Tensor, brain: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    axes = tuple(range(1, x.ndim))
    low = torch.where(brain, x, torch.inf).amin(axes, keepdim=True)
    return low, torch.where(brain, x, -torch.inf).amax(axes, keepdim=True)


def _mean(x: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
    # summed in float64, the number of threads hardly ever shows in the rounded result
    axes = tuple(range(1, x.ndim))
    total = torch.where(brain, x, 0).sum(axes, keepdim=True, dtype=torch.float64)
    return (total / brain.sum(axes, keepdim=True).clamp_min(1)).to(x.dtype)
