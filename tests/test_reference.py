"""The specification itself: against torch.fft, sums written out, and tables done by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
from tolerances import BACKWARD, FORWARD, assert_near
from torch import nn
from torch.nn import functional as F

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


GRIDS = [(7,), (8,), (6, 7), (5, 8), (3, 4, 5), (4, 3, 6), (1, 6), (6, 1)]


def half_spectrum(sizes):
    return (*sizes[:-1], sizes[-1] // 2 + 1)


@pytest.mark.parametrize("sizes", GRIDS, ids=str)
def test_spectral_filter_of_a_kernel_is_circular_convolution(sizes):
    ndimage = pytest.importorskip("scipy.ndimage")
    x, kernel = randn(2, 3, *sizes).numpy(), randn(3, *sizes).numpy()
    exact = np.empty_like(x)
    for b, c in np.ndindex(2, 3):
        # scipy's convolve centres the kernel at size // 2
        centred = np.roll(kernel[c], [n // 2 for n in sizes], range(len(sizes)))
        exact[b, c] = ndimage.convolve(x[b, c], centred, mode="wrap")
    gain = torch.from_numpy(np.fft.rfftn(kernel, axes=tuple(range(1, len(sizes) + 1))))
    y = reference.spectral_filter(torch.from_numpy(x), gain)
    assert_near(y, torch.from_numpy(exact), FORWARD, "circular convolution")


def test_spectral_filter_broadcasts_and_drops_what_a_real_result_cannot_have():
    x, gain = randn(2, 3, 4, 6), randn(2, 1, 4, 1)
    each = torch.cat([reference.spectral_filter(x[:, c : c + 1], gain) for c in range(3)], 1)
    assert_near(reference.spectral_filter(x, gain), each, FORWARD, "broadcast")
    assert not reference.spectral_filter(x.mean((2, 3), True).expand_as(x), gain * 1j).any()
    assert_near(reference.spectral_filter(x, torch.ones(())), x, FORWARD, "scalar")


@pytest.mark.parametrize("sizes", GRIDS, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_fourier_unit_is_conv_batch_norm_relu_between_transforms(sizes, training):
    channels, outputs, dims = 3, 2, tuple(range(2, len(sizes) + 2))
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(sizes) - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[len(sizes) - 1]
    conv = conv(2 * channels, 2 * outputs, 1, bias=False).double()
    norm = norm(2 * outputs, momentum=0.3, eps=1e-3).double().train(training)
    for values, seed in ((norm.weight, 1), (norm.bias, 2), (norm.running_mean, 3)):
        values.data.normal_(generator=torch.Generator().manual_seed(seed))
    norm.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(4))
    running = norm.running_mean.clone(), norm.running_var.clone()
    x = randn(4, channels, *sizes).requires_grad_()
    spectrum = torch.fft.rfftn(x, dim=dims, norm="ortho")
    parts = [part for c in range(channels) for part in (spectrum[:, c].real, spectrum[:, c].imag)]
    z = conv(torch.stack(parts, 1))
    hidden = torch.relu(norm(z))
    mixed = torch.complex(hidden[:, 0::2], hidden[:, 1::2])
    rows = torch.fft.ifftn(mixed, dim=dims[:-1], norm="ortho") if dims[:-1] else mixed
    exact = torch.fft.irfft(rows, n=sizes[-1], norm="ortho")

    parameters = (conv.weight, norm.weight, norm.bias)
    y = reference.fourier_unit(x, *parameters, *running, training, 0.3, 1e-3)
    assert_near(y, exact, FORWARD, "output")
    assert_near(running[0], norm.running_mean, FORWARD, "running mean")
    assert_near(running[1], norm.running_var, FORWARD, "running variance")
    grad = randn(*exact.shape)
    exact_grads = torch.autograd.grad(exact, (x, *parameters), grad, retain_graph=True)
    grads = torch.autograd.grad(y, (x, *parameters), grad)
    for name, actual, want in zip("xwgb", grads, exact_grads, strict=True):
        assert_near(actual, want, BACKWARD, name)

    mixed, total, squares = reference.fu_mix(x, conv.weight.flatten(1))
    assert_near(mixed, z, FORWARD, "z")
    count = 4 * math.prod(half_spectrum(sizes))
    assert_near(total / count, z.transpose(0, 1).flatten(1).mean(1), FORWARD, "Σ z")
    assert_near(squares / count, z.square().transpose(0, 1).flatten(1).mean(1), FORWARD, "Σ z²")


def test_fourier_unit_trains_without_running_statistics():
    x, weight, ones, zeros = randn(2, 2, 4, 5), randn(4, 4), torch.ones(4), torch.zeros(4)
    mean, var = zeros.clone(), ones.clone()
    y = reference.fourier_unit(x, weight, ones, zeros, None, None, True, 0.1, 1e-5)
    kept = reference.fourier_unit(x, weight, ones, zeros, mean, var, True, 0.1, 1e-5)
    assert torch.equal(y, kept)
    assert mean.dtype == torch.float32
    assert mean.any()
    half = reference.fourier_unit(x.half(), weight, ones, zeros, mean, var, False, 0.1, 1e-5)
    assert half.dtype == torch.float16


@pytest.mark.parametrize("sizes", GRIDS, ids=str)
@pytest.mark.parametrize("sigma", [0.4, 1.0, 3.0])
def test_circular_gaussian_is_the_exact_spectrum(sizes, sigma):
    ndimage = pytest.importorskip("scipy.ndimage")
    x = randn(2, 1, *sizes)
    exact = ndimage.fourier_gaussian(np.fft.fftn(x[0, 0]), sigma)
    exact = torch.from_numpy(np.fft.ifftn(exact).real)
    low, high = reference.gaussian_filter(x, sigma, mode="both")
    assert_near(low[0, 0], exact, FORWARD, "low")
    assert_near(high[0, 0], x[0, 0] - exact, FORWARD, "high")
    assert torch.equal(reference.gaussian_filter(x, sigma), low)
    assert torch.equal(reference.gaussian_filter(x, sigma, mode="high"), high)


@pytest.mark.parametrize("sizes", [(9,), (8, 9), (6, 9, 7)], ids=str)
@pytest.mark.parametrize(
    ("padding", "theirs"), [("circular", "wrap"), ("reflect", "mirror"), ("zeros", "constant")]
)
def test_sampled_gaussian_is_scipys(sizes, padding, theirs):
    ndimage = pytest.importorskip("scipy.ndimage")
    x, axes = randn(2, 2, *sizes), len(sizes)
    sigma = torch.tensor([0.6, 1.3, 0.9][:axes], dtype=torch.float64)
    for truncate in (2.0, 4.0):
        exact = ndimage.gaussian_filter(
            x.numpy(), sigma.tolist(), mode=theirs, truncate=truncate, axes=range(2, axes + 2)
        )
        y = reference.gaussian_filter(x, sigma, padding=padding, truncate=truncate)
        assert_near(y, torch.from_numpy(exact), FORWARD, truncate)
        bounded = reference.gaussian_filter(
            x, sigma, padding=padding, truncate=truncate, max_sigma=1.3
        )
        assert torch.equal(bounded, y)


@pytest.mark.parametrize("sizes", [(9,), (8, 9), (6, 9, 7)], ids=str)
def test_erf_gaussian_is_monais(sizes):
    GaussianFilter = pytest.importorskip("monai.networks.layers").GaussianFilter
    x = randn(2, 2, *sizes).float()
    for sigma, truncate in ((0.5, 4.0), (1.5, 3.0), (2.5, 4.0)):
        exact = GaussianFilter(len(sizes), sigma, truncated=truncate)(x)
        y = reference.gaussian_filter(x, sigma, padding="zeros", truncate=truncate, taps="erf")
        assert_near(y, exact.double(), FORWARD, sigma)


@pytest.mark.parametrize("padding", ["circular", "reflect", "constant"])
def test_radius_offset_and_sigma_of_each_image(padding):
    x = randn(2, 3, 9, 8)
    sigma, offset = randn(2, 3, 2).abs() + 0.3, randn(2, 3, 2).clamp(-1, 1)
    r = torch.arange(-3, 4)
    exact = torch.empty_like(x)
    for b, c in np.ndindex(2, 3):
        column, row = (
            torch.exp(-((r - offset[b, c, a]) ** 2) / (2 * sigma[b, c, a] ** 2)) for a in (0, 1)
        )
        kernel = torch.outer(column, row) / (column.sum() * row.sum())
        padded = F.pad(x[b, c][None, None], (3, 3, 3, 3), mode=padding)
        exact[b, c] = F.conv2d(padded, kernel[None, None])[0, 0]
    padding = {"constant": "zeros"}.get(padding, padding)
    y = reference.gaussian_filter(x, sigma, padding=padding, radius=3, offset=offset)
    assert_near(y, exact, FORWARD, "radius")


def test_offset_of_the_exact_gaussian_is_a_shift():
    x = randn(2, 1, 6, 9)
    offset = torch.tensor([2.0, -1.0])
    shifted = reference.gaussian_filter(x.roll((-2, 1), (2, 3)), 1.2)
    y = reference.gaussian_filter(x, 1.2, offset=offset)
    assert_near(y, shifted, FORWARD, "whole voxels")
    wide = reference.gaussian_filter(x, 2.0, offset=0.3)
    taps = reference.gaussian_filter(x, 2.0, offset=0.3, radius=40)
    assert_near(wide, taps, {torch.float64: 1e-7}, "part of a voxel")


@pytest.mark.parametrize(
    "options", [{}, {"truncate": 3.0}, {"radius": 2}, {"radius": 2, "taps": "erf"}], ids=str
)
def test_sigma_zero_is_the_identity(options):
    x = randn(2, 2, 6, 7)
    sigma = torch.tensor([[0.0], [1.5]], dtype=torch.float64, requires_grad=True)
    offset = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    y = reference.gaussian_filter(x, sigma, offset=offset, **options)
    assert_near(y[:, 0], x[:, 0], FORWARD, "identity")
    assert not torch.allclose(y[:, 1], x[:, 1], atol=0.1)
    grads = torch.autograd.grad(y.square().sum(), (sigma, offset))
    assert all(grad.isfinite().all() for grad in grads)
    assert grads[0][1] != 0
    assert_near(reference.gaussian_filter(x, 0.0, **options), x, FORWARD, "host sigma")


@pytest.mark.parametrize(
    ("padding", "options"),
    [
        ("circular", {}),
        ("circular", {"truncate": 2.0}),
        ("reflect", {"radius": 2}),
        ("reflect", {"truncate": 2.0, "taps": "erf"}),
        ("zeros", {"radius": 2, "taps": "erf"}),
        ("zeros", {"truncate": 2.0}),
    ],
    ids=str,
)
def test_gaussian_derivatives(padding, options):
    x = randn(2, 2, 4, 5).requires_grad_()
    sigma = torch.tensor([[0.7, 1.2], [0.9, 1.4]], dtype=torch.float64, requires_grad=True)
    offset = torch.tensor([[[0.3]], [[-0.6]]], dtype=torch.float64, requires_grad=True)

    def filtered(x, sigma, offset):
        return reference.gaussian_filter(x, sigma, "both", padding, offset=offset, **options)

    assert torch.autograd.gradcheck(filtered, (x, sigma, offset), fast_mode=True)


@pytest.mark.parametrize("sizes", [(7, 6), (5, 6, 7)], ids=str)
def test_anchor_gate_is_its_formula(sizes):
    ndimage = pytest.importorskip("scipy.ndimage")
    axes = len(sizes)
    conv = (F.conv2d, F.conv3d)[axes - 2]
    cond, feat = randn(2, 3, *sizes), randn(2, 4, *sizes)
    sigma = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    weight, bias = randn(1, 3), randn(1)
    low = np.empty(cond.shape)
    for c, s in enumerate(sigma.tolist()):
        low[:, c] = ndimage.gaussian_filter(
            cond[:, c].numpy(), s, mode="mirror", radius=2, axes=range(1, axes + 1)
        )
    anchor = torch.maximum(torch.from_numpy(low), cond)
    gate = torch.sigmoid(conv(anchor, weight.view(1, 3, *[1] * axes), bias))
    y = reference.anchor_gate(cond, feat, sigma, weight.view(1, 3, *[1] * axes), bias)
    assert_near(y, gate * feat + feat, FORWARD, "gate")
    given = sigma[:, None].expand(3, axes)
    assert torch.equal(reference.anchor_gate(cond, feat, given, weight, bias), y)
    leaves = [
        t.requires_grad_() for t in (cond, feat, sigma, weight, bias, torch.zeros(3).double())
    ]
    assert torch.autograd.gradcheck(
        lambda *a: reference.anchor_gate(*a[:-1], 1, a[-1]), leaves, fast_mode=True
    )


def test_empty_batches_have_shapes_and_gradients():
    x, weight = torch.zeros(0, 2, 4, 5), torch.eye(4).requires_grad_()
    norm = torch.ones(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    running = torch.zeros(4), torch.ones(4)
    results = {
        "spectral_filter": reference.spectral_filter(x, torch.ones(4, 3)),
        "gaussian": reference.gaussian_filter(x, 1.5),
        "taps": reference.gaussian_filter(x, torch.ones(1, 2, 2), padding="reflect", truncate=2.0),
        "gate": reference.anchor_gate(x, x, torch.ones(2), torch.ones(1, 2), torch.ones(1)),
        "fourier_unit": reference.fourier_unit(x, weight, *norm, *running, True, 0.1, 1e-5),
    }
    assert {name: tuple(y.shape) for name, y in results.items()} == dict.fromkeys(results, x.shape)
    for grad in torch.autograd.grad(results["fourier_unit"].sum(), (weight, *norm)):
        assert not grad.any()
    assert not running[0].any()
    assert running[1].eq(1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_inputs_are_rounded_once(dtype):
    x, feat = randn(2, 3, 6, 8).to(dtype), randn(2, 4, 6, 8).to(dtype)
    weight, norm = randn(8, 6).to(dtype), (randn(8), randn(8), None, None, True, 0.1, 1e-5)
    sigma, gate = torch.tensor([0.5, 1.0, 2.0]), (randn(1, 3), randn(1))
    calls = {
        "spectral_filter": lambda x: reference.spectral_filter(x, randn(4, 5)[None, None, :1]),
        "fourier_unit": lambda x: reference.fourier_unit(x, weight, *norm),
        "gaussian": lambda x: reference.gaussian_filter(x, sigma[:, None], radius=2),
        "anchor_gate": lambda x: reference.anchor_gate(x, feat.to(x.dtype), sigma, *gate),
    }
    for name, call in calls.items():
        with torch.autocast("cpu"):
            y = call(x)
        assert y.dtype == dtype, name
        assert_near(y, call(x.double()).double(), FORWARD, name)
