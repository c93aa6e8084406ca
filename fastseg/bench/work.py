"""The least work of a case: bytes moved once each, operations of our own algorithm after folding.

A multiply-add counts as two operations; what is small beside the rest is not counted (the folding,
normalisation, activations). Tensors and their gradients move once, a weight once a use.
"""

import math

from fastseg.bench.cases import DEFINITIONS, Case, GateCase, GaussianCase, VFFCCase
from fastseg.ops import fft, tables

# a sampled Gaussian carries less than 1e-8 of its sum beyond this many σ: erfc(x/√2) = 1e-8
_TAIL = 5.7307
# below, the response is still large at Nyquist and the circular taps fill the axis
_COMPACT_SIGMA = 1.75
_TRAINING = "forward+backward"


def flops(case: Case, which: str) -> int:
    """Count the operations of a pass of a case."""
    count = _FLOPS.get(case.family, _spectral_flops)
    return round(count(case, which == _TRAINING))


def least_bytes(case: Case, which: str, itemsize: int) -> int:
    """Count the bytes that a pass has to move.

    Args:
        case: of `fastseg.bench.cases`.
        which: one of `cases.PASSES`.
        itemsize: bytes of a number of x.
    """
    training = which == _TRAINING
    wide = 8 if itemsize == 8 else 4
    tensors, numbers = _MOVED.get(case.family, _spectral_moved)(case, training)
    return tensors * itemsize + numbers * wide


def _elements(case: Case) -> int:
    return math.prod(case.shape)


