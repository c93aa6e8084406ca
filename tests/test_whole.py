"""Whole spectra, which an FFT computes where the sizes have the factors 2, 3 and 5."""

import itertools

import pytest
import torch
from tolerances import BACKWARD, BF16, F16, F32, F64, FORWARD, assert_near, wide

import fastseg
from fastseg import ops, reference
from fastseg.ops import fft, impl, tables

pytestmark = pytest.mark.usefixtures("poisoned_memory")
BACKENDS = [name for name in ("cpu", "cuda") if fastseg.backends()[name]]

# every radix alone and with others, odd and single outer sizes, rows that fill no vector
SIZES = [
    (4,), (18,), (5, 4), (9, 10), (16, 16), (1, 12), (25, 6), (64, 30),
    (2, 3, 8), (15, 1, 20), (16, 8, 4),
]  # fmt: skip
IMAGES = [(2, 4), (3, 11)]  # of a plane each: half a vector of planes, and a last vector not full


def test_which_spectra_an_fft_serves():
    assert all(fft.serves(sizes, tables.half_spectrum(sizes)) for sizes in SIZES)
    for sizes in [(7, 8), (8, 14), (8, 9), (8, 2), (11, 4, 4)]:
        assert not fft.serves(sizes, tables.half_spectrum(sizes))
    assert not fft.serves((8, 8), (8, 4))
    assert not fft.serves((8, 8), (7, 5))


def test_which_spectra_an_fft_serves_on_cuda():
    served = [sizes for sizes in SIZES if len(sizes) > 1 and sizes != (1, 12)]
    assert all(map(fft.serves_on_cuda, served))
    for sizes in [(16,), (1, 12), (7, 8), (8, 9), (8, 2), (256, 256), (128, 8, 8), (2, 2, 4, 4)]:
        assert not fft.serves_on_cuda(sizes)
    assert fft.filter_serves_on_cuda((64, 64))
    assert not fft.filter_serves_on_cuda((80, 64))
    assert not fft.filter_serves_on_cuda((4, 8, 8))


def on(backend, dtype):
    device = impl.SERVES[backend]
    if reason := impl.unable(backend, device, dtype):
        pytest.skip(reason)
    return device


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [F32, F64, F16, BF16], ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_transforms_and_their_adjoints(backend, sizes, dtype):
    device = on(backend, dtype)
    modes = tables.half_spectrum(sizes)
    for images, (norm, two_sided) in itertools.product(
        IMAGES, (("ortho", True), ("forward", False))
    ):
        x = torch.randn(*images, *sizes).to(device, dtype).requires_grad_()
        exact = wide(x.detach()).requires_grad_()
        with fastseg.use_backend(backend):
            spectrum = ops.truncated_rfftn(x, modes, norm, two_sided)
            gradient = torch.randn_like(spectrum.detach())
            (dx,) = torch.autograd.grad(spectrum, x, gradient)
            y = ops.truncated_irfftn(gradient, sizes, norm, two_sided, dtype)
        want = reference.truncated_rfftn(exact, modes, norm, two_sided)
        (dwant,) = torch.autograd.grad(want, exact, gradient.to(want.dtype))
        assert_near(
            torch.view_as_real(spectrum.detach()), torch.view_as_real(want.detach()), FORWARD, sizes
        )
        assert_near(dx, dwant, BACKWARD, sizes)
        back = reference.truncated_irfftn(gradient.to(want.dtype), sizes, norm, two_sided)
        assert_near(y, back, FORWARD, sizes)


@pytest.mark.skipif("cpu" not in BACKENDS, reason="no CPU kernels in this build")
@pytest.mark.parametrize("dtype", [F32, F64, F16], ids=str)
@pytest.mark.parametrize("sizes", [(2, 3, 8), (16, 8, 4), (9, 10)], ids=str)
def test_results_are_the_same_in_any_number_of_threads(threads, sizes, dtype):
    """Few threads take small volumes as a whole, more of them planes."""
    x, modes, found = torch.randn(2, 16, *sizes).to(dtype), tables.half_spectrum(sizes), []
    bias = torch.randn(16, dtype=F64 if dtype == F64 else F32)
    for count in (1, 2, 16):
        threads(count)
        with fastseg.use_backend("cpu"):
            spectrum = ops.truncated_rfftn(x, modes)
            y = ops.spectral_conv(x, torch.ones_like(spectrum[:1]), bias, groups=16)
        found.append((torch.view_as_real(spectrum), y))
    want = reference.truncated_rfftn(wide(x), modes)
    assert_near(found[0][0], torch.view_as_real(want), FORWARD, sizes)
    assert_near(found[0][1], wide(x) + wide(bias).view(16, *[1] * len(sizes)), FORWARD, sizes)
    for others in found[1:]:
        assert all(map(torch.equal, others, found[0]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [F32, F64, BF16], ids=str)
@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize(
    ("images", "sizes"),
    [((9, 32), (6, 10)), ((2, 19), (8, 32)), ((1, 11), (27, 4)), ((10, 27), (6, 10))],
    ids=str,
)
def test_filters_in_one_visit(backend, images, sizes, kind, dtype):
    """Batches of more than a chunk, channels that fill vectors and that do not; rows of one pass
    and of several.
    """
    device = on(backend, dtype)
    x, gradient = torch.randn(2, *images, *sizes).to(device, dtype).unbind()
    full = (*images, *tables.half_spectrum(sizes))
    for whole in itertools.product((True, False), repeat=2):
        gain = torch.randn(
            *(n if w else 1 for n, w in zip(images, whole, strict=True)), *full[2:], 2
        )
        gain = gain.to(device, F64 if dtype == F64 else F32)
        gain = torch.view_as_complex(gain) if kind == "complex" else gain[..., 0]
        with fastseg.use_backend(backend):
            actual = _run(ops.spectral_filter, x, gain, gradient)
        for have, want in zip(
            actual,
            _run(reference.spectral_filter, wide(x), wide(gain), wide(gradient)),
            strict=True,
        ):
            assert_near(have, want, BACKWARD, gain.shape)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sizes", [(8, 12), (4, 8, 12)], ids=str)
def test_samples_that_start_between_two_pairs(backend, sizes):
    x, gain = torch.randn(1, 3, *sizes, device=on(backend, F32)), torch.randn(sizes[-1] // 2 + 1)
    shifted = torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)
    with fastseg.use_backend(backend):
        y = ops.spectral_filter(shifted, gain.to(x.device))
        assert torch.equal(y, ops.spectral_filter(x, gain.to(x.device)))


def _run(function, x, gain, gradient):
    leaves = [t.detach().requires_grad_() for t in (x, gain)]
    y = function(*leaves)
    return y.detach(), *torch.autograd.grad(y, leaves, gradient)
