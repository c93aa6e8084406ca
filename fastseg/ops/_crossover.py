"""Where kernels beat torch.fft: functions of the shape alone, measured."""

import math

from fastseg import plan


def full_spectra_win(device_type: str, sizes, images: int) -> bool:
    """Whether the kernels beat the FFT chain of a Fourier unit, which has no zeros to fill but real
    and imaginary parts to pack.

    Matrices along the axes do unless those are long: their multiply-adds a sample grow with the
    size, an FFT's with its logarithm. In evaluation on AVX2, in processor time: 64³ (98
    multiply-adds) 1.3 times faster, 96³ (146) 1.1, 128³ (195) 0.9; 128² (129) 0.84, 192² (193)
    0.78. The CPU's own FFT does, given planes enough to fill its vectors: a transform of planes of
    64² to 256² takes 1.1 to 1.5 ns a sample on AVX2, torch's 1.6 to 2.4, its inverse more.
    """
    bins = plan.half_spectrum(sizes)
    most = (64, 64, 96, 148)[sum(size > 1 for size in sizes)]
    work, samples = _multiply_adds(sizes, bins)
    if work <= most * samples:
        return True
    filled = images * math.prod(sizes[:-2]) >= 8
    return device_type == "cpu" and filled and plan.fft_serves(sizes, bins)


def transforms_win(device_type: str, sizes, modes) -> bool:
    """Whether the kernels beat torch.fft at truncated transforms."""
    if short_matrices_win(sizes, modes):
        return True
    return device_type == "cpu" and plan.fft_serves(sizes, modes)


def short_matrices_win(sizes, modes) -> bool:
    """Whether matrices along the axes beat an FFT: many modes on long axes do not.

    Counts multiply-adds a sample, halved by folding, and the last axis's table. The bounds are
    where the C++ kernels met torch.fft on AVX2 (`fastseg bench --only crossover`): 1.3 times faster
    at 256 multiply-adds, 0.9 at 512; in 1-D 1.1 with a table of 2^18 numbers, 0.4 with 2^20.
    """
    work, samples = _multiply_adds(sizes, modes)
    return work <= 256 * samples and sizes[-1] * modes[-1] <= 2 * 2**18


def _multiply_adds(sizes, modes) -> tuple[int, int]:
    """Those of one image's transform, halved by folding, and its samples."""
    width, columns = sizes[-1], modes[-1]
    height, rows = (sizes[-2], modes[-2]) if len(sizes) > 1 else (1, 1)
    depth, planes = (sizes[-3], modes[-3]) if len(sizes) > 2 else (1, 1)
    plane = rows * columns * width + (rows * height * width // 2 if len(sizes) > 1 else 0)
    work = depth * plane + (planes * rows * columns * depth if len(sizes) > 2 else 0)
    return work, depth * height * width
