"""Which whole spectra have an FFT, and where it computes them."""

import math

from fastseg.ops.tables import half_spectrum

LONGEST, BINS, CUDA_BINS = 1024, 256 * 129, 96 * 96
CUDA_FILTER_BINS = 64 * 33
CUDA_FILTER_CELLS = 2700  # three tiles of so many fit the 64 KB of sm_75


def serves(sizes, modes) -> bool:
    """Tell whether the CPU's FFT of radices 2, 3 and 5 computes this spectrum: a whole one, the
    last size even and more than 2, axes up to LONGEST and planes up to BINS, so that as many
    as a vector has lanes stay in a cache.
    """
    if tuple(modes) != half_spectrum(sizes) or sizes[-1] % 2 or sizes[-1] < 4:
        return False
    return math.prod(modes[-2:]) <= BINS and all(_smooth(n) for n in sizes)


def serves_on_cuda(sizes) -> bool:
    """Tell whether CUDA's FFT in shared memory computes the whole spectrum of a grid: two or three
    axes, the last size even and more than 2, planes that fit a block of any GPU since Volta (on
    sm_75 those beyond 90² go by matrices). Of volumes that do not, a matrix takes the first axis,
    which must not be long.
    """
    if sizes[-1] % 2 or sizes[-1] < 4 or math.prod(sizes[:-1]) == 1 or len(sizes) > 3:
        return False
    if math.prod(half_spectrum(sizes)[-2:]) > CUDA_BINS or math.prod(sizes[:-2]) > 64:
        return False
    return all(_smooth(n) for n in sizes)


def filter_serves_on_cuda(sizes) -> bool:
    """Tell whether CUDA filters planes of this grid in one launch: three of them fit a block."""
    bins = math.prod(half_spectrum(sizes))
    fits = bins <= CUDA_FILTER_BINS and (sizes[0] + 4) * (sizes[-1] // 2 + 2) <= CUDA_FILTER_CELLS
    return len(sizes) == 2 and fits and serves_on_cuda(sizes)


def _smooth(size: int) -> bool:
    if not 1 <= size <= LONGEST:
        return False
    for radix in (2, 3, 5):
        while size % radix == 0:
            size //= radix
    return size == 1
