"""The specification itself: against torch.fft, sums written out, and tables done by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
from tolerances import FORWARD, assert_near

from fastseg import reference

NORMS = ("backward", "ortho", "forward")


def randn(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=dtype)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("sizes", [(1,), (6,), (7,), (4, 6), (5, 7), (3, 4, 5), (4, 3, 6)], ids=str)
def test_all_modes_are_torch_fft(sizes, norm):
    x, dims = randn(2, 3, *sizes), tuple(range(2, 2 + len(sizes)))
    modes = (*sizes[:-1], sizes[-1] // 2 + 1)
    spectrum = reference.truncated_rfftn(x, modes, norm)
    assert_near(spectrum, torch.fft.rfftn(x, dim=dims, norm=norm), FORWARD, "rfftn")
    inverse = reference.truncated_irfftn(spectrum, sizes, norm)
    exact = torch.fft.irfftn(torch.fft.rfftn(x, dim=dims, norm=norm), s=sizes, dim=dims, norm=norm)
    assert_near(inverse, exact, FORWARD, "irfftn of a Hermitian spectrum")
    assert_near(inverse, x, FORWARD, "round trip")


@pytest.mark.parametrize(
    ("size", "x", "spectrum"),
    [
        (1, [3], [3]),
        (2, [3, 1], [4, 2]),
        (3, [1, 2, 4], [7, complex(-2, math.sqrt(3))]),
        (4, [1, 2, 4, 8], [15, complex(-3, 6), -5]),
    ],
)
def test_transforms_by_hand(size, x, spectrum):
    x, spectrum = (torch.tensor(v, dtype=d)[None, None] for v, d in
                   ((x, torch.float64), (spectrum, torch.complex128)))  # fmt: skip
    modes = (size // 2 + 1,)
    assert_near(reference.truncated_rfftn(x, modes), spectrum, FORWARD, "rfftn")
    assert_near(reference.truncated_irfftn(spectrum, (size,)), x, FORWARD, "irfftn")


@pytest.mark.parametrize(
    ("modes", "size", "two_sided", "rows"),
    [
        (1, 4, True, [0]),
        (2, 4, True, [0, 3]),
        (3, 4, True, [0, 1, 3]),
        (4, 4, True, [0, 1, 2, 3]),
        (4, 9, True, [0, 1, 7, 8]),
        (5, 9, True, [0, 1, 2, 7, 8]),
        (1, 1, True, [0]),
        (3, 9, False, [0, 1, 2]),
    ],
)
def test_kept_rows_are_ordered_as_torch_fft_orders_them(modes, size, two_sided, rows):
    assert reference.kept_rows(modes, size, two_sided) == rows
    x = randn(1, 1, size, 6)
    full = torch.fft.rfftn(x, dim=(2, 3))
    kept = reference.truncated_rfftn(x, (modes, 2), two_sided=two_sided)
    assert_near(kept, full[:, :, rows, :2], FORWARD, "kept rows")


@pytest.mark.parametrize("sizes", [(4, 6), (5, 7), (4, 5), (1, 2), (2, 1), (3, 4, 6)], ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_self_conjugate_bins_of_spectra_that_are_not_hermitian(sizes, norm):
    bins = (*sizes[:-1], sizes[-1] // 2 + 1)
    spectrum = randn(2, 1, *bins, dtype=torch.complex128)
    rows = np.fft.ifftn(spectrum.numpy(), axes=tuple(range(2, len(sizes) + 1)), norm=norm)
    rows[..., 0].imag = 0
    if sizes[-1] % 2 == 0:
        rows[..., -1].imag = 0
    exact = np.fft.irfft(rows, n=sizes[-1], axis=-1, norm=norm)
    actual = reference.truncated_irfftn(spectrum, sizes, norm)
    assert_near(actual, torch.from_numpy(exact), FORWARD, "non-Hermitian")


def double_sum(x, weight, bias, two_sided):
    """Σ_k c_k Re(Σ_i Σ_n x[i, n] e^(−2πi k·n/N) W[i, o, k] e^(2πi k·n/N)) ÷ N: 2-D, every bin by
    itself.
    """
    (height, width), (modes_h, modes_w) = x.shape[2:], weight.shape[2:]
    negative = modes_h // 2 if two_sided else 0
    frequencies = [*range(modes_h - negative), *range(-negative, 0)]
    y = np.zeros((x.shape[0], weight.shape[1], height, width))
    rows, columns = np.mgrid[:height, :width]
    for (row, ky), kx in itertools.product(enumerate(frequencies), range(modes_w)):
        wave = np.exp(2j * np.pi * (ky * rows / height + kx * columns / width))
        amplitude = np.einsum("bihw,hw->bi", x, wave.conj()) @ weight[:, :, row, kx]
        count = 1 if kx in (0, width / 2) else 2
        y += count * (amplitude[:, :, None, None] * wave).real / (height * width)
    return y + bias[:, None, None]


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize(("sizes", "modes"), [((5, 6), (3, 4)), ((6, 7), (6, 4)), ((4, 4), (2, 3))])
def test_spectral_conv_is_the_double_sum(sizes, modes, two_sided):
    x, bias = randn(2, 3, *sizes), randn(4)
    weight = randn(3, 4, *modes, dtype=torch.complex128)
    exact = double_sum(x.numpy(), weight.numpy(), bias.numpy(), two_sided)
    for given in (weight, torch.view_as_real(weight)):
        y = reference.spectral_conv(x, given, bias, two_sided=two_sided)
        assert_near(y, torch.from_numpy(exact), FORWARD, "spectral_conv")


def test_groups_are_separate_convolutions():
    x, weight = randn(2, 4, 6, 5), randn(2, 6, 3, 2, dtype=torch.complex128)
    whole = reference.spectral_conv(x, weight, groups=2)
    parts = [
        reference.spectral_conv(x[:, 2 * g : 2 * g + 2], weight[:, 3 * g : 3 * g + 3])
        for g in (0, 1)
    ]
    assert_near(whole, torch.cat(parts, 1), FORWARD, "groups")


def test_forward_norm_keeps_amplitudes_across_resolutions():
    def wave(n):
        return torch.cos(2 * torch.pi * 2 * torch.arange(n, dtype=torch.float64) / n)[None, None]

    weight = torch.ones(1, 1, 3, dtype=torch.complex128)
    y = reference.spectral_conv(wave(12), weight, sizes=(20,), norm="forward")
    assert_near(y, wave(20), FORWARD, "resolution change")
