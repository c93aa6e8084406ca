"""Choose where samples of a case lie, and cut them out in the stored dtype."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fastseg.data.pipeline import augment
from fastseg.data.pipeline.decode import Brain
from fastseg.data.pipeline.intensity import Rule


@dataclass(frozen=True)
class Sample:
    """Hold one sample before the device stage.

    case: its id. seed: (seed, epoch, sample). image: (C, D, H, W), int16 or float32 as stored, D =
    1 for slices. label: (D, H, W) uint8. stats: (4, C, 1 or D, 1, 1) float32. transform: what the
    device stage does to it.
    """

    case: str
    seed: tuple[int, int, int]
    image: np.ndarray
    label: np.ndarray
    stats: np.ndarray
    transform: augment.Transform


def cut_samples(brain: Brain, case_id: str, seeds, config) -> list[Sample]:
    """Cut samples out of a decoded case.

    A share of `config.foreground_fraction` of all sample numbers is centred on the tumour, when
    the case has one; the others on brain outside it. None centres all on brain of either kind.

    Args:
        brain: the case's box.
        case_id: its id.
        seeds: (seed, epoch, sample) of each sample, all that its draws depend on.
        config: a `LoaderConfig`.

    >>> from fastseg.data import phantom
    >>> from fastseg.data.cases import discover
    >>> from fastseg.data.pipeline import LoaderConfig
    >>> from fastseg.data.pipeline.source import CaseSource
    >>> dataset = discover(phantom.write("phantoms", cases=1, size=(32, 32, 24)))
    >>> config = LoaderConfig(patch=(16, 16))
    >>> name, brain = CaseSource(dataset, ["Phantom00000"], config).get(0)
    >>> [sample] = cut_samples(brain, name, [(0, 0, 7)], config)
    >>> sample.image.shape, sample.image.dtype.name, sample.label.shape
    ((4, 1, 16, 16), 'int16', (1, 16, 16))
    """
    blind = config.foreground_fraction is None
    label = np.zeros_like(brain.label) if blind else brain.label
    places = _Places(brain, label, config.rule, config.least_brain)
    pick = places.pick_slice if len(config.patch) == 2 else places.pick_voxel
    size = (1, *config.patch)[-3:]
    samples = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        centre = pick(rng, _on_tumour(seed[-1], config.foreground_fraction or 0))
        image, label, stats = cut(brain, centre, size, config.rule)
        transform = augment.draw(rng, config)
        if config.flip_depth and rng.random() < 0.5:
            turned = image[:, ::-1], label[::-1], stats[:, :, ::-1]
            image, label, stats = map(np.ascontiguousarray, turned)
        samples.append(Sample(case_id, seed, image, label, stats, transform))
    return samples


def _on_tumour(sample: int, fraction: float) -> bool:
    # True exactly round(fraction * n) times in any run of n samples, give or take one.
    return int((sample + 1) * fraction) > int(sample * fraction)


class _Places:
    """Know where tumour and brain lie in a `Brain`, worked out once for all of its samples."""

    def __init__(self, brain: Brain, label: np.ndarray, rule: Rule, least: float):
        self.brain, self.rule, self.least = brain, rule, least
        self.tumour = label != 0
        self.tumour_slices = np.flatnonzero(self.tumour.any(axis=(1, 2)))

    @cached_property
    def tumour_voxels(self) -> np.ndarray:
        """Return flat indices of the tumour's voxels in the box."""
        return np.flatnonzero(self.tumour)

    @cached_property
    def other_slices(self) -> np.ndarray:
        """Return the axial slices with (enough) brain and no tumour; where the tumour is in each,
        those with brain.
        """
        filled = [self.rule.filled(image) for image in self.brain.images]
        slices = np.flatnonzero(np.logical_or.reduce([image.any(axis=(1, 2)) for image in filled]))
        if self.least:
            area = np.logical_or.reduce(filled).sum(axis=(1, 2))
            large = np.flatnonzero(area >= self.least * math.prod(self.brain.shape[1:]))
            slices = large if large.size else slices
        clean = np.setdiff1d(slices, self.tumour_slices, assume_unique=True)
        return clean if clean.size else slices

    def pick_slice(self, rng, on_tumour: bool) -> tuple[int, ...]:
        """Draw a voxel (z, y, x) of the box on an axial slice with tumour, or with brain only."""
        if on_tumour and self.tumour_slices.size:
            z = rng.choice(self.tumour_slices)
            return (z, *_random_voxel(rng, self.tumour[z]))
        z = rng.choice(self.other_slices)
        return (z, *_random_voxel(rng, self._healthy(np.s_[z])))

    def pick_voxel(self, rng, on_tumour: bool) -> tuple[int, ...]:
        """Draw a tumour voxel (z, y, x) of the box, or a brain voxel outside the tumour."""
        if on_tumour and self.tumour_slices.size:
            return np.unravel_index(rng.choice(self.tumour_voxels), self.tumour.shape)
        # Most of the box is brain: a few guesses nearly always spare a scan of the volume.
        guesses = rng.integers(0, self.tumour.shape, (64, 3))
        hits = np.flatnonzero(self._healthy(tuple(guesses.T)))
        if hits.size:
            return tuple(guesses[hits[0]])
        return _random_voxel(rng, self._healthy(np.s_[:]))

    def _healthy(self, where) -> np.ndarray:
        filled = [self.rule.filled(image[where]) for image in self.brain.images]
        brain = np.logical_or.reduce(filled)
        healthy = brain & ~self.tumour[where]
        return healthy if healthy.any() else brain


