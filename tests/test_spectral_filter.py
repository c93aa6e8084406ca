"""What a spectral filter is by definition, and every way its gain can be broadcast."""

import itertools
import math

import pytest
import torch
from operators import LIVE, device_of
from tolerances import BACKWARD, F64, FORWARD, assert_near, wide

import fastseg
from fastseg import ops, reference
from fastseg.ops import impl

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread", "seeded")

DOUBLE = [name for name in LIVE if name not in ("cuda", "triton")]
SIZES = [(9,), (8,), (6, 7), (7, 8), (4, 5, 6), (3, 1, 5), (1, 2)]


def bins(sizes):
    return (*sizes[:-1], sizes[-1] // 2 + 1)


def run(function, x, gain, grad):
    leaves = [t.detach().requires_grad_() for t in (x, gain)]
    y = function(*leaves)
    return y, *torch.autograd.grad(y, leaves, grad)


@pytest.mark.parametrize("backend", DOUBLE)
@pytest.mark.parametrize("dtype", [F64, torch.complex128], ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_gains_of_every_shape(backend, dtype, sizes):
    x, grad = torch.randn(2, 2, 3, *sizes, dtype=F64).unbind()
    full = (2, 3, *bins(sizes))
    for axes in itertools.product((True, False), repeat=len(full)):
        shape = [n if whole else 1 for n, whole in zip(full, axes, strict=True)]
        gain = torch.randn(shape, dtype=dtype)
        with fastseg.use_backend(backend):
            actual = run(ops.spectral_filter, x, gain, grad)
        for have, want in zip(actual, run(reference.spectral_filter, x, gain, grad), strict=True):
            assert have.dtype == want.dtype
            assert_near(have, want, BACKWARD, shape)


@pytest.mark.parametrize("backend", LIVE)
@pytest.mark.parametrize("dims", [0, 1, 3])
def test_a_gain_may_have_fewer_axes(backend, dims):
    x, gain = torch.randn(2, 3, 6, 9), torch.randn((2, 3, 6, 5)[4 - dims :])
    with fastseg.use_backend(backend):
        y = ops.spectral_filter(x.to(device_of(backend)), gain.to(device_of(backend)))
    assert_near(y.cpu(), reference.spectral_filter(wide(x), wide(gain)), FORWARD, dims)


@pytest.mark.parametrize("backend", LIVE)
def test_a_lazily_conjugated_gain(backend):
    x, gain = torch.randn(2, 3, 6, 9), torch.randn(6, 5, dtype=torch.complex64)
    with fastseg.use_backend(backend):
        y = ops.spectral_filter(x.to(device_of(backend)), gain.to(device_of(backend)).conj())
    exact = reference.spectral_filter(wide(x), wide(gain.conj().resolve_conj()))
    assert_near(y.cpu(), exact, FORWARD, "conjugated")


@pytest.mark.parametrize("backend", LIVE)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_gain_of_one_is_the_identity(backend, sizes):
    x = torch.randn(2, 3, *sizes, device=device_of(backend))
    with fastseg.use_backend(backend):
        assert_near(ops.spectral_filter(x, x.new_ones(())), wide(x), FORWARD, sizes)


@pytest.mark.parametrize("backend", LIVE)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_real_gain_keeps_every_phase(backend, sizes):
    """A gain of |frequency| alone leaves a symmetric signal symmetric about the same sample."""
    axes = [torch.fft.fftfreq(n, dtype=F64) for n in sizes]
    axes[-1] = axes[-1][: sizes[-1] // 2 + 1]
    gain = torch.exp(-sum(f.square() for f in torch.meshgrid(*axes, indexing="ij"))).float()
    x, dims = torch.randn(2, 3, *sizes), tuple(range(2, 2 + len(sizes)))

    def mirrored(t):
        return t.flip(dims).roll([1] * len(dims), dims)

    with fastseg.use_backend(backend):
        y = ops.spectral_filter(
            (x + mirrored(x)).to(device_of(backend)), gain.to(device_of(backend))
        )
    assert_near(y, wide(mirrored(y)), FORWARD, sizes)


@pytest.mark.parametrize("backend", LIVE)
def test_a_phase_ramp_is_a_shift(backend):
    x = torch.randn(2, 3, 7, 9, device=device_of(backend))
    turns = torch.fft.fftfreq(7, dtype=F64)[:, None] * 2
    gain = torch.polar(torch.ones_like(turns), -2 * math.pi * turns).to(torch.complex64)
    with fastseg.use_backend(backend):
        y = ops.spectral_filter(x, gain.to(x.device))
    assert_near(y, wide(x.roll(2, 2)), FORWARD, "shift")


@pytest.mark.parametrize("backend", DOUBLE)
@pytest.mark.parametrize("sizes", [(4,), (5, 4), (2, 3, 4)], ids=str)
def test_gradcheck(backend, sizes):
    x = torch.randn(1, 2, *sizes, dtype=F64, requires_grad=True)
    for dtype in (F64, torch.complex128):
        gain = torch.randn(2, *bins(sizes), dtype=dtype, requires_grad=True)
        with fastseg.use_backend(backend):
            assert torch.autograd.gradcheck(ops.spectral_filter, (x, gain))


def saved_numbers(backend, x, gain):
    saved = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t)
    with hooks, fastseg.use_backend(backend):
        y = ops.spectral_filter(x, gain)  # noqa: F841 - keeps the graph
    return sum(t.numel() for t in saved)


@pytest.mark.parametrize("backend", [name for name in LIVE if name in impl.SPECTRAL])
def test_x_is_saved_for_the_gain_only(backend):
    x = torch.randn(2, 3, 6, 9, device=device_of(backend), requires_grad=True)
    gain = torch.randn(6, 5, device=device_of(backend))
    assert saved_numbers(backend, x, gain) == gain.numel()
    assert saved_numbers(backend, x, gain.requires_grad_()) == gain.numel() + x.numel()
