"""Measure the intensities of a brain: what normalises it."""

import numpy as np

from fastseg.data.pipeline.intensity import PERCENTILES


def statistics(image: np.ndarray, percentiles=PERCENTILES) -> np.ndarray:
    """Measure one modality's brain, its voxels that are not 0.

    Args:
        image: stored values of any shape, int16 or float.
        percentiles: two, 0 to 100.

    Returns:
        float32 (4,): low and high, the percentiles (linear interpolation, as numpy's default), mean
        and standard deviation of the brain clipped to them. A brain of one value, or none, has
        std = inf, so that it normalises to 0.

    >>> statistics(np.array([0, 0, 1, 2, 3], np.int16), percentiles=(0, 100)).round(3)
    array([1.   , 3.   , 2.   , 0.816], dtype=float32)
    """
    brain = image[image != 0]
    if not brain.size:
        return np.array([0, 0, 0, np.inf], np.float32)
    if brain.dtype == np.int16:
        # At most 65536 different values: counting is faster than sorting for percentiles.
        values, counts = _histogram(brain)
        low, high = _percentiles(values, counts, percentiles)
    else:
        values, counts = brain.astype(np.float64), np.ones(1)
        low, high = np.percentile(values, percentiles)
    clipped = values.clip(low, high)
    mean = (clipped * counts).sum() / brain.size
    std = np.sqrt((np.square(clipped - mean) * counts).sum() / brain.size)
    return np.array([low, high, mean, std if std > 1e-6 * abs(mean) else np.inf], np.float32)


def _histogram(brain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Counting the 16-bit patterns needs no sort and no search for the range; negative values are
    # the upper half of the patterns.
    counts = np.roll(np.bincount(brain.view(np.uint16), minlength=1 << 16), 1 << 15)
    present = np.flatnonzero(counts)
    return (present - (1 << 15)).astype(np.float64), counts[present]


def _percentiles(values: np.ndarray, counts: np.ndarray, percentiles) -> np.ndarray:
    ends = counts.cumsum()
    position = np.asarray(percentiles) / 100 * (ends[-1] - 1)
    below, above = (
        values[np.searchsorted(ends, rank, side="right")]
        for rank in (np.floor(position), np.ceil(position))
    )
    return below + (above - below) * (position % 1)