def _random_voxel(rng, mask: np.ndarray) -> tuple[int, ...]:
    return np.unravel_index(rng.choice(np.flatnonzero(mask)), mask.shape)


def cut(brain: Brain, centre, size: tuple[int, int, int], rule: Rule):
    """Cut a crop around a voxel of the box.

    The crop is moved to lie inside the volume; along an axis where it is larger than the volume
    it is centred. What lies outside the box is background.

    Args:
        brain: the case's box.
        centre: (z, y, x) in the box.
        size: (D, H, W) of the crop.
        rule: says what background is, and which statistics go with the crop.

    Returns:
        image (C, *size) as stored, label uint8 (*size), stats float32 (4, C, 1 or D, 1, 1).
    """
    start = map(_start, centre, brain.origin, size, brain.shape)
    inside, target = zip(*map(_overlap, start, size, brain.origin, brain.label.shape), strict=True)
    stored = brain.images[0].dtype
    image = np.full((len(brain.images), *size), math.floor(rule.floor), stored)
    for channel, source in zip(image, brain.images, strict=True):
        channel[target] = source[inside]
    label = np.zeros(size, np.uint8)
    label[target] = brain.label[inside]
    if not rule.per_slice:
        return image, label, rule.rows(brain.stats)[:, :, None, None, None]
    stats = np.full((4, len(image), size[0]), np.inf, np.float32)
    stats[:3] = 0
    planes = [image[inside[0]] for image in brain.images]
    stats[:, :, target[0]] = slice_range(planes, brain.label.shape[1:] != brain.shape[1:])
    return image, label, stats[..., None, None]


def _start(centre: int, first: int, want: int, full: int) -> int:
    if want >= full:
        return (full - want) // 2
    return int(np.clip(centre + first - want // 2, 0, full - want))


def _overlap(start: int, want: int, first: int, length: int) -> tuple[slice, slice]:
    low, high = max(start, first), min(start + want, first + length)
    high = max(low, high)
    return slice(low - first, high - first), slice(low - start, high - start)


def slice_range(images: list[np.ndarray], with_zero: bool = False) -> np.ndarray:
    """Return the rows that map each axial slice to 0 … 1: low, high, low, high - low.

    Args:
        images: C arrays (D, H, W).
        with_zero: zeros around them were cut off, which are part of the range.

    Returns:
        float32 (4, C, D); the last row is inf for slices of one value.

    >>> slice_range([np.array([[[2, 6]], [[3, 3]]])])[:, 0]
    array([[ 2.,  3.],
           [ 6.,  3.],
           [ 2.,  3.],
           [ 4., inf]], dtype=float32)
    """
    low = np.stack([image.min(axis=(1, 2)) for image in images]).astype(np.float32)
    high = np.stack([image.max(axis=(1, 2)) for image in images]).astype(np.float32)
    if with_zero:
        low, high = low.clip(max=0), high.clip(min=0)
    spread = high - low
    return np.stack([low, high, low, np.where(spread > 0, spread, np.float32(np.inf))])