def _folded(size: int, kept: tables.Kept) -> int:
    """Multiply-adds of an axis for one line: cosines meet evens, sines odds; in an even size those
    of even and of odd frequencies have samples of their own (csrc/cpu/vector/fold.h).
    """
    k, half = kept.distinct, size // 2
    if size % 2:
        return (half + 1) * k + half * (k - 1)
    cosines = (half // 2 + 1) * ((k + 1) // 2) + (half + 1) // 2 * (k // 2)
    return cosines + (half - 1) // 2 * ((k - 1) // 2) + half // 2 * (k // 2)


def _transform(images: int, sizes, modes) -> int:
    """One truncated transform as csrc/cpu/transform.cpp does it: H, W, then D of what is kept; a
    whole spectrum as an FFT, by the usual count of 5/2·N·log₂N.
    """
    if fft.serves(sizes, modes):
        samples = math.prod(sizes)
        return round(2.5 * images * samples * math.log2(samples))
    *outer, width = sizes
    kept = tables.kept_axes(modes, True)
    per_row = _folded(width, kept[-1])
    if not outer:
        return 2 * images * per_row
    plane = _folded(outer[-1], kept[-2]) * width + (2 * kept[-2].distinct - 1) * per_row
    total = images * math.prod(outer[:-1]) * plane
    if len(outer) == 2:
        total += images * _folded(outer[0], kept[0]) * 2 * modes[1] * modes[2]
    return 2 * total


def _spectral_flops(case: Case, training: bool) -> int:
    batch, channels = case.shape[:2]
    mix = 8 * batch * channels**2 * math.prod(case.modes)
    transforms, mixes = (4, 3) if training else (2, 1)
    return transforms * _transform(batch * channels, case.sizes, case.modes) + mixes * mix


def _spectral_moved(case: Case, training: bool) -> tuple[int, int]:
    weight = case.shape[1] ** 2 * 2 * math.prod(case.modes)
    return (4 * _elements(case), 3 * weight) if training else (2 * _elements(case), weight)


def _factorised_flops(case: Case, training: bool) -> int:
    """The transforms alone: factors make of the mixing what ranks and batch allow."""
    images = math.prod(case.shape[:2])
    return (4 if training else 2) * _transform(images, case.sizes, case.modes)


def _factorised_moved(case: Case, training: bool) -> tuple[int, int]:
    return (4 if training else 2) * _elements(case), 0


def _block_flops(case: Case, training: bool) -> int:
    """The skip's product once forward, three times with its gradients and once recomputed."""
    skip = 2 * _elements(case) * case.shape[1]
    return _spectral_flops(case, training) + (4 if training else 1) * skip


def _block_moved(case: Case, training: bool) -> tuple[int, int]:
    """x is read by the transform and by the skip; the backward reads it and the gradient again."""
    tensors, weight = _spectral_moved(case, training)
    return tensors + (3 if training else 1) * _elements(case), weight


def _unit(batch: int, channels: int, sizes, training: bool) -> int:
    bins = tables.half_spectrum(sizes)
    product = 2 * batch * (2 * channels) ** 2 * math.prod(bins)
    transforms, products = (4, 3) if training else (2, 1)
    return transforms * _transform(batch * channels, sizes, bins) + products * product


def _unit_flops(case: Case, training: bool) -> int:
    return _unit(*case.shape[:2], case.sizes, training)


def _unit_moved(case: Case, training: bool) -> tuple[int, int]:
    weight = (2 * case.shape[1]) ** 2
    return (4 * _elements(case), 3 * weight) if training else (2 * _elements(case), weight)


def _vffc_split(case: VFFCCase) -> tuple[int, int]:
    wide = int(case.ratio * case.shape[1])
    return case.shape[1] - wide, wide


def _vffc_flops(case: VFFCCase, training: bool) -> int:
    """Two layers a block: three 3³ convolutions and the spectral transform of the global part."""
    local, wide = _vffc_split(case)
    batch, points = case.shape[0], math.prod(case.sizes)
    products = 27 * local * (local + 2 * wide) + wide * wide  # the two 1³ convolutions: c·c/2 each
    total = 2 * batch * points * products * (3 if training else 1)
    total += _unit(batch, wide // 2, case.sizes, training)
    if case.local:
        depth, height, width = case.sizes
        total += _unit(batch, wide // 2, (depth, -(-height // 2), -(-width // 2)), training)
    return 2 * total


def _vffc_moved(case: VFFCCase, training: bool) -> tuple[int, int]:
    """As if nothing between x and y left the cache."""
    local, wide = _vffc_split(case)
    units = 2 if case.local else 1
    weight = 2 * (27 * local * (local + 2 * wide) + wide * wide + units * wide * wide)
    return (4 * _elements(case), 3 * weight) if training else (2 * _elements(case), weight)


def taps(sigma: float, size: int, definition: str) -> int:
    """Count the multiply-adds of one axis for one number: a folded kernel of radius R needs R + 1.

    Args:
        sigma: of the Gaussian, in voxels.
        size: of the axis.
        definition: one of `cases.DEFINITIONS`.
    """
    options = DEFINITIONS[definition]
    if not options:
        radius = math.ceil(_TAIL * sigma - 0.5)
        dense = sigma < _COMPACT_SIGMA or 2 * radius + 1 > size
        return size // 2 + 1 if dense else radius + 1
    return options.get("radius", int(options.get("truncate", 0) * sigma + 0.5)) + 1


def _gaussian_flops(case: GaussianCase, training: bool) -> float:
    of_a_number = sum(
        taps(sigma, size, case.definition) for sigma in case.sigmas for size in case.sizes
    ) / len(case.sigmas)
    return 2 * _elements(case) * of_a_number * (2 if training else 1)


def _gaussian_moved(case: GaussianCase, training: bool) -> tuple[int, int]:
    """x, low and high, and the gradients of all three."""
    return (6 if training else 3) * _elements(case), 0


def _filter_flops(case: Case, training: bool) -> int:
    bins = tables.half_spectrum(case.sizes)
    images = math.prod(case.shape[:2])
    transforms, products = (4, 3) if training else (2, 1)
    return transforms * _transform(images, case.sizes, bins) + products * 6 * images * math.prod(
        bins
    )


def _filter_moved(case: Case, training: bool) -> tuple[int, int]:
    gain = case.shape[1] * 2 * math.prod(tables.half_spectrum(case.sizes))
    return (4 * _elements(case), 3 * gain) if training else (2 * _elements(case), gain)


def _gate_flops(case: GateCase, training: bool) -> int:
    """The Gaussian's folded rows, the maximum and its weight a number of the condition, the gate's
    product a feature; twice that for the gradients.
    """
    cond = math.prod(case.cond_shape) * (2 * len(case.sizes) * (case.radius + 1) + 3)
    return (cond + 2 * _elements(case)) * (3 if training else 1)


def _gate_moved(case: GateCase, training: bool) -> tuple[int, int]:
    """Condition and features in, features out; then the gradient and both inputs in, two out."""
    cond, features = math.prod(case.cond_shape), _elements(case)
    forward = cond + 2 * features
    return (forward + 2 * cond + 3 * features if training else forward), 0


_FLOPS = {
    "factorised": _factorised_flops, "fno_block": _block_flops, "fourier_unit": _unit_flops,
    "vffc": _vffc_flops, "gaussian": _gaussian_flops, "spectral_filter": _filter_flops,
    "gate": _gate_flops,
}  # fmt: skip
_MOVED = {
    "factorised": _factorised_moved, "fno_block": _block_moved, "fourier_unit": _unit_moved,
    "vffc": _vffc_moved, "gaussian": _gaussian_moved, "spectral_filter": _filter_moved,
    "gate": _gate_moved,
}  # fmt: skip
